"""fp32 or bf16: what each costs on this machine, by the clock."""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from topk_plugin.base.environment import BF16_UNITS, cpu_model, cpu_units
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.trainer import Trainer

PRECISIONS = ("fp32", "bf16")
MOST_SECONDS = 5.0
FEWEST_STEPS, MOST_STEPS = 2, 10
WORTH_IT = 0.95
"""bf16 has to take less than this share of fp32's time: a tie is not worth its rounding."""


def step_seconds(
    config: Config, images: ImageSet, *, device: torch.device, seed: int
) -> dict[str, float]:
    """Seconds of a training step in each precision, with trainers that are thrown away.

    Takes the fastest of a few steps, at most 5 seconds of them, after one to warm up.
    """
    seconds = {}
    for precision in PRECISIONS:
        trainer = Trainer(config, images, seed=seed, device=device, precision=precision)
        seconds[precision] = _fastest(trainer.step, device)
    return seconds


def faster(seconds: dict[str, float]) -> str:
    """The precision to take after `step_seconds`."""
    return "bf16" if seconds["bf16"] < WORTH_IT * seconds["fp32"] else "fp32"


def bf16_cost() -> float:
    """How many times fp32's time a 3x3 convolution and its gradients take in bf16 on this CPU."""
    with torch.random.fork_rng(devices=[]):
        images = torch.randn(16, 64, 32, 32).to(memory_format=torch.channels_last)
        weight = torch.randn(64, 64, 3, 3).requires_grad_()
    images.requires_grad_()

    def convolve() -> None:
        F.conv2d(images, weight, padding=1).float().square().sum().backward()

    def convolve_in_bf16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            convolve()

    device = torch.device("cpu")
    return _fastest(convolve_in_bf16, device) / _fastest(convolve, device)


def describe_bf16(cost: float) -> str:
    """What `bf16_cost` found, in words."""
    found = [unit for unit in cpu_units() if unit in BF16_UNITS]
    with_units = f"with {', '.join(found)}" if found else "without 16-bit units that it tells of"
    return (
        f"bf16 on this CPU ({cpu_model()}, {with_units}): a convolution and its gradients take "
        f"{cost:.2g} times fp32's time"
    )


def _fastest(step: Callable[[], object], device: torch.device) -> float:
    step()
    _wait(device)
    begun = time.perf_counter()
    times: list[float] = []
    while len(times) < FEWEST_STEPS or (
        len(times) < MOST_STEPS and time.perf_counter() - begun < MOST_SECONDS
    ):
        started = time.perf_counter()
        step()
        _wait(device)
        times.append(time.perf_counter() - started)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
