"""Steps on parts of a batch, against one plain replica whose steps are really taken."""

import copy

import pytest
import torch
from torch import nn

from benchmarks.mixture.plain import PlainTraining
from topk_plugin.mixture.lab import explanation
from topk_plugin.mixture.lab.ensemble import Ensemble
from topk_plugin.mixture.lab.explanation import explain, key
from topk_plugin.mixture.lab.settings import Arm, Settings

ARMS = (Arm("full", gamma=1.0), Arm("top", gamma=0.5, nu=0.5, every=2))
SEEDS = (3, 1)


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explanation, "BATCHES", 2)
    monkeypatch.setattr(explanation, "HELD_OUT", 200)


def settings_with(loss: str) -> Settings:
    small = {"width": 8, "layers": 2, "batch": 20, "lr": 5e-3, "modes": 4, "std": 0.2}
    return Settings(ARMS, SEEDS, loss=loss, **small)


def plain_step(
    plain: PlainTraining, batch: torch.Tensor, chosen: torch.Tensor, *, adam: bool
) -> nn.Module:
    """A copy of the generator after a step on the chosen rows."""
    generator = copy.deepcopy(plain.generator)
    if adam:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(generator.parameters())
        optimizer.load_state_dict(copy.deepcopy(plain.generator_optimizer.state_dict()))
    else:
        optimizer = torch.optim.SGD(generator.parameters(), lr=plain.settings.lr)
    optimizer.zero_grad()
    plain._generator_loss(plain.critic(generator(batch[chosen]))).backward()
    optimizer.step()
    return generator


@pytest.mark.parametrize("loss", ["non-saturating", "least-squares"])
def test_cosines_are_those_of_steps_really_taken(loss: str) -> None:
    settings = settings_with(loss)
    ensemble = Ensemble(settings, dtype=torch.float64)
    for _ in range(30):
        ensemble.train_step()
    found = explain(ensemble, more_steps=0)
    batches, held_out, lottery = explanation._latents(settings)
    for a, arm in enumerate(ARMS):
        for s, seed in enumerate(SEEDS):
            plain = PlainTraining(settings, arm, seed, torch.float64)
            for _ in range(30):
                plain.train_step()
            latents = held_out[s].double()
            before = plain.generator(latents).detach()
            oracle = settings.target.offset_to_nearest(before)
            distance = oracle.norm(dim=1) / settings.std
            good = (distance <= 4).double().mean().item()
            assert found["high_quality"][a, s].item() == pytest.approx(good)
            for part, (policy, share) in explanation.PARTS.items():
                cosines = {True: torch.zeros(200), False: torch.zeros(200)}
                for b in range(2):
                    batch = batches[b, s].double()
                    scores = plain.critic(plain.generator(batch)).flatten().detach()
                    ranked = {"top": scores, "bottom": -scores, "random": lottery[b, s]}[policy]
                    chosen = ranked.argsort(descending=True)[: max(1, round(share * 20))]
                    everything = torch.arange(20)
                    with_adam = plain_step(plain, batch, chosen, adam=True)(latents)
                    reference = plain_step(plain, batch, everything, adam=True)(latents)
                    moved = {
                        True: with_adam - reference,
                        False: plain_step(plain, batch, chosen, adam=False)(latents) - before,
                    }
                    for adam, step in moved.items():
                        cosines[adam] = cosines[adam] + torch.cosine_similarity(step, oracle) / 2
                for adam, kind in ((True, "optimizer"), (False, "gradient")):
                    if adam and part == "full":
                        assert key("live", kind, part, "all") not in found
                        continue
                    for group, rows in (("all", distance > 0), ("near", distance <= 1)):
                        expected = cosines[adam][rows].mean().item() if rows.any() else None
                        for critic in explanation.CRITICS:  # not trained further here
                            value = found[key(critic, kind, part, group)][a, s].item()
                            if expected is None:
                                assert value != value
                            else:
                                assert value == pytest.approx(expected, abs=2e-5)


def test_a_critic_trained_further_is_the_plain_loops_and_the_training_goes_on_unchanged() -> None:
    settings = settings_with("non-saturating")
    watched, unwatched = Ensemble(settings), Ensemble(settings)
    for _ in range(10):
        watched.train_step()
        unwatched.train_step()
    trained = explanation._train_further(watched, 15)
    assert all(
        not torch.equal(more, own.double())
        for more, own in zip(trained, watched.critic, strict=True)
    )
    explain(watched, more_steps=3)
    for _ in range(5):
        watched.train_step()
        unwatched.train_step()
    for one, other in zip(
        [*watched.generator, *watched.critic],
        [*unwatched.generator, *unwatched.critic],
        strict=True,
    ):
        assert torch.equal(one, other)


def test_a_critic_trained_further_tells_samples_apart_better() -> None:
    settings = Settings(ARMS[:1], SEEDS, width=16, layers=2, batch=64, lr=5e-3, modes=4)
    ensemble = Ensemble(settings)
    for _ in range(5):
        ensemble.train_step()
    before = loss_of(ensemble, [p.detach().double() for p in ensemble.critic])
    after = loss_of(ensemble, explanation._train_further(ensemble, 200))
    assert (after < before).all()


def loss_of(ensemble: Ensemble, critic: list[torch.Tensor]) -> torch.Tensor:
    from topk_plugin.mixture.lab.losses import critic_loss
    from topk_plugin.mixture.lab.networks import forward

    g = torch.Generator().manual_seed(0)
    target = ensemble.settings.target
    real = target.means(target.draw((2, 500), g)) + target.std * torch.randn(2, 500, 2, generator=g)
    latents = torch.randn(2, 500, 2, generator=g).double()
    fake = forward([p.detach().double() for p in ensemble.generator], latents)
    return critic_loss(critic, real.double(), fake, real, "non-saturating", 0.0)
