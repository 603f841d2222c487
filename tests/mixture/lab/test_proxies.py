"""The proxies of quality, against the slow obvious computation."""

import pytest
import torch

from topk_plugin.mixture.lab.ensemble import Ensemble
from topk_plugin.mixture.lab.networks import forward
from topk_plugin.mixture.lab.proxies import PROXIES, PROXY_STREAM, SAMPLES, proxies
from topk_plugin.mixture.lab.randomness import generator_of
from topk_plugin.mixture.lab.settings import Arm, Settings

ARMS = (Arm("full", gamma=1.0), Arm("top", gamma=0.5, nu=0.5, every=2))


@pytest.mark.parametrize("loss", ["non-saturating", "least-squares"])
def test_proxies_are_what_their_words_say(loss: str) -> None:
    settings = Settings(ARMS, (3, 1), width=8, layers=2, batch=16, lr=1e-2, modes=4, loss=loss)
    ensemble = Ensemble(settings, dtype=torch.float64)
    for _ in range(20):
        ensemble.train_step()
    state = [p.detach().clone() for p in ensemble.generator]
    found = proxies(ensemble)
    assert tuple(found) == PROXIES
    for own, before in zip(ensemble.generator, state, strict=True):
        assert torch.equal(own, before)
    for a in range(2):
        for s, seed in enumerate(settings.seeds):
            g = generator_of(seed, PROXY_STREAM)
            latents = torch.randn(SAMPLES, settings.latent, generator=g).double()
            real = settings.target.means(settings.target.draw((SAMPLES,), g))
            real = (real + settings.std * torch.randn(SAMPLES, 2, generator=g)).double()
            e = a * 2 + s
            generator = [p.detach()[e : e + 1].clone().requires_grad_() for p in ensemble.generator]
            critic = [p.detach()[e : e + 1] for p in ensemble.critic]
            fake = forward(critic, forward(generator, latents[None])).flatten()
            on_real = forward(critic, real[None]).flatten()
            on_fake = fake.detach()
            above = (on_real[:, None] > on_fake[None]).double().mean()
            # equal scores have no order: both halves of a tie are right
            ties = (on_real[:, None] == on_fake[None]).double().mean()
            assert above <= found["auc"][a, s] + 1e-6
            assert found["auc"][a, s] <= above + ties + 1e-6
            gap = (on_real.mean() - on_fake.mean()) / ((on_real.var() + on_fake.var()) / 2) ** 0.5
            assert found["gap"][a, s].item() == pytest.approx(gap.item())
            spread = on_fake.std() / on_real.std()
            assert found["spread"][a, s].item() == pytest.approx(spread.item())

            def gradient(scores: torch.Tensor, parameters: list = generator) -> torch.Tensor:
                if loss == "non-saturating":
                    value = torch.nn.functional.softplus(-scores).mean()
                else:
                    value = 0.5 * (scores - 1).square().mean()
                found = torch.autograd.grad(value, parameters, retain_graph=True)
                return torch.cat([g.flatten() for g in found])

            better = fake.sort(descending=True).values[: SAMPLES // 2]
            agreement = torch.cosine_similarity(gradient(better), gradient(fake), dim=0)
            assert found["agreement"][a, s].item() == pytest.approx(agreement.item(), abs=1e-6)
