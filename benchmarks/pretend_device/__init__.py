"""A device that torch takes for an accelerator, with the CPU's memory and kernels behind it."""
