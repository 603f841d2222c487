"""StudioGAN's networks ``deep_conv``, ``resnet`` and ``big_resnet``, rebuilt name for name."""
