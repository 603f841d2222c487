"""A run in StudioGAN's own trainer, through the adapter; what it saved is loaded to be measured."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import atomic_write
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.trainer import Trainer
from topk_plugin.studiogan.fixes.weights_only import load_data
from topk_plugin.study.spec import RunSpec

NETWORKS = {"G": "generator", "D": "discriminator"}
AVERAGE = "G_ema"


def train(spec: RunSpec, trainer: Trainer, folder: Path) -> None:
    """Train in StudioGAN, going on from what is in ``folder``, and load the end into ``trainer``.

    Args:
        spec: the run; its ``studiogan`` is the checkout.
        trainer: of the same config; its networks get StudioGAN's weights.
        folder: the run's; StudioGAN writes to ``studiogan/`` in it.

    Raises:
        UserError: StudioGAN failed, or its files are not those of this config.
    """
    own = folder / "studiogan"
    config = Config.from_dict(spec.config)
    file = own / "config.yaml"
    with atomic_write(file) as temporary:
        temporary.write_text(config.to_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "topk_plugin", "studiogan", "run", str(spec.studiogan), "--"]
    command += ["-t", "-metrics", "none", "-cfg", str(file), "-save", str(own)]
    command += ["-data", str(spec.data.train), "--seed", str(spec.seed)]
    save_freq = -(-spec.steps // len(spec.measured_at))
    # StudioGAN wants the one to be a multiple of the other
    print_freq = 100 if save_freq % 100 == 0 else save_freq
    command += ["--save_freq", str(save_freq), "--print_freq", str(print_freq)]
    saved = checkpoints(own)
    if saved is not None:
        command += ["-ckpt", str(saved)]
    if saved is None or step_of(saved) < spec.steps:
        done = subprocess.run(command, check=False)
        if done.returncode != 0:
            raise UserError(f"StudioGAN ended with status {done.returncode}; its output is above")
    saved = checkpoints(own)
    if saved is None or step_of(saved) < spec.steps:
        raise UserError(f"StudioGAN saved no checkpoint of step {spec.steps:,} in {own}")
    for name, attribute in NETWORKS.items():
        getattr(trainer, attribute).load_state_dict(_state(saved, name))
    average = trainer.averaged_generator()
    if average is not None:
        average.load_state_dict(_state(saved, AVERAGE))


def checkpoints(folder: Path) -> Path | None:
    """The folder in which StudioGAN keeps the last checkpoint of a run; None before the first."""
    files = sorted(folder.glob("checkpoints/*/model=G-current-weights-step=*.pth"))
    return files[-1].parent if files else None


def step_of(saved: Path) -> int:
    """The step of the last checkpoint in StudioGAN's folder."""
    return max(
        int(file.stem.rpartition("=")[2])
        for file in saved.glob("model=G-current-weights-step=*.pth")
    )


def _state(saved: Path, name: str) -> dict[str, Any]:
    files = list(saved.glob(f"model={name}-current-weights-step=*.pth"))
    if len(files) != 1:  # StudioGAN removes a file before it writes the next
        raise UserError(
            f"{saved} has {len(files)} current checkpoints of {name}, it was left while StudioGAN "
            "saved; remove the run's folder and start it anew"
        )
    content: dict[str, Any] = load_data(files[0])
    return dict(content["state_dict"])
