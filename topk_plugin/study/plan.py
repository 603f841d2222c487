"""What a study is going to take, from a short warm-up on the machine at hand."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from topk_plugin.engine.config.config import Config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.plan import describe_plan, describe_top_k
from topk_plugin.engine.sample_grid import generate
from topk_plugin.engine.trainer import Trainer
from topk_plugin.evaluation.builtin_network import SmallClassifier
from topk_plugin.evaluation.extractors import choose_extractor, load_extractor
from topk_plugin.evaluation.inception import hub_weights_path
from topk_plugin.study import precision as precisions
from topk_plugin.study.spec import RunSpec
from topk_plugin.study.study import AUTO, Study, what_pairs_do_not_share
from topk_plugin.study.worker import RESULT, without_class

WARM_UP_STEPS = 2
TIMED_SECONDS = 8.0
MOST_TIMED_STEPS = 50
TIMED_SAMPLES = 64


@dataclass(frozen=True)
class Timing:
    """What a run of a GAN's arm takes.

    Attributes:
        step: seconds of a training step, by precision.
        sample: seconds to draw an image.
        images_per_step: real images that the critic sees in a step.
        steps_per_epoch: steps of an epoch.
        images: of the training.
        checkpoint: bytes of a checkpoint.
    """

    step: dict[str, float]
    sample: float
    images_per_step: int
    steps_per_epoch: float
    images: int
    checkpoint: int


@dataclass(frozen=True)
class Plan:
    """A study with its times, and the precision that follows from them.

    Attributes:
        specs: the runs, in their precision.
        choice: what :func:`topk_plugin.study.precision.choose` said; None where it was given.
        text: the plan for people.
    """

    specs: list[RunSpec]
    choice: dict[str, Any] | None
    text: str


def make_plan(
    study: Study,
    specs: Sequence[RunSpec],
    train: ImageSet,
    test: ImageSet,
    *,
    root: Path,
    at_once: int,
) -> Plan:
    """The plan of ``specs``, a few steps of every kind of run timed.

    Args:
        study: which.
        specs: its runs; their precision is a guess where the study's is ``AUTO``.
        train: the training split.
        test: the test split.
        root: folder of the runs, where a precision may have been chosen before.
        at_once: runs at the same time.

    Raises:
        UserError: a network can't be built, or Inception weights were given that do not exist.
    """
    choice = precisions.chosen_before(root) if study.precision == AUTO else None
    if choice is not None:
        tried: tuple[str, ...] = (choice["precision"],)
    else:
        tried = precisions.CHOICES if study.precision == AUTO else (study.precision,)
    kinds: dict[tuple[str, str], Timing] = {}
    for spec in specs:
        kind = _kind(spec)
        if kind not in kinds:
            kinds[kind] = _time(spec, train, tried)
    if study.precision == AUTO and choice is None:
        seconds = {
            name: sum(spec.steps * kinds[_kind(spec)].step[name] for spec in specs)
            for name in tried
        }
        choice = precisions.choose(seconds, specs[0].device)
    if choice is not None:
        specs = [
            replace(spec, precision=choice["precision"], precision_choice=choice) for spec in specs
        ]
    text = _describe(study, specs, train, test, root=root, at_once=at_once, kinds=kinds)
    if choice is not None:
        text += f"\n{precisions.describe(choice)}"
    return Plan(list(specs), choice, text)


def _kind(spec: RunSpec) -> tuple[str, str]:
    """Runs that take the same time: arms that differ in top-k's settings only do."""
    tree = {name: dict(section) for name, section in spec.config.items()}
    tree["LOSS"] = {k: v for k, v in tree["LOSS"].items() if "topk" not in k}
    return spec.gan, repr(tree)


