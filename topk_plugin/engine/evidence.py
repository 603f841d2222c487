"""What was measured about settings that a run is about to use."""

from topk_plugin.engine.config.config import Config


def describe_evidence(config: Config) -> list[str]:
    """A line where the run's settings lie where top-k training was seen to hurt, else none.

    Where that is comes from the map in docs/mixture.md (benchmarks/results/mixture-map), a test
    holds the two together. It is about small networks on 2-D data: a reason to compare, no more.
    """
    optimization, loss = config.OPTIMIZATION, config.LOSS
    slow_second_moment = optimization.beta1 <= 0.5 and optimization.beta2 >= 0.999
    if not loss.apply_topk or optimization.type_ != "Adam" or not slow_second_moment:
        return []
    assert loss.topk_nu is not None  # checked with the config
    line = (
        f"note: with Adam's betas {optimization.beta1:g} and {optimization.beta2:g} top-k cost "
        "sample quality on the mixture of Gaussians (docs/mixture.md)"
    )
    if loss.topk_nu < 0.5:
        line += f", the more the lower nu; here nu is {loss.topk_nu:g}"
    return [f"{line}; compare with the same seed and LOSS.apply_topk=false"]
