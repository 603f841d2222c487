"""Consistency terms: CR (Zhang et al. 2020, arXiv 1910.12027), and ICR-GAN's bCR and zCR
(Zhao et al. 2020, arXiv 2002.04724).

CR: weigh ``output_consistency`` of a real image and its augmented version in the discriminator's
loss. bCR: weigh ``output_consistency`` of an image and its augmented version, for real and for fake
images, in the discriminator's loss. zCR: weigh ``output_consistency`` of images from a latent
vector and from a nearby one in the discriminator's loss, and ``latent_sensitivity`` of the two,
negative, in the generator's.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor


def output_consistency(outputs: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> Tensor:
    """Mean squared difference of two outputs of the discriminator, a scalar.

    Compares "adv_output" [N], and as well, as StudioGAN does, "cls_output" [N, classes] where the
    discriminator classifies (AC) and "embed" [N, D] where it is contrastive (2C, D2DCE).
    """
    difference = F.mse_loss(outputs["adv_output"], others["adv_output"])
    for name in ("cls_output", "embed"):
        if name in outputs:
            difference = difference + F.mse_loss(outputs[name], others[name])
    return difference


def latent_sensitivity(images: Tensor, nearby_images: Tensor) -> Tensor:
    """Mean squared difference of images [N, 3, H, W] from nearby latent vectors, a scalar.

    The generator is to make it large: subtract it, weighted, from the generator's loss.
    """
    return F.mse_loss(images, nearby_images)
