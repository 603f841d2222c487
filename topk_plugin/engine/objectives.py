"""What the two networks minimise on one batch. Terms and their order are StudioGAN's.

The order matters: every call of a critic with spectral normalisation is a power iteration, and
every augmentation draws from the same random stream.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from topk_plugin.engine.config.config import Config, LossConfig, ModelConfig
from topk_plugin.engine.losses.adversarial import discriminator_loss, generator_loss
from topk_plugin.engine.losses.augment import flip_and_shift
from topk_plugin.engine.losses.classification import classification_loss
from topk_plugin.engine.losses.consistency import latent_sensitivity, output_consistency
from topk_plugin.engine.losses.contrastive import conditional_contrastive_loss
from topk_plugin.engine.losses.data_to_data import data_to_data_cross_entropy
from topk_plugin.engine.losses.differentiable_augmentation import diff_augment
from topk_plugin.engine.losses.feature_matching import feature_matching_loss
from topk_plugin.engine.losses.gradient_penalty import gradient_penalty, r1_penalty
from topk_plugin.engine.losses.lecam import LeCam

Outputs = dict[str, Tensor]

# By StudioGAN's names; "cr" and "bcr" are one augmentation there too.
_AUGMENTATIONS: Final[dict[str, Callable[[Tensor, torch.Generator], Tensor]]] = {
    "W/O": lambda images, random: images,
    "cr": flip_and_shift,
    "bcr": flip_and_shift,
    "diffaug": diff_augment,
}


@dataclass(frozen=True)
class Fakes:
    """Generated images [N, 3, H, W], their labels [N], and zCR's images from nearby latents."""

    images: Tensor
    labels: Tensor
    nearby: Tensor | None


