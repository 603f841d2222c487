"""What a preset is going to take, from a short warm-up on the machine at hand."""

import time
from collections.abc import Sequence

import torch
from tqdm import tqdm

from benchmarks.reproduction.presets import Preset
from benchmarks.reproduction.spec import RunSpec
from topk_plugin.engine.config import Config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.plan import describe_plan
from topk_plugin.engine.sample_grid import generate
from topk_plugin.engine.trainer import Trainer

WARM_UP_STEPS = 2
TIMED_SECONDS = 20.0
MOST_TIMED_STEPS = 50
TIMED_SAMPLES = 64


def describe(
    preset: Preset, specs: Sequence[RunSpec], train: ImageSet, test: ImageSet, *, at_once: int
) -> str:
    """The plan of ``specs``, a few steps of every GAN timed.

    Args:
        preset: which.
        specs: its runs.
        train: the training split.
        test: the test split.
        at_once: runs at the same time.
    """
    lines = [
        f"preset {preset.name}: {preset.title}",
        f"data: {train.name}, {train.source}; {len(train):,} training, {len(test):,} test images",
        f"measured: {preset.samples:,} images of the moving average and of the raw weights, "
        f"{preset.looks} times a run and before it, in the features of the {preset.extractor} "
        f"extractor, against the training split ({len(train):,} images) and the test split "
        f"({len(test):,})",
        f"precision {preset.precision}, device {specs[0].device}, {at_once} runs at once with "
        f"{specs[0].threads} CPU threads each",
    ]
    seconds = disk = 0.0
    for gan in dict.fromkeys(spec.gan for spec in specs):
        mine = [spec for spec in specs if spec.gan == gan]
        # without top-k nothing is selected: time the arm that does all there is to do
        spec = next((s for s in mine if s.arm == "topk"), mine[0])
        config = Config.from_dict(spec.config)
        trainer = Trainer(
            config,
            train,
            seed=0,
            device=torch.device(spec.device),
            precision=spec.precision,
        )
        step, sample = _timed(trainer)
        measuring = (preset.looks + 1) * 2 * preset.samples * sample
        one = config.OPTIMIZATION.total_steps * step + measuring
        size = _checkpoint_bytes(trainer)
        seconds += one * len(mine)
        disk += 2 * size * len(mine)
        arms = ", ".join(dict.fromkeys(s.arm for s in mine))
        lines += [
            "",
            f"{gan}: {len(mine)} runs ({arms}; seeds 0 to {max(s.seed for s in mine)})",
            *(
                f"  {line}"
                for line in describe_plan(
                    config, images=len(train), steps_per_epoch=trainer.steps_per_epoch
                )
            ),
            f"  {config.OPTIMIZATION.total_steps * trainer.images_per_step:,} real images a run",
            f"  timed here: {step:.3g} s a step, {1000 * sample:.2g} ms to draw an image; a run "
            f"takes {_hours(one)}, of which {_hours(measuring)} draw images to measure",
            f"  checkpoints kept: the last and the best of each run, {size / 2**20:,.0f} MiB each",
        ]
    unit = "GPU" if specs[0].device != "cpu" else "process"
    lines += [
        "",
        f"all: {len(specs)} runs, {seconds / 3600:,.1f} {unit}-hours, {_hours(seconds / at_once)} "
        f"with {at_once} at once, {disk / 2**30:,.1f} GiB of checkpoints",
    ]
    return "\n".join(lines)


def _timed(trainer: Trainer) -> tuple[float, float]:
    """Seconds of a training step, and of a drawn image."""
    for _ in range(WARM_UP_STEPS):
        trainer.step()
    _wait(trainer.device)
    started, steps = time.perf_counter(), 0
    while steps < MOST_TIMED_STEPS and time.perf_counter() - started < TIMED_SECONDS:
        trainer.step()
        _wait(trainer.device)
        steps += 1
    step = (time.perf_counter() - started) / steps
    sampler = trainer.sampler()
    latents, labels = trainer.latents.latents(TIMED_SAMPLES), trainer.latents.labels(TIMED_SAMPLES)
    batch = trainer.config.OPTIMIZATION.batch_size
    generate(sampler, latents, labels, batch_size=batch)
    started = time.perf_counter()
    generate(sampler, latents, labels, batch_size=batch)
    return step, (time.perf_counter() - started) / TIMED_SAMPLES


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _checkpoint_bytes(trainer: Trainer) -> int:
    """Weights, moving average and the two moments of Adam."""
    networks = (trainer.generator, trainer.discriminator)
    weights = [sum(p.numel() for p in network.parameters()) for network in networks]
    return 4 * (3 * sum(weights) + (weights[0] if trainer.ema is not None else 0))


def _hours(seconds: float) -> str:
    return tqdm.format_interval(seconds)
