"""What a pair of networks has to say of itself to be chosen by MODEL.backbone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from topk_plugin.engine.keys.key import Key
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.networks.scoring import Head


@dataclass(frozen=True)
class Backbone:
    """One value of MODEL.backbone.

    Attributes:
        name: the value.
        generator: settings to a freshly initialised generator on the CPU: latent vectors
            [N, z_dim] and labels [N] to images [N, 3, img_size, img_size].
        critic: settings and the head to a freshly initialised critic on the CPU: images and labels
            to :data:`~topk_plugin.engine.networks.scoring.Outputs`.
        blocks: img_size to the number of blocks of generator and critic that self-attention can
            follow.
        keys: settings that only this backbone reads.
        check: raises UserError for settings that can't be built.
    """

    name: str
    generator: Callable[[Settings], nn.Module]
    critic: Callable[[Settings, Head], nn.Module]
    blocks: Callable[[int], tuple[int, int]]
    keys: tuple[Key, ...] = ()
    check: Callable[[Settings], None] | None = None


def generator_arguments(settings: Settings) -> dict[str, Any]:
    """What the constructors of all generators take."""
    model = settings.MODEL
    return {
        "z_dim": model.z_dim,
        "num_classes": settings.DATA.num_classes if model.g_cond_mtd != "W/O" else None,
        "spectral": model.apply_g_sn,
        "attention_after": model.attn_g_loc if model.apply_attn else (),
        "activation_name": model.g_act_fn,
        "init": model.g_init,
    }


def critic_arguments(settings: Settings) -> dict[str, Any]:
    """What the constructors of all critics take, beside the head."""
    model = settings.MODEL
    return {
        "spectral": model.apply_d_sn,
        "attention_after": model.attn_d_loc if model.apply_attn else (),
        "activation_name": model.d_act_fn,
        "init": model.d_init,
    }


def width(settings: Settings, name: str) -> int:
    """MODEL.g_conv_dim or d_conv_dim, the unit of width of a residual network.

    Raises:
        ValueError: it is None.
    """
    value: int | None = getattr(settings.MODEL, name)
    if value is None:
        raise ValueError(f"{name} is None; a residual network needs its unit of width")
    return value
