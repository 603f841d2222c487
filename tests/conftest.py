"""Settings for the whole suite."""

import os

import torch
from hypothesis import settings

# Without a GPU, Triton's kernels run in its interpreter, which it asks for when it is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The tensors of the tests are tiny: more threads only wait for each other.
torch.set_num_threads(1)

# Machines that run this suite are shared; a slow example is not a failure.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")
