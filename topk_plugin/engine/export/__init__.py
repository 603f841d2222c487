"""A trained generator as a folder to hand on: weights, program, card."""
