"""Which measurements may stand beside each other."""

from topk_plugin.evaluation.comparable import differences


def test_only_what_decides_a_value_counts():
    one = {
        "extractor": "imagenet",
        "weights_sha256": "a" * 64,
        "input_size": 96,
        "samples": 5000,
        "reason": "asked for",
    }
    assert differences(one, {**one, "reason": "no download", "feature_dims": 1280}) == []
    other = {**one, "input_size": 128, "weights_sha256": "b" * 64}
    assert differences(one, other) == [
        "weights_sha256 aaaaaaaa and bbbbbbbb",
        "input_size 96 and 128",
    ]
    # a run from before a fact was recorded is not taken for equal
    del other["input_size"]
    assert "input_size 96 and (none)" in differences(one, other)


def test_two_measurements_of_one_extractor(stripes, cache):
    import torch

    from topk_plugin.evaluation.evaluator import Evaluator

    def described(data, **arguments):
        given = {"extractor": "builtin", "device": torch.device("cpu"), "seed": 0, **arguments}
        return Evaluator(data, metrics=["fid", "kid"], **given).describe(samples=50)

    first = described(stripes())
    assert differences(first, described(stripes(name="another name"), seed=1)) == []
    (weights, _, reference) = differences(first, described(stripes(seed=1)))
    assert weights.startswith("weights_sha256")
    assert reference.startswith("reference_fingerprint")
