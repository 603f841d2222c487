"""Top-k training gates every GAN that the engine can be asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from tests.engine.tiny import COMPANIONS, ICR, REGULARIZERS, gate_of, tiny_trainer
from topk_plugin import keep_mask
from topk_plugin.engine.methods.topk import k_of
from topk_plugin.engine.networks import deep_conv
from topk_plugin.engine.trainer import Trainer

BACKBONES = {
    "deep_conv": {
        "g_conv_dim": "N/A",
        "d_conv_dim": "N/A",
        "g_shared_dim": "N/A",
        "attn_d_loc": [2],
    },
    "resnet": {"apply_g_sn": False, "g_shared_dim": "N/A"},
    "big_resnet": {},
}
EMBEDDING = {"d_embed_dim": 8, "normalize_d_embed": True}
CONDITIONINGS: dict[str, dict] = {
    "W/O": {"MODEL": {"g_cond_mtd": "W/O", "d_cond_mtd": "W/O"}},
    "PD": {"MODEL": {"d_cond_mtd": "PD"}},
    "AC": {"MODEL": {"d_cond_mtd": "AC"}, "LOSS": {"cond_lambda": 1.0}},
    "2C": {
        "MODEL": {"d_cond_mtd": "2C", **EMBEDDING},
        "LOSS": {"cond_lambda": 1.0, "temperature": 1.0},
    },
    "D2DCE": {
        "MODEL": {"d_cond_mtd": "D2DCE", **EMBEDDING},
        "LOSS": {"cond_lambda": 1.0, "temperature": 0.5, "m_p": 0.98},
    },
}
FOR_ALL_CRITICS = [n for n in COMPANIONS if n not in ("selective matching", "projected GAN")]


# its score is a logit of the vanilla loss alone, so it does not go with every regulariser
SEMI_SUPERVISED: dict = {
    "DATA": {"labels_per_class": 3},
    "MODEL": {"d_cond_mtd": "K+1"},
    "LOSS": {"adv_loss": "vanilla", "cond_lambda": 2.0},
}


@pytest.mark.parametrize(
    ("backbone", "conditioning", "regularizer"),
    [
        *product(BACKBONES, CONDITIONINGS, ["none", "ICR", *REGULARIZERS]),
        *product(["big_resnet"], ["W/O", "PD", "2C"], FOR_ALL_CRITICS),
        ("big_resnet", "PD", "selective matching"),
        *product(["big_resnet"], ["W/O", "PD"], ["projected GAN"]),
        *product(["deep_conv", "resnet"], ["PD"], COMPANIONS),
        *product(["big_resnet"], ["K+1"], ["none", "ICR", "R1", "DiffAugment", "feature matching"]),
        *product(["big_resnet"], ["K+1"], ["NICE", "minibatch discrimination"]),
        *product(["deep_conv", "resnet"], ["K+1"], ["none"]),
    ],
)
def test_dropped_fakes_get_no_gradient_from_the_critic(
    backbone: str, conditioning: str, regularizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the one backbone whose widths are fixed
    monkeypatch.setattr(deep_conv, "GENERATOR_CHANNELS", (16, 8, 8, 8))
    monkeypatch.setattr(deep_conv, "CRITIC_CHANNELS", (3, 8, 8, 8, 16))
    trainer = tiny_trainer(
        {"MODEL": {"backbone": backbone, **BACKBONES[backbone]}},
        {**CONDITIONINGS, "K+1": SEMI_SUPERVISED}[conditioning],
        {"none": {}, "ICR": ICR, **REGULARIZERS, **COMPANIONS}[regularizer],
        {"OPTIMIZATION": {"d_updates_per_step": 1}, "LOSS": {"topk_every": 1}},
    )
    for _ in range(2):
        trainer.step()
    assert k_of(trainer.terms) == 2
    with first_gradient(trainer) as seen:
        losses = trainer.step()
    assert all(torch.isfinite(loss) for loss in losses.values())
    stats = gate_of(trainer).stats
    assert torch.equal(stats.mask, keep_mask(stats.scores, 2))
    with_gradient = (seen[0] != 0).flatten(1).any(1)
    if regularizer == "ICR":
        # zCR compares images with each other and never asks the critic: it moves every sample
        assert with_gradient.all()
    else:
        assert torch.equal(with_gradient, stats.mask)


@contextmanager
def first_gradient(trainer: Trainer) -> Iterator[list[Tensor]]:
    """The gradient of the first batch of images that the generator trains on."""
    seen: list[Tensor] = []

    def watch(module: nn.Module, args: tuple, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(seen.append)

    handle = trainer.generator.register_forward_hook(watch)
    yield seen
    handle.remove()