def _describe(
    study: Study,
    specs: Sequence[RunSpec],
    train: ImageSet,
    test: ImageSet,
    *,
    root: Path,
    at_once: int,
    kinds: dict[tuple[str, str], Timing],
) -> str:
    extract = _extraction_seconds(specs[0], train)
    in_studiogan = specs[0].studiogan is not None
    looks = 1 if in_studiogan else len(specs[0].measured_at) + 1
    measured = "at the end of a run" if in_studiogan else f"{looks - 1} times a run and before it"
    lines = [
        f"{study.name}: {study.title}",
        f"data: {train.name}, {train.source}; {len(train):,} training, {len(test):,} test images",
        f"measured: {study.samples:,} images of the moving average and of the raw weights, "
        f"{measured}, in the features of the {study.extractor} "
        f"extractor, against the training split ({len(train):,} images) and the test split "
        f"({len(test):,})",
        f"precision {specs[0].precision}, device {specs[0].device}, {at_once} runs at once with "
        f"{specs[0].threads} CPU threads each",
    ]
    seconds = left = disk = 0.0
    for gan in dict.fromkeys(spec.gan for spec in specs):
        mine = [spec for spec in specs if spec.gan == gan]
        arms = list(dict.fromkeys(spec.arm for spec in mine))
        numbers = sorted({spec.seed for spec in mine})
        lines += [
            "",
            f"{gan}: {len(mine)} runs ({', '.join(arms)}; seeds {numbers[0]} to {numbers[-1]})",
        ]
        first = next(spec for spec in mine if spec.arm == arms[0])
        timing = kinds[_kind(first)]
        plan = describe_plan(
            Config.from_dict(first.config),
            images=timing.images,
            steps_per_epoch=timing.steps_per_epoch,
        )
        lines.append(f"  {plan[0]}")
        lines += [f"  {line}" for arm in arms for line in _of_arm(arm, mine, first, kinds)]
        lines.append(f"  {first.steps * timing.images_per_step:,} real images a run")
        for kind in dict.fromkeys(_kind(spec) for spec in mine):
            alike = [spec for spec in mine if _kind(spec) == kind]
            timing = kinds[kind]
            measuring = looks * 2 * study.samples * (timing.sample + (extract or 0.0))
            one = alike[0].steps * timing.step[alike[0].precision] + measuring
            seconds += one * len(alike)
            left += one * sum(not (root / spec.name / RESULT).exists() for spec in alike)
            disk += 2 * timing.checkpoint * len(alike)
            which = ", ".join(dict.fromkeys(spec.arm for spec in alike))
            lines += [
                f"  timed here ({which}): {timing.step[alike[0].precision]:.3g} s a step, "
                f"{1000 * timing.sample:.2g} ms to draw an image; a run takes {_hours(one)}, "
                f"{_hours(measuring)} of it to draw the images that are measured"
                + ("" if extract is None else " and for their features"),
                "  checkpoints kept: the last and the best of each run, "
                f"{timing.checkpoint / 2**20:,.0f} MiB each",
            ]
    lines.append("")
    if extract is None:
        lines.append(
            "not in it: features, for Inception's weights are not on this machine "
            "(--inception_weights FILE; else they are downloaded at the start)"
        )
    if in_studiogan:
        lines.append("steps were timed in the built-in trainer, and StudioGAN's is slower")
    lines.append("not in it: distances of the features, a fraction of a minute to minutes a look")
    unit = "GPU" if specs[0].device != "cpu" else "process"
    done = sum((root / spec.name / RESULT).exists() for spec in specs)
    lines.append(
        f"all: {len(specs)} runs, {seconds / 3600:,.1f} {unit}-hours, {_hours(seconds / at_once)} "
        f"with {at_once} at once, {disk / 2**30:,.1f} GiB of checkpoints"
    )
    if done:
        lines.append(f"{done} of them are finished; the rest takes {_hours(left / at_once)}")
    return "\n".join(lines)


def _of_arm(
    arm: str, mine: Sequence[RunSpec], baseline: RunSpec, kinds: dict[tuple[str, str], Timing]
) -> list[str]:
    """What an arm does with k, and what its runs do not share with the first arm's."""
    spec = next(spec for spec in mine if spec.arm == arm)
    lines = describe_top_k(Config.from_dict(spec.config), kinds[_kind(spec)].steps_per_epoch)
    apart = what_pairs_do_not_share(spec.config, baseline.config)
    if apart:
        lines.append(
            f"note: runs of a seed do not share {' and '.join(apart)} with {baseline.arm}, so "
            "pairs differ by more than what is compared, and more of them are needed"
        )
    return [f"{arm}: {line}" for line in lines]


def _time(spec: RunSpec, train: ImageSet, tried: Sequence[str]) -> Timing:
    config = Config.from_dict(spec.config)
    images = train if spec.hold_out is None else without_class(train, spec.hold_out)
    step: dict[str, float] = {}
    for precision in tried:
        trainer = Trainer(
            config,
            images,
            seed=spec.seed,
            device=torch.device(spec.device),
            precision=precision,
        )
        step[precision] = _seconds_a_step(trainer)
    return Timing(
        step=step,
        sample=_seconds_an_image(trainer),
        images_per_step=trainer.images_per_step,
        steps_per_epoch=trainer.steps_per_epoch,
        images=len(images),
        checkpoint=_checkpoint_bytes(trainer),
    )


def _seconds_a_step(trainer: Trainer) -> float:
    for _ in range(WARM_UP_STEPS):
        trainer.step()
    _wait(trainer.device)
    started, steps = time.perf_counter(), 0
    while steps == 0 or (
        steps < MOST_TIMED_STEPS and time.perf_counter() - started < TIMED_SECONDS
    ):
        trainer.step()
        _wait(trainer.device)
        steps += 1
    return (time.perf_counter() - started) / steps


def _seconds_an_image(trainer: Trainer) -> float:
    sampler = trainer.sampler()
    latents, labels = trainer.latents.latents(TIMED_SAMPLES), trainer.latents.labels(TIMED_SAMPLES)
    batch = trainer.config.OPTIMIZATION.batch_size
    generate(sampler, latents, labels, batch_size=batch)
    started = time.perf_counter()
    generate(sampler, latents, labels, batch_size=batch)
    return (time.perf_counter() - started) / TIMED_SAMPLES


def _extraction_seconds(spec: RunSpec, train: ImageSet) -> float | None:
    """Of an image, by the extractor's network; None where Inception's weights are missing."""
    device = torch.device(spec.device)
    module: torch.nn.Module
    if spec.extractor == "builtin":
        # what its weights are does not change the time
        module = SmallClassifier(train.images.shape[-1], len(train.class_names))
        module = module.eval().to(memory_format=torch.channels_last).to(device)
    else:
        given = None if spec.inception_weights is None else Path(spec.inception_weights)
        if spec.extractor == "inception" and given is None and not hub_weights_path().is_file():
            return None
        choice = choose_extractor(spec.extractor, data_name=train.name, inception_weights=given)
        module = load_extractor(choice, data=train, device=device).module
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
