"""From settings to networks: backbone, head, and what methods change of them."""

from torch import nn

from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.registry import methods_on
from topk_plugin.engine.networks.backbones import backbone_of
from topk_plugin.engine.networks.scoring import Head
from topk_plugin.ops.spectral_norm import BatchedSpectralNorm


def build_generator(settings: Settings) -> nn.Module:
    """The generator that ``settings`` describe, freshly initialised on the CPU.

    It maps latent vectors [N, z_dim] and labels [N] to images [N, 3, img_size, img_size].

    Raises:
        ValueError: a value outside of what the generator allows.
    """
    generator = backbone_of(settings).generator(settings)
    for method in methods_on(settings):
        if method.change_generator is not None:
            generator = method.change_generator(generator, settings)
    if settings.MODEL.apply_g_sn:
        BatchedSpectralNorm(generator)
    return generator


def build_critic(settings: Settings) -> nn.Module:
    """The critic that ``settings`` describe, freshly initialised on the CPU.

    It maps images [N, 3, img_size, img_size] and labels [N] to
    :data:`~topk_plugin.engine.networks.scoring.Outputs`.

    Raises:
        ValueError: a value outside of what the critic allows.
    """
    critic = backbone_of(settings).critic(settings, head_of(settings))
    for method in methods_on(settings):
        if method.change_critic is not None:
            critic = method.change_critic(critic, settings)
    if settings.MODEL.apply_d_sn:
        BatchedSpectralNorm(critic)
    return critic


def head_of(settings: Settings) -> Head:
    """The last layers of the critic that MODEL.d_cond_mtd asks for.

    Raises:
        ValueError: no method has such a head.
    """
    heads = (method.head for method in methods_on(settings) if method.head is not None)
    kind = next(heads, None)
    if kind is None:
        raise ValueError(f"d_cond_mtd is {settings.MODEL.d_cond_mtd!r}; no method has that head")
    head = kind(settings)
    for method in methods_on(settings):
        if method.change_head is not None:
            head = method.change_head(head)
    return head
