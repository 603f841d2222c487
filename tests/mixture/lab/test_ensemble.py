"""Training all replicas at once against one plain loop each."""

import pytest
import torch

from benchmarks.mixture.plain import PlainTraining
from topk_plugin.mixture.lab.ensemble import Ensemble
from topk_plugin.mixture.lab.settings import Arm, Settings

ARMS = (
    Arm("full", gamma=1.0),
    Arm("top", gamma=0.9, nu=0.5, every=2),
    Arm("late", gamma=0.9, nu=0.5, every=2, onset=7, normalize="batch"),
    Arm("bottom", policy="bottom", gamma=0.9, nu=0.5, every=2),
    Arm("random", policy="random", gamma=0.9, nu=0.5, every=2),
    Arm("released", gamma=0.5, nu=0.5, every=2, release_from=12, release_to=24),
)


def small(**changes) -> Settings:
    plain = {"arms": ARMS, "seeds": (3, 1), "width": 16, "layers": 2, "batch": 24, "lr": 1e-3}
    return Settings(**{**plain, "steps": 1000, **changes})


def parameters(network: list[torch.Tensor], replica: int) -> list[torch.Tensor]:
    return [p.detach()[replica] for p in network]


def assert_same(ensemble: Ensemble, plain: PlainTraining, replica: int, tolerance: float) -> None:
    for stacked, module in (
        (ensemble.generator, plain.generator),
        (ensemble.critic, plain.critic),
    ):
        for own, other in zip(parameters(stacked, replica), module.parameters(), strict=True):
            other = other.detach().T if other.dim() == 2 else other.detach()[None]
            torch.testing.assert_close(own, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("loss", ["non-saturating", "hinge", "wgan-gp", "least-squares"])
def test_each_replica_is_what_a_plain_loop_with_topk_attached_gives(loss: str) -> None:
    settings = small(loss=loss, critic_steps=2 if loss == "wgan-gp" else 1)
    ensemble = Ensemble(settings, dtype=torch.float64)
    for _ in range(40):
        ensemble.train_step()
    for a, arm in enumerate(settings.arms):
        for s, seed in enumerate(settings.seeds):
            plain = PlainTraining(settings, arm, seed, torch.float64)
            for _ in range(40):
                plain.train_step()
            assert_same(ensemble, plain, a * len(settings.seeds) + s, 1e-9)


def test_arms_differ_only_once_k_has_fallen() -> None:
    ensemble = Ensemble(small(seeds=(0,)))
    ensemble.train_step()
    ensemble.train_step()
    first = parameters(ensemble.generator, 0)
    for replica in range(1, len(ARMS)):
        for own, full in zip(parameters(ensemble.generator, replica), first, strict=True):
            torch.testing.assert_close(own, full, rtol=0, atol=1e-6)
    for _ in range(4):
        ensemble.train_step()
    full, top, late, bottom, random, _ = (parameters(ensemble.generator, r)[0] for r in range(6))
    torch.testing.assert_close(full, late, rtol=0, atol=1e-6)
    for one, other in ((full, top), (full, bottom), (top, bottom), (top, random), (full, random)):
        assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("width", [16, 96])
def test_a_seed_does_not_depend_on_what_trains_beside_it(width: int) -> None:
    many = Ensemble(small(seeds=(0, 1, 2, 3, 4), width=width, lr=1e-4))
    alone = Ensemble(small(seeds=(2,), arms=ARMS[1:2], width=width, lr=1e-4))
    for _ in range(100):
        many.train_step()
        alone.train_step()
    replica = 1 * 5 + 2
    for one, other in ((many.generator, alone.generator), (many.critic, alone.critic)):
        for own, lonely in zip(parameters(one, replica), parameters(other, 0), strict=True):
            torch.testing.assert_close(own, lonely, rtol=1e-5, atol=1e-5)


def test_the_random_arm_keeps_k_random_samples_and_never_one_that_is_not_finite() -> None:
    ensemble = Ensemble(small(arms=(Arm("random", policy="random"),), seeds=(0, 1), batch=8))
    scores = torch.zeros(2, 8)
    scores[1, :3] = torch.nan
    lottery = torch.linspace(1, 0, 8).expand(2, 8)
    kept = ensemble.kept(scores, lottery, torch.tensor([4, 4]))
    assert kept.tolist() == [[True] * 4 + [False] * 4, [False] * 3 + [True] * 4 + [False]]


def test_going_on_from_a_state_is_bit_identical() -> None:
    straight = Ensemble(small())
    for _ in range(50):
        straight.train_step()
    first = Ensemble(small())
    for _ in range(37):  # in the middle of a block of noise
        first.train_step()
    second = Ensemble(small())
    second.load_state_dict(first.state_dict())
    for _ in range(13):
        second.train_step()
    for one, other in zip(
        [*straight.generator, *straight.critic], [*second.generator, *second.critic], strict=True
    ):
        assert torch.equal(one, other)
