"""Loss terms of the generator and the discriminator."""
