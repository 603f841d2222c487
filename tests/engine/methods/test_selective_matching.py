"""Selective data matching by hand, and in a training."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.engine.tiny import CONTRASTIVE, gate_of, tiny_config, tiny_images, tiny_trainer
from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.methods import selective_matching
from topk_plugin.engine.methods.adversarial import adversarial_loss
from topk_plugin.engine.methods.selective_matching import focused, ranks_in_class
from topk_plugin.evaluation import efficientnet_lite0

C = torch.tensor([0.5, 2.0, -1.0, 1.0])
U = torch.tensor([0.1, 0.2, 0.3, 0.4])


def test_the_best_class_logits_stand_alone() -> None:
    u = U.clone().requires_grad_()
    out = focused(u + C, C, 2)
    torch.testing.assert_close(out, torch.tensor([0.6, 2.0, -0.7, 1.0]))
    hinge = adversarial_loss("hinge")
    assert hinge.of_generator(out).item() == pytest.approx(-0.725)
    fake = hinge.of_critic(torch.full((4,), 2.0), out)  # the real side is 0
    real = hinge.of_critic(out, torch.full((4,), -2.0))  # the fake side is 0
    assert (fake.item(), real.item()) == (pytest.approx(1.725), pytest.approx(0.525))
    (gradient,) = torch.autograd.grad(out.sum(), u)
    assert gradient.tolist() == [1, 0, 1, 0]
    assert torch.equal(focused(U, C, 0), U)
    assert torch.equal(focused(U, C, 4), C)


def test_the_share_grows_as_scheduled() -> None:
    """Batch 128, half of it at the end, ten units of training."""
    trainer = tiny_trainer(
        {"LOSS": {"apply_sfl": True}, "OPTIMIZATION": {"total_steps": 50, "batch_size": 8}}
    )
    term = trainer.terms["selective matching"]  # 40 images are 5 batches: e = steps / 5
    shares = []
    for steps in (0, 5, 25, 49.95, 50, 500):
        trainer.progress.steps = steps
        shares.append(int(128 * term.share + 1e-4))
    assert shares == [0, 8, 37, 63, 64, 64]


def test_top_k_ranks_by_the_whole_score() -> None:
    trainer = tiny_trainer({"LOSS": {"apply_sfl": True, "topk_every": 1, "sfl_share": 0.9}})
    trainer.progress.steps = trainer.config.OPTIMIZATION.total_steps
    seen: list = []
    trainer.critic.register_forward_hook(lambda module, args, out: seen.append(out))
    trainer._train_generator()
    stats, out = gate_of(trainer).stats, seen[-1]
    torch.testing.assert_close(stats.scores, out["adv_output"].detach())
    whole = trainer.critic.linear1(out["h"]).squeeze(1) + out["class_logit"]
    torch.testing.assert_close(out["adv_output"], whole, atol=1e-4, rtol=1e-4)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-2, 2)), min_size=1, max_size=30))
def test_ranks_are_shares_of_the_class(rows: list[tuple[int, int]]) -> None:
    labels = torch.tensor([label for label, _ in rows])
    scores = torch.tensor([float(score) for _, score in rows])
    slow = []
    for i, (label, score) in enumerate(rows):
        others = [(s, j) for j, (other, s) in enumerate(rows) if other == label]
        denser = sum(s > score or (s == score and j < i) for s, j in others)
        slow.append(denser / len(others))
    assert ranks_in_class(scores, labels).tolist() == pytest.approx(slow)


@pytest.fixture
def by_brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    """The densest images are the brightest ones: no network is needed."""

    def image_densities(images: ImageSet, density: str, *, wanted_by: str) -> tuple[Tensor, dict]:
        return images.images[:].double().mean((1, 2, 3)), {}

    monkeypatch.setattr(selective_matching, "image_densities", image_densities)


PLUS = {"LOSS": {"apply_sfl": True, "sfl_share": 0.5, "sfl_reals": "density", "topk_every": 1}}


@pytest.mark.usefixtures("by_brightness")
def test_sfl_plus_chooses_real_images_by_density_and_generated_ones_by_score() -> None:
    trainer = tiny_trainer(PLUS)
    trainer.progress.steps = 10**6  # half of a batch
    term = trainer.terms["selective matching"]
    images = tiny_images()
    brightness = images.images.double().mean((1, 2, 3))
    (batch, _) = trainer.stream.next_step()
    out = trainer.critic(batch.images, batch.labels)
    found = term.real_logits(out["adv_output"], out, batch)
    ranks = {}
    for i, label in enumerate(images.labels.tolist()):
        own = brightness[images.labels == label]
        ranks[i] = float((own > brightness[i]).double().mean())
    indices = batch.indices.tolist()
    first = sorted(range(8), key=lambda row: (ranks[indices[row]], row))[:4]
    expected = out["adv_output"].clone()
    expected[first] = out["class_logit"][first]
    assert torch.equal(found, expected)
    fake = term.critic_logits(out["adv_output"], out)
    assert torch.equal(fake, focused(out["adv_output"], out["class_logit"], 4))


@pytest.mark.usefixtures("by_brightness")
def test_sfl_plus_resumes_with_the_ranks_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    straight, stopped = tiny_trainer(PLUS), tiny_trainer(PLUS)
    for _ in range(4):
        straight.step()
    for _ in range(2):
        stopped.step()
    before = selective_matching.image_densities
    monkeypatch.setattr(
        selective_matching, "image_densities", lambda *args, **kw: (-before(*args, **kw)[0], {})
    )
    resumed = tiny_trainer(PLUS)
    resumed.load_state_dict(stopped.state_dict())
    for _ in range(2):
        resumed.step()
    pairs = zip(straight.critic.parameters(), resumed.critic.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_sfl_plus_needs_its_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite0, "is_installed", lambda: False)
    with pytest.raises(UserError, match=r"SFL\+\) looks at images with EfficientNet-Lite0"):
        tiny_trainer(PLUS)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([CONTRASTIVE], "d_cond_mtd 'PD'"),
        ([{"LOSS": {"apply_san": True}}], "one direction a class"),
        ([{"LOSS": {"topk_mode": "slice"}}], "use topk_mode 'gate'"),
    ],
)
def test_what_it_does_not_go_with_is_refused(changes: list[dict], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        tiny_config({"LOSS": {"apply_sfl": True}}, *changes)
