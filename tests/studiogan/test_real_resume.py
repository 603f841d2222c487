"""k after a resume of the real StudioGAN, with its checkpoints and the plugin's."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.studiogan.real.processes import arguments, checkpoint, run, write_images
from topk_plugin import KSchedule
from topk_plugin.studiogan.testing.in_process import SMALL, merged

pytestmark = pytest.mark.studiogan

SCHEDULE = KSchedule(gamma=0.8, nu=0.5)
STEPS = 4
IMAGES = 32  # two steps an epoch at batch 16, so the fourth step is in the second epoch


class Runs:
    """StudioGAN in folders of its own, always on the same images."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.checkout, self.folder = checkout, folder
        self.data = folder / "data"
        write_images(self.data, IMAGES)

    def train(
        self,
        name: str,
        steps: int,
        *more: object,
        batch: int = 16,
        mode: str | None = "gate",
        **loss: Any,
    ) -> list[dict[str, Any]]:
        """Train up to step ``steps`` and save; mode None is StudioGAN without the adapter."""
        fraction = {"topk_gamma": SCHEDULE.gamma, "topk_nu": SCHEDULE.nu}
        flags = {"apply_topk": True, **fraction, **({"topk_mode": mode} if mode else {}), **loss}
        sizes = {"batch_size": batch, "d_updates_per_step": 1, "total_steps": steps - 1}
        tree = merged(SMALL, {"LOSS": flags, "OPTIMIZATION": sizes})
        line = arguments(tree, self.folder / name, self.data, "--save_freq", STEPS, *more)
        if mode is None:
            run("tests.studiogan.real.bare_main", self.checkout, *line)
            return []
        report = self.folder / name / "report"
        run("tests.studiogan.real.watched_main", self.checkout, report, *line)
        return list(torch.load(f"{report}-0.pt", weights_only=True))

    def saved(self, name: str) -> Path:
        return checkpoint(self.folder / name)

    def critic(self, name: str) -> dict[str, Any]:
        """The critic's last checkpoint."""
        (file,) = self.saved(name).glob("model=D-current-*.pth")
        return dict(torch.load(file, weights_only=True))

    def resume(
        self, before: str, name: str, steps: int = 2 * STEPS, *more: object, **options: Any
    ) -> list[dict[str, Any]]:
        """Go on from a copy of another run's checkpoints."""
        copy = self.folder / name / "from" / before
        copy.mkdir(parents=True)
        for file in self.saved(before).iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        return self.train(name, steps, "-ckpt", copy, *more, **options)


@pytest.fixture(scope="module")
def runs(studiogan_checkout: Path, tmp_path_factory: Any) -> Runs:
    """Runs of four steps: by the gate, by the slice, and without the adapter."""
    runs = Runs(studiogan_checkout, tmp_path_factory.mktemp("runs"))
    runs.train("gate", STEPS)
    runs.train("slice", STEPS, mode="slice")
    runs.train("bare", STEPS, mode=None)
    return runs


def expected(epochs: int, batch: int, steps: int = STEPS) -> list[int]:
    """k of each step after a resume with so many epochs over."""
    an_epoch = IMAGES // batch
    return [SCHEDULE.k(epochs + step // an_epoch, batch) for step in range(steps)]


@pytest.mark.parametrize("mode", ["gate", "slice"])
@pytest.mark.parametrize("batch", [16, 8, 32])
def test_k_goes_on_with_its_fraction_on_any_batch_size(mode: str, batch: int, runs: Runs) -> None:
    steps = runs.resume(mode, f"{mode}-{batch}", batch=batch, mode=mode)
    assert [step["step"] for step in steps] == [4, 5, 6, 7]
    assert [step["k"] for step in steps] == expected(1, batch)
    for step in steps:
        assert [int(rows.sum()) for rows in step["rows"]] == [step["k"]]


@pytest.mark.parametrize("batch", [16, 32])
def test_a_checkpoint_of_studiogans_own_top_k_goes_on(batch: int, runs: Runs) -> None:
    assert runs.critic("bare")["topk"] == SCHEDULE.gamma * 16
    steps = runs.resume("bare", f"bare-{batch}", batch=batch)
    assert [step["k"] for step in steps] == expected(1, batch)


def test_the_modes_can_be_changed(runs: Runs) -> None:
    steps = runs.resume("slice", "slice-gate", steps=STEPS + 2)
    assert [step["k"] for step in steps] == expected(1, 16, 2)


def test_studiogan_itself_resumes_from_the_plugins_checkpoint(runs: Runs) -> None:
    assert runs.critic("gate")["topk"] == SCHEDULE.k(1, 16)
    runs.resume("gate", "gate-bare", mode=None)
    (folder,) = (runs.folder / "gate-bare" / "from").iterdir()
    (file,) = folder.glob("model=D-current-*.pth")
    assert file.name.endswith("step=8.pth")


def test_a_frozen_critic_starts_another_schedule(runs: Runs) -> None:
    """-freezeD; StudioGAN's own top-k fails there, with k being the word "initialize"."""
    steps = runs.resume("gate", "frozen", STEPS, "--freezeD", 1)
    assert [step["step"] for step in steps] == [0, 1, 2, 3]
    assert [step["k"] for step in steps] == expected(0, 16)
    before, after = (runs.critic(name)["state_dict"] for name in ("gate", "frozen"))
    same = {name for name in after if torch.equal(before[name], after[name])}
    assert "blocks.0.0.conv2d1.weight_orig" in same
    assert "blocks.1.0.conv2d1.weight_orig" not in same
