"""A training run's own checkpoints, between its evaluations."""

from pathlib import Path

import pytest
import torch

from tests.engine.tiny import tiny_images, tiny_trainer
from topk_plugin.engine.checkpoint import LAST, load_checkpoint
from topk_plugin.engine.run import RunOptions, TrainingRun
from topk_plugin.engine.run_folder import RunFolder
from topk_plugin.engine.trainer import Trainer

SIX_STEPS = {"OPTIMIZATION": {"total_steps": 6}}
OPTIONS = RunOptions(
    seed=0, print_freq=3, save_freq=6, num_samples=0, command="test", checkpoint_freq=2
)


def run(trainer: Trainer, folder: Path, *, resume: bool = False) -> None:
    checkpoint = load_checkpoint(folder / "checkpoints" / LAST) if resume else None
    if checkpoint is not None:
        assert checkpoint.step == 4
        checkpoint.restore(trainer)
    opened = RunFolder(folder)
    given = {"checkpoint": checkpoint, "say": lambda line: None}
    try:
        TrainingRun(trainer, tiny_images(), opened, None, OPTIONS, **given).run()
    finally:
        opened.close()


def test_a_killed_run_goes_on_from_a_checkpoint_between_its_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_trainer(SIX_STEPS)
    run(whole, tmp_path / "whole")

    killed = tiny_trainer(SIX_STEPS)
    step = killed.step

    def killed_in_the_sixth() -> dict[str, torch.Tensor]:
        if killed.step_count == 5:
            raise MemoryError
        return step()

    monkeypatch.setattr(killed, "step", killed_in_the_sixth)
    with pytest.raises(MemoryError):
        run(killed, tmp_path / "killed")

    resumed = tiny_trainer(SIX_STEPS)
    run(resumed, tmp_path / "killed", resume=True)
    for name, value in whole.generator.state_dict().items():
        assert torch.equal(resumed.generator.state_dict()[name], value), name
