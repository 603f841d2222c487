"""Numbers that are not finite: in images, scores, losses and gradients, at random steps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from benchmarks.faults.compare import differences
from benchmarks.faults.fault import Fault, Outcome
from benchmarks.faults.program import STEPS, Program, seeded
from benchmarks.faults.shim import Rule
from topk_plugin.cli.common import DIVERGED
from topk_plugin.engine.checkpoint import load_checkpoint
from topk_plugin.engine.divergence import not_finite
from topk_plugin.engine.trainer import Trainer


class Handle(Protocol):
    """What takes a fault out again."""

    def remove(self) -> None: ...


Hurt = Callable[[Trainer], Handle]


def in_gradient(network: str, value: float) -> Hurt:
    """All of the gradient of one weight of "generator" or "critic"."""

    def hurt(trainer: Trainer) -> Handle:
        weight = next(getattr(trainer, network).parameters()).requires_grad_(True)
        return weight.register_hook(lambda grad: torch.full_like(grad, value))

    return hurt


def in_scores(value: float) -> Hurt:
    """One score of every batch that the critic sees."""

    def hurt(trainer: Trainer) -> Handle:
        def change(module: nn.Module, given: Any, output: dict[str, Tensor]) -> dict[str, Tensor]:
            scores = output["adv_output"].clone()
            scores[0] = value
            return output | {"adv_output": scores}

        return trainer.critic.register_forward_hook(change)

    return hurt


def in_images(value: float) -> Hurt:
    """One pixel of every batch that the critic sees."""

    def hurt(trainer: Trainer) -> Handle:
        def change(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            images = given[0].clone()
            images[1, 0, 3, 3] = value
            return images, *given[1:]

        return trainer.critic.register_forward_pre_hook(change)

    return hurt


class _Loss:
    def __init__(self, trainer: Trainer, value: float) -> None:
        self._objectives, inner = trainer.objectives, trainer.objectives.of_generator
        self._objectives.of_generator = lambda *given: inner(*given) * value  # type: ignore[method-assign]

    def remove(self) -> None:
        del self._objectives.of_generator


NAN, INF = float("nan"), float("inf")
# name -> how, and the networks whose updates are not finite then
KINDS: dict[str, tuple[Hurt, tuple[str, ...]]] = {
    **{
        f"{value} in the {network}'s gradient": (
            in_gradient(network, value),
            ("discriminator" if network == "critic" else network,),
        )
        for network in ("generator", "critic")
        for value in (NAN, INF)
    },
    **{f"{v} in scores": (in_scores(v), ("generator", "discriminator")) for v in (NAN, -INF)},
    **{f"{v} in images": (in_images(v), ("generator", "discriminator")) for v in (NAN, INF)},
    **{f"{v} as loss": (lambda t, v=v: _Loss(t, v), ("generator",)) for v in (NAN, INF)},  # type: ignore[misc]
}


def hurt_at(steps: set[int], hurt: Hurt) -> Callable[[], None]:
    """Have the trainer of a forked process be hurt in these steps, counted from 0."""

    def change() -> None:
        step = Trainer.step

        def hurt_step(self: Trainer) -> dict[str, Tensor]:
            handle = hurt(self) if self.step_count in steps else None
            try:
                return step(self)
            finally:
                if handle is not None:
                    handle.remove()

        Trainer.step = hurt_step  # type: ignore[method-assign]

    return change


def skipped(program: Program, trials: int) -> Outcome:
    """--on_divergence skip: what is not finite is not applied, counted, said."""
    outcome, draw = Outcome(), seeded("skipped")
    kinds = list(KINDS)
    for trial in range(trials):
        kind = kinds[trial % len(kinds)]
        hurt, sides = KINDS[kind]
        steps = set(draw.sample(range(STEPS), 3))
        run, before = program.place("hurt"), hurt_at(steps, hurt)
        options = ("-metrics", "fid", "--on_divergence", "skip")
        ended = program.run(program.train(run, *options), before=before)
        how = f"{kind} in steps {sorted(steps)}"
        outcome.trials += 1
        said = "updates left out so far" in ended.said
        if not outcome.check(ended.status == 0 and said, f"{how}: {ended.status}: {ended.said}"):
            continue
        outcome.check(not (trouble := _not_finite(run)), f"{how}: {trouble}")
        counted = json.loads((run / "result.json").read_text("utf-8"))["skipped_updates"]
        # the critic has one update a step
        expected = {s: 3 * (s in sides) for s in ("generator", "discriminator")}
        outcome.check(counted == expected, f"{how}: counted {counted}, not {expected}")
        outcome.notes["left out"] = outcome.notes.get("left out", 0) + sum(counted.values())
        # and exactly resumable
        again, at = program.place("hurt"), draw.randint(100, 300)
        program.run(program.train(again, *options), Rule(again, at=at), before)
        program.run(program.train(again, *options, "-ckpt", "auto"), before=before)
        outcome.check(not (found := differences(run, again)), f"{how}, killed: {found}")
    return outcome


def for_ever(program: Program, trials: int) -> Outcome:
    """All updates from some step on are not finite: the run ends, with a good checkpoint."""
    outcome, draw = Outcome(), seeded("for ever")
    kinds = list(KINDS)
    for trial in range(trials):
        kind, first = kinds[trial % len(kinds)], draw.randint(1, 8)
        for wish in ("skip", "stop"):
            run = program.place("hurt")
            more = ("-metrics", "none", "--on_divergence", wish, "--save_freq", 20)
            steps = ("--set", "OPTIMIZATION.total_steps=80")
            before = hurt_at(set(range(first, 80)), KINDS[kind][0])
            ended = program.run(program.train(run, *more, *steps), before=before)
            outcome.trials += 1
            how = f"{wish}, {kind} from step {first} on"
            outcome.count(f"{wish}: status {ended.status}")
            if wish == "skip":
                said = "in a row" in ended.said and ended.status == DIVERGED
                outcome.check(said, f"{how}: status {ended.status}: {ended.said}")
            outcome.check("Traceback" not in ended.said, f"{how}: {ended.said}")
            outcome.check(not (trouble := _not_finite(run)), f"{how}: {trouble}")
    return outcome


def _not_finite(run: Path) -> str:
    """What is not finite in the last checkpoint; "" where all is."""
    found = not_finite(load_checkpoint(run / "checkpoints" / "last.pt").trainer)
    return ", ".join(found[:3])


FAULTS = (
    Fault(
        "not-finite",
        "`--on_divergence skip`; NaN or infinity in three random steps: in images, scores, "
        "the loss, the gradient of the generator or the critic",
        "those updates alone are left out, counted, said; all of the state stays finite; killed "
        "and resumed the same bit for bit",
        skipped,
        1,
        20,
    ),
    Fault(
        "not-finite-for-ever",
        "the same in every step from a random one on; `skip` and `stop`",
        "`skip` ends with a sentence, status 3 and a good checkpoint; none is ever saved that is "
        "not finite",
        for_ever,
        0,
        10,
    ),
)
