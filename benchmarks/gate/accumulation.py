"""What a selection over all micro-batches of an update costs, against one in each.

    python -m benchmarks.gate.accumulation --save benchmarks/results/accumulation

The generator's update of the 32-channel CIFAR-10 BigGAN over 64 samples, k at half, in
micro-batches of several sizes. "micro" selects in each, "effective" over all of them after a first
look without gradient; "again" is "micro" once more, whose ratio to it shows the noise. Arms are
timed in turn inside one process, in changing order, by the processor time that the process got,
which other processes change little. A whole training iteration, of the trainer with the config
CIFAR10/BigGAN-TopK at that width, has five updates of the critic beside the generator's.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import median_ratio, save_result
from benchmarks.gate.overhead import GeneratorStep
from topk_plugin import KSchedule, TopK
from topk_plugin.engine.config.config import load_config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.shipped_configs import config_file
from topk_plugin.engine.trainer import Trainer

ARMS = {"micro": "micro", "effective": "effective", "again": "micro"}
SAMPLES, CHANNELS = 64, 32
MICRO_BATCHES = (32, 16, 8, 2)


class Update(GeneratorStep):
    """One update of the generator over micro-batches of ``size``."""

    def __init__(self, size: int) -> None:
        super().__init__(CHANNELS, SAMPLES, torch.device("cpu"), compiled=False)
        self._micro_batches = list(zip(self.z.split(size), self.labels.split(size), strict=True))

    def arm(self, name: str) -> Callable[[], None]:
        topk = TopK(KSchedule(gamma=0.5, nu=0.5), accumulation=ARMS[name])  # type: ignore[arg-type]
        topk.load_state_dict({**topk.state_dict(), "epochs": 1})

        def forward(given: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            scores = self.critic(self.generator(given[0], given[1]), given[1])["adv_output"]
            return -scores.mean() / len(self._micro_batches)

        def update() -> None:
            for parameter in self.generator.parameters():
                parameter.grad = None
            handle = topk.attach(self.critic, score="adv_output")
            with topk.generator_step() as step:
                networks = [self.generator, self.critic]
                for loss in step.accumulate(forward, self._micro_batches, networks=networks):
                    loss.backward()
            handle.remove()
            topk.end_step()

        return update


def iteration(name: str, size: int) -> Callable[[], None]:
    """One step of the built-in trainer."""
    overrides = [
        f"LOSS.topk_accumulation={ARMS[name]}",
        f"OPTIMIZATION.batch_size={size}",
        f"OPTIMIZATION.acml_steps={SAMPLES // size}",
        f"MODEL.g_conv_dim={CHANNELS}",
        f"MODEL.d_conv_dim={CHANNELS}",
    ]
    config = load_config(config_file(Path("CIFAR10/BigGAN-TopK")), overrides)
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3200, 3, 32, 32), dtype=torch.uint8, generator=random)
    names = tuple(map(str, range(10)))
    data = ImageSet(images, torch.arange(3200) % 10, names, "noise", "made for the benchmark")
    trainer = Trainer(config, data, seed=0, device=torch.device("cpu"))
    trainer.progress.epochs = 100  # k is at its floor

    def step() -> None:
        trainer.step()

    return step


def seconds_of(arms: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each arm, one a round, interleaved."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for run in arms.values():
        run()
    for i in range(rounds):
        order = names[i % len(names) :] + names[: i % len(names)]
        for name in order if i % 2 else reversed(order):
            start = time.process_time()
            arms[name]()
            seconds[name].append(time.process_time() - start)
    return seconds


def row(what: str, size: int, arms: dict[str, Callable[[], None]], rounds: int) -> dict[str, Any]:
    """One line of the table."""
    seconds = seconds_of(arms, rounds)
    result = {
        "what": what,
        "micro_batch": size,
        "rounds": rounds,
        "micro_seconds": sorted(seconds["micro"])[rounds // 2],
        "effective/micro": median_ratio(seconds["effective"], seconds["micro"]),
        "again/micro": median_ratio(seconds["again"], seconds["micro"]),
    }
    print(result, flush=True)
    return result


def report(result: dict[str, Any]) -> str:
    """The page."""
    lines = [
        "# What a selection over the effective batch costs",
        "",
        f"`{result['command']}` on {result['threads']} thread(s): median ratio of the processor "
        f"time and its bootstrap 95 % interval; the {CHANNELS}-channel CIFAR-10 BigGAN, {SAMPLES} "
        "samples an update, fp32.",
        "",
        "| | micro-batches | effective / micro | micro / micro (the noise) |",
        "|---|---|---|---|",
    ]
    for entry in result["rows"]:
        size = entry["micro_batch"]
        cells = (
            "{:.2f} [{:.2f}, {:.2f}]".format(*entry[f"{a}/micro"]) for a in ("effective", "again")
        )
        lines.append(f"| {entry['what']} | {SAMPLES // size} of {size} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--save", type=Path, help="folder for results.json and README.md")
    options = parser.parse_args()
    rows = []
    for size in MICRO_BATCHES:
        update = Update(size)
        arms = {name: update.arm(name) for name in ARMS}
        rows.append(row("generator update", size, arms, options.rounds))
    for size in (32, 16):
        arms = {name: iteration(name, size) for name in ARMS}
        rows.append(row("training iteration", size, arms, max(3, options.rounds // 2)))
    if options.save:
        command = f"python -m benchmarks.gate.accumulation --rounds {options.rounds}"
        save_result(
            options.save,
            {"command": command, "threads": torch.get_num_threads(), "rows": rows},
            report,
        )


if __name__ == "__main__":
    main()
