"""Generated images."""

import torch
import utils.losses as losses


def generate_images(batch_size, z_dim, num_classes, generator, discriminator, LOSS):
    zs = torch.randn(batch_size, z_dim)
    labels = torch.randint(0, num_classes, (batch_size,))
    if LOSS.apply_lo:
        zs = losses.latent_optimise(zs, labels, generator, discriminator)
    return generator(zs, labels), labels
