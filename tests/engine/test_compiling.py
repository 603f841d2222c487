"""The trainer with compiled networks."""

import pytest
import torch

from tests.engine.tiny import ICR, gate_of, tiny_config, tiny_images
from topk_plugin.engine import compiling
from topk_plugin.engine.methods.topk import k_of
from topk_plugin.engine.trainer import Trainer


def _float64(trainer: Trainer) -> Trainer:
    """The same trainer in double precision, in which rounding can't be mistaken for an error."""
    trainer.generator.double()
    trainer.critic.double()
    latents = trainer.latents.latents
    trainer.latents.latents = lambda count: latents(count).double()  # type: ignore[method-assign]
    batches = trainer.stream.next_step
    trainer.stream.next_step = lambda: [b._replace(images=b.images.double()) for b in batches()]  # type: ignore[method-assign]
    return trainer


def test_compiled_steps_are_the_eager_ones() -> None:
    no_average = {"MODEL": {"apply_g_ema": False}}
    eager, compiled = (
        _float64(Trainer(config, tiny_images(), seed=0, device=torch.device("cpu"), compiled=c))
        for config in [tiny_config(ICR, no_average)]
        for c in (False, True)
    )
    for _ in range(3):  # k falls after the second
        expected, losses = eager.step(), compiled.step()
        for name, loss in expected.items():
            torch.testing.assert_close(losses[name], loss, rtol=1e-8, atol=1e-8)
    assert k_of(compiled.terms) == k_of(eager.terms) < 8
    assert torch.equal(gate_of(compiled).stats.mask, gate_of(eager).stats.mask)
    for own, other in (
        (compiled.generator, eager.generator),
        (compiled.critic, eager.critic),
    ):
        assert own.state_dict().keys() == other.state_dict().keys()
        # u and v too: one power iteration a forward pass
        for name, value in other.state_dict().items():
            torch.testing.assert_close(own.state_dict()[name], value, rtol=1e-6, atol=1e-8)

    # a copy for samples computes with its own weights, not with those it was compiled for
    z, labels = torch.randn(4, 8, dtype=torch.float64), torch.arange(4)
    sampler = compiled.sampler()
    before = sampler(z, labels)
    with torch.no_grad():
        compiled.generator.conv2d5.weight_orig.mul_(0.5)
        compiled.generator.bn4.weight.zero_()
    assert torch.equal(sampler(z, labels), before)


def test_a_compiler_that_is_there() -> None:
    assert compiling.why_compiling_fails(torch.device("cpu")) is None


def test_a_missing_compiler_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(function: object) -> object:
        raise RuntimeError("\n  No working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", no_compiler)
    reason = compiling.why_compiling_fails(torch.device("cpu"))
    assert reason == "No working C++ compiler found"


def test_old_torch_is_said_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.4.1+cpu")
    reason = compiling.why_compiling_fails(torch.device("cpu"))
    assert reason == "it needs torch 2.5, this is 2.4.1+cpu"