class Objectives:
    """The losses that a config asks for.

    Args:
        config: a checked config.
        discriminator: the critic.
        random: source of the random numbers of augmentations and of the gradient penalty.
    """

    def __init__(self, config: Config, discriminator: nn.Module, random: torch.Generator) -> None:
        loss, aug = config.LOSS, config.AUG
        self._loss = loss
        self._discriminator = discriminator
        self._random = random
        self._d_adversarial = discriminator_loss(loss.adv_loss, real_label=loss.real_label)
        self._g_adversarial = generator_loss(loss.adv_loss)
        self._conditional = _conditional_loss(config.MODEL, loss)
        # Of what the critic scores; and of what consistency terms compare those scores with.
        self._series = _AUGMENTATIONS[aug.diffaug_type if aug.apply_diffaug else "W/O"]
        self._parallel = _AUGMENTATIONS[aug.bcr_aug_type if loss.apply_bcr else aug.cr_aug_type]
        self.lecam: LeCam | None = None
        if loss.apply_lecam:
            assert loss.lecam_ema_start_iter is not None  # checked with the config
            self.lecam = LeCam(start=loss.lecam_ema_start_iter, decay=given(loss.lecam_ema_decay))

    def of_discriminator(
        self, real: Tensor, real_labels: Tensor, fakes: Fakes, *, step: int
    ) -> dict[str, Tensor]:
        """The discriminator's loss and the part of it that is logged too.

        Args:
            real: [N, 3, H, W].
            real_labels: int64 [N].
            fakes: N of them, without gradient.
            step: training steps that are over.

        Returns:
            Scalars: ``loss/discriminator``, and ``loss/conditional`` (of real images) where the
            critic has a conditional loss.
        """
        loss, fake, labels = self._loss, fakes.images, fakes.labels
        if loss.apply_r1_reg:
            real = real.detach().requires_grad_()
        seen_real, seen_fake = self._series(real, self._random), self._series(fake, self._random)
        real_out = self.criticise(seen_real, real_labels)
        fake_out = self.criticise(seen_fake, labels)
        real_scores, fake_scores = real_out["adv_output"], fake_out["adv_output"]
        total = self._d_adversarial(real_scores, fake_scores)
        losses = {}
        if self._conditional is not None:
            losses["loss/conditional"] = self._conditional(real_out)
            total = total + given(loss.cond_lambda) * losses["loss/conditional"]
        if loss.apply_cr:
            other = self.criticise(self._parallel(real, self._random), real_labels)
            total = total + given(loss.cr_lambda) * output_consistency(real_out, other)
        if loss.apply_bcr:
            real_aug = self._parallel(real, self._random)
            fake_aug = self._parallel(fake, self._random)
            real_term = output_consistency(real_out, self.criticise(real_aug, real_labels))
            fake_term = output_consistency(fake_out, self.criticise(fake_aug, labels))
            total = total + given(loss.real_lambda) * real_term
            total = total + given(loss.fake_lambda) * fake_term
        if fakes.nearby is not None:
            other = self.criticise(fakes.nearby, labels)
            total = total + given(loss.d_lambda) * output_consistency(fake_out, other)
        if loss.apply_gp:
            penalty = gradient_penalty(
                lambda images: self.criticise(images, real_labels)["adv_output"],
                real,
                fake,
                self._random,
            )
            total = total + given(loss.gp_lambda) * penalty
        if self.lecam is not None:
            penalty = self.lecam.penalty(real_scores, fake_scores, step)
            total = total + given(loss.lecam_lambda) * penalty
        if loss.apply_r1_reg:
            total = total + given(loss.r1_lambda) * r1_penalty(real_scores, real)
        losses["loss/discriminator"] = total
        return losses

    def of_generator(
        self, fakes: Fakes, *, k: int | None, real: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """The generator's loss.

        Args:
            fakes: N of them.
            k: only the k best scores go into the adversarial loss, as in StudioGAN's own top-k
                training; None: all.
            real: images and labels to match the features of, with LOSS.apply_fm.

        Returns:
            A scalar.
        """
        loss = self._loss
        out = self.criticise(self._series(fakes.images, self._random), fakes.labels)
        scores = out["adv_output"]
        if k is not None:
            scores = torch.topk(scores, k).values
        total = self._g_adversarial(scores)
        if self._conditional is not None:
            total = total + given(loss.cond_lambda) * self._conditional(out)
        if real is not None:
            real_out = self.criticise(self._series(real[0], self._random), real[1])
            total = total + given(loss.fm_lambda) * feature_matching_loss(real_out["h"], out["h"])
        if fakes.nearby is not None:
            sensitivity = latent_sensitivity(fakes.images, fakes.nearby)
            total = total - given(loss.g_lambda) * sensitivity
        return total

    def criticise(self, images: Tensor, labels: Tensor) -> Outputs:
        """The critic's outputs, half precisions raised to fp32 for the losses."""
        out: Outputs = self._discriminator(images, labels)
        return {
            name: value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
            for name, value in out.items()
        }

    # --- state -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What the losses remember: LeCam's averages."""
        return {"lecam": None if self.lecam is None else self.lecam.state_dict()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from ``state``; a term that was off until now starts anew."""
        if self.lecam is not None and state["lecam"] is not None:
            self.lecam.load_state_dict(state["lecam"], device)


def needs_second_derivatives(loss: LossConfig) -> bool:
    """Whether the critic's gradient is part of its loss."""
    return loss.apply_gp or loss.apply_r1_reg


def given(value: float | None) -> float:
    """``value``, which the config's checks saw to."""
    assert value is not None
    return value


def _conditional_loss(model: ModelConfig, loss: LossConfig) -> Callable[[Outputs], Tensor] | None:
    """What the critic's outputs say about the labels, or None for critics that only score."""
    method, temperature = model.d_cond_mtd, loss.temperature
    if method == "AC":
        return lambda out: classification_loss(out["cls_output"], out["label"])
    if method == "2C":
        return lambda out: conditional_contrastive_loss(
            out["embed"], out["proxy"], out["label"], given(temperature)
        )
    if method == "D2DCE":
        return lambda out: data_to_data_cross_entropy(
            out["embed"],
            out["proxy"],
            out["label"],
            temperature=given(temperature),
            margin=given(loss.m_p),
        )
    return None
