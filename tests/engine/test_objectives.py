"""Which terms the two losses have, and in which order the critic is asked, with a small critic."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_plugin.engine.building import head_of
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.data.stream import Batch
from topk_plugin.engine.methods.data_to_data import data_to_data_cross_entropy
from topk_plugin.engine.methods.method import Fakes
from topk_plugin.engine.methods.registry import terms_of
from topk_plugin.engine.objectives import CriticInput, Objectives
from topk_plugin.gate.progress import Progress

COUNT, CLASSES = 6, 3


class Critic(nn.Module):
    """One matrix for everything that critics may give; remembers what it was shown."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.matrix = nn.Linear(3 * 8 * 8, 5).double()
        self.table = nn.Embedding(CLASSES, 5).double()
        self.names = names
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.seen.append((images, labels))
        h = F.gelu(self.matrix(images.flatten(1)))
        outputs = {
            "cls_output": h[:, :CLASSES] * 3,
            "embed": h,
            "proxy": self.table(labels),
        }
        chosen = {name: outputs[name] for name in self.names}
        return chosen | {"h": h, "adv_output": h.sum(1), "label": labels}


OUTPUTS = {"W/O": (), "AC": ("cls_output",), "2C": ("embed", "proxy"), "D2DCE": ("embed", "proxy")}


def batch(seed: int) -> Batch:
    source = torch.Generator().manual_seed(seed)
    images = torch.rand(COUNT, 3, 8, 8, generator=source, dtype=torch.float64) * 2 - 1
    return Batch(images, torch.randint(CLASSES, (COUNT,), generator=source), torch.arange(COUNT))


def make(method: str, loss: dict, aug: dict | None = None) -> tuple[Objectives, Critic]:
    critic = Critic(OUTPUTS[method])
    config = Config.unchecked(MODEL={"d_cond_mtd": method}, LOSS=loss, AUG=aug or {})
    terms = tuple(term for name, term in terms_of(config).items() if name != "top-k")
    gan = SimpleNamespace(random=torch.Generator().manual_seed(1), head=head_of(config))
    for term in terms:
        term.setup(gan)
    return Objectives(terms, CriticInput(critic, terms)), critic


def expected_conditional(method: str, out: dict[str, Tensor]) -> Tensor:
    if method == "AC":
        chosen = F.log_softmax(out["cls_output"], dim=1)[torch.arange(COUNT), out["label"]]
        return -chosen.mean()
    return data_to_data_cross_entropy(
        out["embed"], out["proxy"], out["label"], temperature=0.5, margin=0.98
    )


@pytest.mark.parametrize("method", ["AC", "D2DCE"])
def test_conditional_losses_are_weighed_and_added_on_both_sides(method: str) -> None:
    loss = {"adv_loss": "hinge", "cond_lambda": 0.3, "temperature": 0.5, "m_p": 0.98}
    objectives, critic = make(method, loss)
    batch_of_real, (fake, labels, _) = batch(1), batch(2)
    real, real_labels, _ = batch_of_real
    losses = objectives.of_critic(batch_of_real, Fakes(fake, labels, None), steps=0)
    real_out, fake_out = critic(real, real_labels), critic(fake, labels)
    conditional = expected_conditional(method, real_out)
    torch.testing.assert_close(losses["loss/conditional"], conditional)
    torch.testing.assert_close(
        losses["loss/discriminator"],
        F.relu(1 - real_out["adv_output"]).mean()
        + F.relu(1 + fake_out["adv_output"]).mean()
        + 0.3 * conditional,
    )
    torch.testing.assert_close(
        objectives.of_generator(Fakes(fake, labels, None), None),
        -fake_out["adv_output"].mean() + 0.3 * expected_conditional(method, fake_out),
    )


