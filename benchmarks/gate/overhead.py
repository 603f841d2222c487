"""What the gate costs: time and peak memory of a generator step with it, without it, and sliced.

    python -m benchmarks.gate.overhead --save benchmarks/results/overhead

The generator step of the 32-channel CIFAR-10 BigGAN at batch 64, k at half of the batch. Arms are
timed in turn inside one process, in changing order, so that a drift of the machine's speed meets
all of them alike; each round gives one ratio to the step without a plugin, and one of that step to
itself ("again"), which shows the noise. The interval is a bootstrap of the median ratio. Since the
noise is larger than the gate, its own work (selection and weighting) is also timed alone. Peak
memory is that of one step above what was held before it, from torch's profiler on a CPU and from
torch's allocator on a GPU. `--compile` compiles the networks.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import median_ratio
from topk_plugin import KSchedule, TopK
from topk_plugin.base.environment import environment
from topk_plugin.base.files import write_json
from topk_plugin.engine.building import build_critic, build_generator
from topk_plugin.engine.config.config import Config

# "again" is the step without a plugin once more: its ratio to "none" shows the noise.
ARMS = ("none", "again", "slice", "gate")
PAIRS = (("gate", "none"), ("again", "none"), ("slice", "none"), ("gate", "slice"))
MODEL = {
    "backbone": "big_resnet",
    "g_cond_mtd": "cBN",
    "d_cond_mtd": "PD",
    "apply_g_sn": True,
    "apply_d_sn": True,
    "apply_attn": True,
    "attn_g_loc": (2,),
    "attn_d_loc": (1,),
    "z_dim": 80,
    "g_shared_dim": 128,
}


class GeneratorStep:
    """Forward and backward of the generator's hinge loss through generator and critic."""

    def __init__(self, channels: int, batch: int, device: torch.device, compiled: bool) -> None:
        torch.manual_seed(0)
        config = Config.unchecked(MODEL={**MODEL, "g_conv_dim": channels, "d_conv_dim": channels})
        self.generator: nn.Module = build_generator(config).to(device)
        self.critic: nn.Module = build_critic(config).to(device)
        for network in (self.generator, self.critic):  # as the trainer has them
            network.to(memory_format=torch.channels_last)
        self.critic.requires_grad_(False)
        if compiled:
            self.generator = cast(nn.Module, torch.compile(self.generator))
            self.critic = cast(nn.Module, torch.compile(self.critic))
        self.batch, self.k = batch, batch // 2
        self.z = torch.randn(batch, config.MODEL.z_dim, device=device)
        self.labels = torch.randint(10, (batch,), device=device)
        self.topk = TopK(KSchedule(gamma=0.5, nu=0.5))
        self.topk.load_state_dict({**self.topk.state_dict(), "epochs": 1})

    def arm(self, name: str) -> Callable[[], None]:
        arms = {"slice": self._sliced, "gate": self._gated}
        return arms.get(name, self._plain)

    def _scores(self) -> Tensor:
        for parameter in self.generator.parameters():
            parameter.grad = None
        scores: Tensor = self.critic(self.generator(self.z, self.labels), self.labels)["adv_output"]
        return scores

    def _plain(self) -> None:
        (-self._scores().mean()).backward()

    def _sliced(self) -> None:
        (-torch.topk(self._scores(), self.k).values.mean()).backward()

    def _gated(self) -> None:
        with self.topk.generator_step():
            (-self._scores().mean()).backward()
        self.topk.end_step()

    @contextmanager
    def attached(self, name: str) -> Iterator[None]:
        """The gate is on the critic only while its own arm runs."""
        handle = self.topk.attach(self.critic, score="adv_output") if name == "gate" else None
        yield
        if handle is not None:
            handle.remove()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_seconds(
    step: GeneratorStep, rounds: int, device: torch.device
) -> dict[str, list[float]]:
    for name in ARMS:
        with step.attached(name):
            for _ in range(3):
                step.arm(name)()
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    for i in range(rounds):
        # the order turns and mirrors: no arm always follows the same other
        order = [ARMS[(i + j) % len(ARMS)] for j in range(len(ARMS))]
        for name in order if i % 2 else reversed(order):
            with step.attached(name):
                synchronize(device)
                start = time.perf_counter()
                step.arm(name)()
                synchronize(device)
                seconds[name].append(time.perf_counter() - start)
    return seconds


