"""Operations of BigGAN networks, each with a plain reference beside it."""
