"""From the MODEL and DATA sections of a configuration to networks."""

from typing import Any

from torch import nn

from topk_plugin.engine.config.config import DataConfig, ModelConfig
from topk_plugin.engine.networks.big_resnet_generator import BigResnetGenerator
from topk_plugin.engine.networks.deep_conv import (
    IMG_SIZE,
    DeepConvDiscriminator,
    DeepConvGenerator,
)
from topk_plugin.engine.networks.resnet_discriminator import ResnetDiscriminator
from topk_plugin.engine.networks.resnet_generator import ResnetGenerator
from topk_plugin.ops.spectral_norm import BatchedSpectralNorm


def build_generator(model: ModelConfig, data: DataConfig) -> nn.Module:
    """The generator that ``model`` and ``data`` describe, freshly initialised on the CPU.

    It maps latent vectors [N, z_dim] and labels [N] to images [N, 3, img_size, img_size].

    Raises:
        ValueError: a value outside of what the generator allows.
    """
    conditional = model.g_cond_mtd != "W/O"
    common: dict[str, Any] = {
        "z_dim": model.z_dim,
        "num_classes": data.num_classes if conditional else None,
        "spectral": model.apply_g_sn,
        "attention_after": model.attn_g_loc if model.apply_attn else (),
        "activation_name": model.g_act_fn,
        "init": model.g_init,
    }
    generator: nn.Module
    if model.backbone == "deep_conv":
        _check_deep_conv(data)
        generator = DeepConvGenerator(**common)
    elif model.backbone == "resnet":
        generator = ResnetGenerator(
            img_size=data.img_size, conv_dim=_width("g_conv_dim", model.g_conv_dim), **common
        )
    else:
        if conditional and model.g_shared_dim is None:
            raise ValueError("g_shared_dim is None; a conditional generator needs its length")
        generator = BigResnetGenerator(
            img_size=data.img_size,
            conv_dim=_width("g_conv_dim", model.g_conv_dim),
            shared_dim=model.g_shared_dim if conditional else None,
            **common | {"num_classes": data.num_classes},
        )
    if model.apply_g_sn:
        BatchedSpectralNorm(generator)
    return generator


def build_discriminator(model: ModelConfig, data: DataConfig) -> nn.Module:
    """The discriminator that ``model`` and ``data`` describe, freshly initialised on the CPU.

    It maps images [N, 3, img_size, img_size] and labels [N] to a dictionary; see
    :meth:`~topk_plugin.engine.networks.scoring.ScoringNetwork.score`.

    Raises:
        ValueError: a value outside of what the discriminator allows.
    """
    common: dict[str, Any] = {
        "num_classes": data.num_classes,
        "conditioning": model.d_cond_mtd,
        "embed_dim": model.d_embed_dim,
        "normalize_embed": model.normalize_d_embed,
        "spectral": model.apply_d_sn,
        "attention_after": model.attn_d_loc if model.apply_attn else (),
        "activation_name": model.d_act_fn,
        "init": model.d_init,
    }
    discriminator: nn.Module
    if model.backbone == "deep_conv":
        _check_deep_conv(data)
        discriminator = DeepConvDiscriminator(**common)
    else:
        discriminator = ResnetDiscriminator(
            img_size=data.img_size, conv_dim=_width("d_conv_dim", model.d_conv_dim), **common
        )
    if model.apply_d_sn:
        BatchedSpectralNorm(discriminator)
    return discriminator


def _width(name: str, value: int | None) -> int:
    if value is None:
        raise ValueError(f"{name} is None; a residual network needs its unit of width")
    return value


def _check_deep_conv(data: DataConfig) -> None:
    if data.img_size != IMG_SIZE:
        raise ValueError(f"img_size is {data.img_size}; allowed with deep_conv: {IMG_SIZE}")
