"""The built-in trainer: configuration, data, networks, losses and the training loop."""
