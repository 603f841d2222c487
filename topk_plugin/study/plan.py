"""What a preset is going to take, from a short warm-up on the machine at hand."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.paper.presets import Preset
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.plan import describe_plan
from topk_plugin.engine.sample_grid import generate
from topk_plugin.engine.trainer import Trainer
from topk_plugin.evaluation.builtin_network import SmallClassifier
from topk_plugin.evaluation.extractors import choose_extractor
from topk_plugin.evaluation.inception import hub_weights_path, load_inception
from topk_plugin.study.spec import RunSpec
from topk_plugin.study.worker import without_class

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

    Raises:
        UserError: Inception weights were given that do not exist.
    """
    extract = _extraction_seconds(specs[0], train)
    looks = preset.looks + 1
    if specs[0].studiogan is not None:
        looks = 1  # what StudioGAN saved last
    measured = f"{preset.looks} times a run and before it" if looks > 1 else "at the end of a run"
    lines = [
        f"preset {preset.name}: {preset.title}",
        f"data: {train.name}, {train.source}; {len(train):,} training, {len(test):,} test images",
        f"measured: {preset.samples:,} images of the moving average and of the raw weights, "
        f"{measured}, in the features of the {preset.extractor} "
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
        images = train if spec.hold_out is None else without_class(train, spec.hold_out)
        trainer = Trainer(
            config,
            images,
            seed=0,
            device=torch.device(spec.device),
            precision=spec.precision,
        )
        step, sample = _timed(trainer)
        measuring = looks * 2 * preset.samples * (sample + (extract or 0.0))
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
                    config, images=len(images), steps_per_epoch=trainer.steps_per_epoch
                )
            ),
            f"  {config.OPTIMIZATION.total_steps * trainer.images_per_step:,} real images a run",
            f"  timed here: {step:.3g} s a step, {1000 * sample:.2g} ms to draw an image; a run "
            f"takes {_hours(one)}, {_hours(measuring)} of it to draw the images that are measured"
            + ("" if extract is None else " and for their features"),
            f"  checkpoints kept: the last and the best of each run, {size / 2**20:,.0f} MiB each",
        ]
    lines.append("")
    if extract is None:
        lines.append(
            "not in it: features, for Inception's weights are not on this machine "
            "(--inception_weights FILE; else they are downloaded at the start)"
        )
    if specs[0].studiogan is not None:
        lines.append("steps were timed in the built-in trainer, and StudioGAN's is slower")
    lines.append("not in it: distances of the features, a fraction of a minute to minutes a look")
    unit = "GPU" if specs[0].device != "cpu" else "process"
    lines += [
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


def _extraction_seconds(spec: RunSpec, train: ImageSet) -> float | None:
    """Of an image, by the extractor's network; None where Inception's weights are missing."""
    device = torch.device(spec.device)
    module: torch.nn.Module
    if spec.extractor == "builtin":
        # what its weights are does not change the time
        module = SmallClassifier(train.images.shape[-1], len(train.class_names))
        module = module.eval().to(memory_format=torch.channels_last)
    else:
        if spec.inception_weights is None and not hub_weights_path().is_file():
            return None
        given = None if spec.inception_weights is None else Path(spec.inception_weights)
        choice = choose_extractor("inception", data_name=train.name, inception_weights=given)
        assert choice.weights is not None
        module = load_inception(choice.weights)
    module = module.to(device)
    images = train.images[:TIMED_SAMPLES].to(device)
    with torch.no_grad():
        module(images)
        _wait(device)
        started = time.perf_counter()
        module(images)
        _wait(device)
    return (time.perf_counter() - started) / len(images)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _checkpoint_bytes(trainer: Trainer) -> int:
    """Weights, moving average and the two moments of Adam."""
    networks = (trainer.generator, trainer.critic)
    weights = [sum(p.numel() for p in network.parameters()) for network in networks]
    return 4 * (3 * sum(weights) + (weights[0] if trainer.averaged_generator() is not None else 0))


def _hours(seconds: float) -> str:
    return tqdm.format_interval(seconds)
