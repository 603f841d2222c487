"""The backbones ``resnet`` (SNGAN, SAGAN, WGAN-GP) and ``big_resnet`` (BigGAN)."""

from torch import nn

from topk_plugin.base.errors import UserError
from topk_plugin.engine.keys.key import Key
from topk_plugin.engine.keys.rules import Whole
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.networks.backbone import (
    Backbone,
    critic_arguments,
    generator_arguments,
    width,
)
from topk_plugin.engine.networks.big_resnet_generator import WIDTHS, BigResnetGenerator
from topk_plugin.engine.networks.resnet_critic import ResnetCritic
from topk_plugin.engine.networks.resnet_generator import ResnetGenerator
from topk_plugin.engine.networks.scoring import Head


def _resnet_generator(settings: Settings) -> nn.Module:
    return ResnetGenerator(
        img_size=settings.DATA.img_size,
        conv_dim=width(settings, "g_conv_dim"),
        **generator_arguments(settings),
    )


def _big_resnet_generator(settings: Settings) -> nn.Module:
    model, conditional = settings.MODEL, settings.MODEL.g_cond_mtd != "W/O"
    if conditional and model.g_shared_dim is None:
        raise ValueError("g_shared_dim is None; a conditional generator needs its length")
    return BigResnetGenerator(
        img_size=settings.DATA.img_size,
        conv_dim=width(settings, "g_conv_dim"),
        shared_dim=model.g_shared_dim if conditional else None,
        **generator_arguments(settings) | {"num_classes": settings.DATA.num_classes},
    )


def _critic(settings: Settings, head: Head) -> nn.Module:
    return ResnetCritic(
        img_size=settings.DATA.img_size,
        conv_dim=width(settings, "d_conv_dim"),
        head=head,
        **critic_arguments(settings),
    )


def _blocks(img_size: int) -> tuple[int, int]:
    in_generator = len(WIDTHS[img_size]) - 1
    return in_generator, in_generator + 1


def _check_widths(settings: Settings) -> None:
    because = f"MODEL.backbone {settings.MODEL.backbone!r}"
    for name in ("g_conv_dim", "d_conv_dim"):
        if getattr(settings.MODEL, name) is None:
            raise UserError(
                f"{because} needs MODEL.{name}, which has no value; it must be {Whole(1).allowed}"
            )


_SHARED_DIM = Key("MODEL", "g_shared_dim", None, Whole(1), about="length of the class embedding")


def _check_big_resnet(settings: Settings) -> None:
    model, img_size = settings.MODEL, settings.DATA.img_size
    if model.g_cond_mtd != "W/O":
        _SHARED_DIM.require(settings, f"MODEL.g_cond_mtd {model.g_cond_mtd!r}")
    _check_widths(settings)
    blocks = _blocks(img_size)[0]
    chunks = blocks + 1  # one part of z for the first layer and one for each block
    if model.z_dim % chunks:
        below = model.z_dim // chunks * chunks
        choices = f"{below} or {below + chunks}" if below else f"{chunks}"
        raise UserError(
            f"MODEL.z_dim is {model.z_dim}; at DATA.img_size {img_size} it must be divisible by "
            f"{chunks} (one part for the first layer and one for each of {blocks} blocks), for "
            f"example {choices}"
        )


RESNET = Backbone("resnet", _resnet_generator, _critic, _blocks, check=_check_widths)
BIG_RESNET = Backbone(
    "big_resnet",
    _big_resnet_generator,
    _critic,
    _blocks,
    keys=(_SHARED_DIM,),
    check=_check_big_resnet,
)
