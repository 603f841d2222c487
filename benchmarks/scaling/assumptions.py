"""What the model of many GPUs takes for granted."""

from benchmarks.scaling.model import Device, Link

# Assumptions, not measurements: a data-centre GPU at a third of its 300 Tflop/s in bf16, 5
# microseconds a launch, and a ring whose slowest links are between machines.
GPU = Device(rate=1e14, launch=5e-6)
NETWORK = Link(latency=1e-5, bandwidth=2.5e10)
# The batch is the config's, or so many samples a GPU where that is more.
LEAST_A_GPU = 8