def measure_peak_bytes(step: GeneratorStep, name: str, device: torch.device) -> int:
    """Most bytes held at once during one step, above what was held before it."""
    step.arm(name)()  # gradients exist from now on, as in the middle of a training
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step.arm(name)()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        step.arm(name)()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trace.json")
        profiler.export_chrome_trace(path)
        trace = json.loads(Path(path).read_text())
    events = [e for e in trace["traceEvents"] if e.get("name") == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    changes = np.cumsum([event["args"]["Bytes"] for event in events])
    return int(changes.max())


def selection_share(step: GeneratorStep, device: torch.device) -> float:
    """Seconds of the gate's own work (select, weight the gradient), timed alone many times."""
    scores = torch.randn(step.batch, device=device)
    images = torch.randn(step.batch, 3, 32, 32, device=device, requires_grad=True)

    class Scored(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x[:, 0, 0, :1], x.new_ones(1, 1)).squeeze(1) * 0 + scores

    topk = TopK(KSchedule(gamma=0.5, nu=0.5))
    topk.load_state_dict({**topk.state_dict(), "epochs": 1})
    critic = Scored()
    incoming = torch.randn(step.batch, device=device)

    def once(gated: bool) -> float:
        images.grad = None
        synchronize(device)
        start = time.perf_counter()
        if gated:
            with topk.generator_step():
                critic(images).backward(incoming)
        else:
            critic(images).backward(incoming)
        synchronize(device)
        return time.perf_counter() - start

    topk.attach(critic)
    pairs = [(once(True), once(False)) for _ in range(300)]
    return float(np.median([gated - plain for gated, plain in pairs[20:]]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="also measure compiled networks")
    parser.add_argument("--save", type=Path, help="folder for overhead.json")
    options = parser.parse_args()
    device = torch.device(options.device)
    modes: dict[str, Any] = {}
    result = {
        "command": "python -m benchmarks.gate.overhead "
        + f"--rounds {options.rounds}{' --compile' if options.compile else ''}",
        "environment": environment(),
        "channels": options.channels,
        "batch": options.batch,
        "modes": modes,
    }
    for mode in ("eager", "compiled") if options.compile else ("eager",):
        step = GeneratorStep(options.channels, options.batch, device, mode == "compiled")
        seconds = measure_seconds(step, options.rounds, device)
        peaks = {}
        for name in ARMS:
            with step.attached(name):
                peaks[name] = measure_peak_bytes(step, name, device)
        own = selection_share(step, device)
        entry: dict[str, Any] = {
            "median_seconds": {name: float(np.median(seconds[name])) for name in ARMS},
            "peak_bytes": peaks,
            "gate_own_seconds": own,
            "gate_own_share": own / float(np.median(seconds["none"])),
        }
        print(
            f"{mode}: step without a plugin {entry['median_seconds']['none'] * 1e3:.1f} ms, "
            f"gate and selection alone {own * 1e3:.3f} ms = {entry['gate_own_share']:.3%} of it"
        )
        for ours, base in PAIRS:
            median, low, high = median_ratio(seconds[ours], seconds[base])
            memory = peaks[ours] / peaks[base]
            entry[f"{ours}/{base}"] = {"time": median, "low": low, "high": high, "peak": memory}
            print(
                f"  {ours} / {base}: time {median:.4f} [{low:.4f}, {high:.4f}], "
                f"peak memory {memory:.4f} ({peaks[ours] / 2**20:.1f} MiB)"
            )
        modes[mode] = entry
    if options.save:
        write_json(options.save / "overhead.json", result)


if __name__ == "__main__":
    main()
