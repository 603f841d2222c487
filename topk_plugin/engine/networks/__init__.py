"""StudioGAN's networks ``deep_conv``, ``resnet`` and ``big_resnet``, rebuilt name for name."""

from topk_plugin.engine.networks.build import build_discriminator, build_generator

__all__ = ["build_discriminator", "build_generator"]