@pytest.mark.parametrize("method", ["W/O", "AC", "2C", "D2DCE"])
def test_consistency_compares_what_the_conditioning_adds(method: str) -> None:
    settings = {"cond_lambda": 0.0, "temperature": 0.5, "m_p": 0.98}
    plain = {"adv_loss": "hinge", **settings}
    consistent = {"adv_loss": "hinge", "apply_cr": True, "cr_lambda": 7.0, **settings}
    aug = {"cr_aug_type": "diffaug"}
    batch_of_real, (fake, labels, _) = batch(1), batch(2)
    real, real_labels, _ = batch_of_real
    totals = []
    for loss in (plain, consistent):
        objectives, critic = make(method, loss, aug)
        fakes = Fakes(fake, labels, None)
        losses = objectives.of_critic(batch_of_real, fakes, steps=0)
        totals.append(losses["loss/discriminator"])
    (shown, shown_labels) = critic.seen[2]
    assert not torch.equal(shown, real)
    assert torch.equal(shown_labels, real_labels)
    first, second = critic(real, real_labels), critic(shown, real_labels)
    compared = ["adv_output", *{"W/O": [], "AC": ["cls_output"]}.get(method, ["embed"])]
    term = sum((first[name] - second[name]).square().mean() for name in compared)
    torch.testing.assert_close(totals[1] - totals[0], 7.0 * term)


def test_the_critic_is_asked_in_studiogans_order() -> None:
    loss = {
        "adv_loss": "wasserstein",
        "apply_bcr": True,
        "real_lambda": 1.0,
        "fake_lambda": 1.0,
        "apply_zcr": True,
        "radius": 0.1,
        "g_lambda": 1.0,
        "d_lambda": 1.0,
        "apply_gp": True,
        "gp_lambda": 1.0,
        "apply_r1_reg": True,
        "r1_lambda": 1.0,
        "apply_fm": True,
        "fm_lambda": 1.0,
    }
    aug = {"apply_diffaug": True, "diffaug_type": "cr", "bcr_aug_type": "bcr"}
    objectives, critic = make("W/O", loss, aug)
    batch_of_real, (fake, labels, _), (nearby, _, _) = batch(1), batch(2), batch(3)
    real, real_labels, _ = batch_of_real
    objectives.of_critic(batch_of_real, Fakes(fake, labels, nearby), steps=0)
    sources = (real, fake, real, fake, nearby)
    assert len(critic.seen) == 6
    for index, (source, (images, _)) in enumerate(zip(sources, critic.seen, strict=False)):
        if index == 4:
            assert torch.equal(images, source)  # zCR's images are never augmented
        else:  # pixels are moved, never mixed
            assert torch.isin(images, source).all()
            assert not torch.equal(images, source)
    used = [critic_labels for _, critic_labels in critic.seen]
    expected = (real_labels, labels, real_labels, labels, labels, real_labels)
    assert all(torch.equal(*pair) for pair in zip(used, expected, strict=True))
    critic.seen.clear()
    objectives.of_generator(Fakes(fake, labels, nearby), batch_of_real)
    assert [torch.isin(images, fake).all().item() for images, _ in critic.seen] == [True, False]
    assert torch.isin(critic.seen[1][0], real).all()


def test_the_slice_cuts_the_adversarial_term_only() -> None:
    config = Config.unchecked(
        MODEL={"d_cond_mtd": "AC"},
        LOSS={
            "adv_loss": "hinge",
            "cond_lambda": 0.3,
            "apply_topk": True,
            "topk_gamma": 0.5,
            "topk_nu": 0.25,
            "topk_mode": "slice",
        },
        OPTIMIZATION={"batch_size": COUNT},
    )
    terms, critic = tuple(terms_of(config).values()), Critic(OUTPUTS["AC"])
    for term in terms:
        term.setup(SimpleNamespace(steps_per_epoch=1.0, progress=Progress(epochs=2)))
    fake, labels, _ = batch(2)
    objectives = Objectives(terms, CriticInput(critic, terms))
    value = objectives.of_generator(Fakes(fake, labels, None), None)
    out = critic(fake, labels)
    best = out["adv_output"].sort(descending=True).values[:2]
    torch.testing.assert_close(value, -best.mean() + 0.3 * expected_conditional("AC", out))
