"""`topk-plugin mixture`."""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from topk_plugin.base.errors import UserError
from topk_plugin.cli.common import add_device_argument, chosen_device, nonempty_path, say

HELP = "the paper's analysis on a 2-D mixture of Gaussians, with error bars"

SETTINGS: dict[str, tuple[type, str]] = {
    "std": (float, "standard deviation of each Gaussian"),
    "spacing": (float, "distance of neighbouring means"),
    "layout": (str, "of the means: grid or ring"),
    "imbalance": (float, "how many times likelier the likeliest Gaussian is than the rarest"),
    "loss": (str, "non-saturating, hinge, wgan-gp or least-squares"),
    "penalty": (float, "weight of wgan-gp's gradient penalty"),
    "steps": (int, "generator updates"),
    "critic_steps": (int, "critic updates before each of them"),
    "batch": (int, "samples a batch"),
    "latent": (int, "dimension of the latents"),
    "width": (int, "of the hidden layers"),
    "layers": (int, "number of hidden layers"),
    "lr": (float, "Adam's learning rate"),
    "beta1": (float, "Adam's decay rate of the mean"),
    "beta2": (float, "Adam's decay rate of the square"),
    "evaluations": (int, "how often measured, evenly"),
    "samples": (int, "samples measured"),
}


def steps_or_part(text: str) -> int | str:
    """A number of steps, or a part of the training such as "30%"."""
    return text if text.endswith("%") else int(text)


SCHEDULE: dict[str, tuple[Callable[[str], Any], str]] = {
    "gamma": (float, "factor on the kept fraction (default: 0.99)"),
    "nu": (float, "floor of the kept fraction (default: 0.75)"),
    "every": (int, "steps between two factors (default: a 50th of the training)"),
    "onset": (int, "steps with the full batch before (default: 0)"),
    "release_from": (
        steps_or_part,
        "step, or part of the training such as 30%%, from which k rises again (default: never)",
    ),
    "release_to": (
        steps_or_part,
        "step or part at which k is the whole batch again",
    ),
    "normalize": (str, "kept: mean over the kept samples (default); batch: over the batch"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-save",
        "--save_dir",
        type=nonempty_path,
        required=True,
        metavar="DIR",
        help="folder of the report; a folder inside it for each training, which goes on from there",
    )
    parser.add_argument(
        "--report",
        type=nonempty_path,
        metavar="DIR",
        help="another folder for the report, its figures and numbers",
    )
    parser.add_argument(
        "--preset",
        choices=("quick", "table"),
        default="quick",
        help="quick: 25 modes, 3 seeds, minutes; table: 25, 64 and 100 modes, 5 seeds, hours",
    )
    parser.add_argument("--modes", type=int, nargs="+", help="numbers of Gaussians, square numbers")
    parser.add_argument("--seeds", type=int, metavar="N", help="number of seeds: 0 .. N - 1")
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=("full", "top", "bottom", "random", "released"),
        default=["full", "top", "bottom", "random"],
        help="the first one is the baseline of the comparisons; released is top-k with nu 0.25 by "
        "a tenth of the training and k back to the whole batch from 30%% to 60%%, whatever the "
        "schedule below (default: all but that)",
    )
    parser.add_argument(
        "--arm",
        dest="more_arms",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "KEY=VALUE"),
        help="one more arm, with what differs from the schedule: policy, gamma, nu, every, onset, "
        "release_from, release_to, normalize; may be repeated",
    )
    parser.add_argument(
        "--analyses", type=int, metavar="N", help="oracle analyses along each training"
    )
    groups: tuple[tuple[Mapping[str, tuple[Callable[[str], Any], str]], str], ...] = (
        (SCHEDULE, "schedule of k"),
        (SETTINGS, "training"),
    )
    for group, title in groups:
        section = parser.add_argument_group(title)
        for name, (kind, text) in group.items():
            section.add_argument(f"--{name}", type=kind, help=text)
    add_device_argument(parser)


def run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from topk_plugin.mixture.lab.presets import PRESETS, trainings
    from topk_plugin.mixture.lab.training import train
    from topk_plugin.mixture.report.report import REPORT_FILE, write_report

    device = chosen_device(options.device)
    preset = PRESETS[options.preset]
    given: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("modes", "seeds", "analyses")
        if getattr(options, name) is not None
    }
    if "modes" in given:
        given["modes"] = tuple(given["modes"])
    settings = {n: getattr(options, n) for n in SETTINGS if getattr(options, n) is not None}
    preset = dataclasses.replace(preset, **given, settings={**preset.settings, **settings})
    schedule = {n: getattr(options, n) for n in SCHEDULE if getattr(options, n) is not None}
    more_arms = tuple(_arm(words) for words in options.more_arms)
    results = []
    for setting in trainings(
        preset, arm_names=tuple(options.arms), schedule=schedule, more_arms=more_arms
    ):
        folder = Path(options.save_dir) / f"modes-{setting.modes}"
        with tqdm(total=setting.steps, unit="step", desc=f"{setting.modes} modes") as bar:

            def advance(step: int, bar: Any = bar) -> None:
                bar.update(step - bar.n)

            result = train(
                setting,
                folder,
                device=device,
                analyses=preset.analyses,
                progress=advance,
            )
        results.append((folder, result))
    report = options.report or options.save_dir
    write_report(results, report, shlex.join(["topk-plugin", *sys.argv[1:]]))
    say(f"report: {report / REPORT_FILE}")
    return 0


def _arm(words: list[str]) -> dict[str, Any]:
    """What differs in one more arm: its name, then KEY=VALUE."""
    name, *pairs = words
    arm: dict[str, Any] = {"name": name}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        kinds: dict[str, Callable[[str], Any]] = {
            "policy": str,
            **{known: kind for known, (kind, _) in SCHEDULE.items()},
        }
        if not equals or key not in kinds:
            raise UserError(
                f"--arm {name} {pair}: give KEY=VALUE, with a key of {', '.join(kinds)}"
            )
        try:
            arm[key] = kinds[key](text)
        except ValueError as error:
            raise UserError(f"--arm {name} {pair}: {text!r} is no number") from error
    return arm
