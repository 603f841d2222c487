"""The keys that every training has; methods and backbones bring their own."""

from typing import Final

from topk_plugin.engine.keys.key import Key, When, read_under, switch
from topk_plugin.engine.keys.rules import Blocks, Flag, Number, OneOf, Text, Whole

_ACTIVATIONS: Final = OneOf(("ReLU", "Leaky_ReLU", "ELU", "GELU"), studiogan=("Auto",))
_INITIALISATIONS: Final = OneOf(("ortho", "N02", "glorot", "xavier"))
_NOT_NEGATIVE: Final = Number(at_least=0.0)
_BELOW_ONE: Final = Number(at_least=0.0, below=1.0)

DATA: Final = (
    Key("DATA", "name", "CIFAR10", Text(), about="the data set"),
    Key("DATA", "img_size", 32, OneOf((32, 64, 128), studiogan=(256, 512)), about="pixels a side"),
    Key("DATA", "num_classes", 10, Whole(1), about="labels are 0 to num_classes - 1"),
    Key(
        "DATA",
        "img_channels",
        3,
        OneOf((3,), reason=": grey images load as RGB"),
        about="RGB; grey images load as RGB",
    ),
)

MODEL: Final = (
    Key("MODEL", "g_cond_mtd", "W/O", OneOf(("W/O", "cBN"), studiogan=("cAdaIN",))),
    switch("MODEL", "apply_g_sn", about="spectral normalisation of the generator"),
    switch("MODEL", "apply_d_sn", about="spectral normalisation of the critic"),
    Key("MODEL", "g_act_fn", "ReLU", _ACTIVATIONS),
    Key("MODEL", "d_act_fn", "ReLU", _ACTIVATIONS),
    switch("MODEL", "apply_attn", about="self-attention"),
    *read_under(
        When("MODEL", "apply_attn"),
        Key("MODEL", "attn_g_loc", (), Blocks(), about="behind which of the generator's blocks"),
        Key("MODEL", "attn_d_loc", (), Blocks(), about="behind which of the critic's blocks"),
    ),
    Key("MODEL", "z_prior", "gaussian", OneOf(("gaussian", "uniform"))),
    Key("MODEL", "z_dim", 128, Whole(1), about="length of the latent vector"),
    Key("MODEL", "g_conv_dim", 64, Whole(1), may_be_absent=True, about="unit of width"),
    Key("MODEL", "d_conv_dim", 64, Whole(1), may_be_absent=True, about="unit of width"),
    Key("MODEL", "g_init", "ortho", _INITIALISATIONS),
    Key("MODEL", "d_init", "ortho", _INITIALISATIONS),
)

OPTIMIZATION: Final = (
    Key("OPTIMIZATION", "type_", "Adam", OneOf(("Adam", "SGD", "RMSprop"))),
    Key("OPTIMIZATION", "batch_size", 64, Whole(1)),
    Key("OPTIMIZATION", "acml_steps", 1, Whole(1), about="micro-batches of an update"),
    Key("OPTIMIZATION", "g_lr", 0.0002, Number(above=0.0)),
    Key("OPTIMIZATION", "d_lr", 0.0002, Number(above=0.0)),
    Key("OPTIMIZATION", "g_weight_decay", 0.0, _NOT_NEGATIVE),
    Key("OPTIMIZATION", "d_weight_decay", 0.0, _NOT_NEGATIVE),
    *read_under(
        When("OPTIMIZATION", "type_", ("SGD", "RMSprop")),
        Key("OPTIMIZATION", "momentum", None, _BELOW_ONE, needed=True),
    ),
    *read_under(
        When("OPTIMIZATION", "type_", ("SGD",)),
        Key("OPTIMIZATION", "nesterov", None, Flag(), needed=True),
    ),
    *read_under(
        When("OPTIMIZATION", "type_", ("RMSprop",)),
        Key("OPTIMIZATION", "alpha", None, _BELOW_ONE, needed=True),
    ),
    Key("OPTIMIZATION", "beta1", 0.5, _BELOW_ONE),
    Key("OPTIMIZATION", "beta2", 0.999, _BELOW_ONE),
    Key("OPTIMIZATION", "d_first", True, Flag(), about="the critic's updates come first"),
    Key("OPTIMIZATION", "g_updates_per_step", 1, Whole(1)),
    Key("OPTIMIZATION", "d_updates_per_step", 5, Whole(1)),
    Key("OPTIMIZATION", "total_steps", 100000, Whole(1)),
)

PRE: Final = (Key("PRE", "apply_rflip", True, Flag(), about="mirror half of the real images"),)
CORE: Final = (*DATA, *MODEL, *OPTIMIZATION, *PRE)
