"""Settings for the whole suite."""

import torch
from hypothesis import settings

# The tensors of the tests are tiny: more threads only wait for each other.
torch.set_num_threads(1)

# Machines that run this suite are shared; a slow example is not a failure.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")
