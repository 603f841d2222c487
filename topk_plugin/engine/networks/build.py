"""From the MODEL and DATA sections of a configuration to networks."""

from topk_plugin.engine.config import DataConfig, ModelConfig
from topk_plugin.engine.networks.big_resnet_discriminator import Discriminator
from topk_plugin.engine.networks.big_resnet_generator import Generator
from topk_plugin.ops.spectral_norm import BatchedSpectralNorm


def build_generator(model: ModelConfig, data: DataConfig) -> Generator:
    """The generator that ``model`` and ``data`` describe, freshly initialised on the CPU.

    Raises:
        ValueError: a value outside of what the generator allows.
    """
    conditional = model.g_cond_mtd != "W/O"
    if conditional and model.g_shared_dim is None:
        raise ValueError("g_shared_dim is None; a conditional generator needs its length")
    generator = Generator(
        z_dim=model.z_dim,
        img_size=data.img_size,
        num_classes=data.num_classes,
        conv_dim=model.g_conv_dim,
        shared_dim=model.g_shared_dim if conditional else None,
        spectral=model.apply_g_sn,
        attention_after=model.attn_g_loc if model.apply_attn else (),
        activation_name=model.g_act_fn,
        init=model.g_init,
    )
    if model.apply_g_sn:
        BatchedSpectralNorm(generator)
    return generator


def build_discriminator(model: ModelConfig, data: DataConfig) -> Discriminator:
    """The discriminator that ``model`` and ``data`` describe, freshly initialised on the CPU.

    Raises:
        ValueError: a value outside of what the discriminator allows.
    """
    discriminator = Discriminator(
        img_size=data.img_size,
        num_classes=data.num_classes,
        conv_dim=model.d_conv_dim,
        conditioning=model.d_cond_mtd,
        embed_dim=model.d_embed_dim,
        normalize_embed=model.normalize_d_embed,
        spectral=model.apply_d_sn,
        attention_after=model.attn_d_loc if model.apply_attn else (),
        activation_name=model.d_act_fn,
        init=model.d_init,
    )
    if model.apply_d_sn:
        BatchedSpectralNorm(discriminator)
    return discriminator
