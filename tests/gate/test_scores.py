"""Critic outputs of every shape -> one score a sample."""

import math

import pytest
import torch

from topk_plugin.gate.scores import extract_scores

N = 4
PLAIN = torch.tensor([1.0, -2.0, 3.0, 0.5])


@pytest.mark.parametrize(
    ("output", "score"),
    [
        (PLAIN, None),
        (PLAIN[:, None], None),
        (PLAIN[:, None, None, None], None),
        ({"adv_output": PLAIN, "h": torch.zeros(N, 9)}, "adv_output"),
        ((torch.zeros(N, 9), PLAIN), 1),
        ([torch.zeros(N, 9), PLAIN[:, None]], -1),
        ({"a": {"b": PLAIN}}, lambda out: out["a"]["b"]),
        ([PLAIN, PLAIN], None),
    ],
)
def test_scores_are_found(output, score) -> None:
    assert torch.equal(extract_scores(output, score, N), PLAIN)


def test_patch_critic_is_averaged_over_its_patches() -> None:
    patches = torch.randn(N, 1, 5, 3, generator=torch.Generator().manual_seed(0))
    by_hand = torch.stack([patches[i].sum() / 15 for i in range(N)])
    assert torch.allclose(extract_scores(patches, None, N), by_hand)


def test_scales_count_equally_whatever_their_size() -> None:
    small, large = torch.randn(N, 1, 2, 2), torch.randn(N, 1, 8, 8)
    scores = extract_scores({"scales": [small, large]}, "scales", N)
    by_hand = (small.mean(dim=(1, 2, 3)) + large.mean(dim=(1, 2, 3))) / 2
    assert torch.allclose(scores, by_hand)


def test_half_precision_patches_do_not_overflow() -> None:
    patches = torch.full((N, 1, 64, 64), 60_000.0, dtype=torch.float16)
    assert extract_scores(patches, None, N).tolist() == [60_000.0] * N


def test_nan_patch_makes_its_sample_nan_only() -> None:
    patches = torch.ones(N, 1, 2, 2)
    patches[2, 0, 1, 1] = math.nan
    assert torch.isnan(extract_scores(patches, None, N)).tolist() == [False, False, True, False]


def test_squeezed_output_at_batch_one() -> None:
    assert extract_scores(torch.tensor(2.5), None, 1).tolist() == [2.5]


def test_scores_carry_no_gradient() -> None:
    scores = extract_scores(PLAIN.clone().requires_grad_(), None, N)
    assert not scores.requires_grad


@pytest.mark.parametrize(
    ("output", "score", "message"),
    [
        ({"adv": PLAIN, "h": PLAIN}, None, "pass score=KEY, one of 'adv', 'h'"),
        ((PLAIN, PLAIN), None, "tuple of 2: pass score=INDEX"),
        ({"adv": PLAIN}, "logits", "which has keys 'adv'"),
        ((PLAIN,), 3, "which has 1 elements"),
        (PLAIN, "adv", "needs a critic that returns a mapping"),
        ({"adv": PLAIN}, 0, "needs a critic that returns a tuple or list"),
        ([PLAIN[:, None], PLAIN], None, r"pass score=INDEX of the scores"),
        (torch.zeros(N, 10), None, r"score=lambda output: output.flatten\(1\).mean\(1\)"),
        (torch.zeros(N + 1), None, "if the critic saw other samples too, use step.gate"),
        (torch.zeros(N // 2, 1), None, "a pack of 2 samples, gate the packed view"),
        (torch.zeros(3 * N), None, r"has 3 of them, .* output.reshape\(-1, 4\).mean\(0\)"),
        (torch.tensor(1.0), None, "attach to the inner module that returns one score a sample"),
        (torch.zeros(N, dtype=torch.int64), None, "floating-point"),
    ],
)
def test_what_cannot_be_scores_is_refused_with_the_remedy(output, score, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extract_scores(output, score, N)


def test_the_remedies_for_shapes_do_what_they_say() -> None:
    rows = torch.randn(N, 7)
    scores = extract_scores(rows, lambda output: output.flatten(1).mean(1), N)
    assert torch.allclose(scores, rows.mean(1))
    repeats = torch.randn(3, N)
    scores = extract_scores(repeats.flatten(), lambda output: output.reshape(-1, N).mean(0), N)
    assert torch.allclose(scores, repeats.mean(0))
    hifi_gan = [[torch.randn(N, 3), torch.randn(N, t)] for t in (5, 9)]  # features and scores
    with pytest.raises(TypeError, match=r"part\[-1\].flatten\(1\).mean\(1\) for part in output"):
        extract_scores(hifi_gan, None, N)
    scores = extract_scores(
        hifi_gan, lambda output: [part[-1].flatten(1).mean(1) for part in output], N
    )
    assert torch.allclose(scores, sum(part[-1].mean(1) for part in hifi_gan) / 2)


def test_an_output_of_the_images_own_shape_is_no_patch_map() -> None:
    """An autoencoder critic (BEGAN, EBGAN) would be ranked by its mean pixel."""
    grey = torch.randn(N, 1, 8, 8)
    with pytest.raises(ValueError, match="the very shape of the samples"):
        extract_scores(grey, None, N, grey.shape)
    assert extract_scores(grey[:, :, :4, :4], None, N, grey.shape).shape == (N,)
    points = torch.randn(N, 1)  # one-dimensional data, one score each
    assert torch.equal(extract_scores(points, None, N, points.shape), points[:, 0])


def test_what_is_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="leads to a str"):
        extract_scores({"adv": "oops"}, "adv", N)
