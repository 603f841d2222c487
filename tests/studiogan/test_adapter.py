"""The adapter in a program of StudioGAN's interface: mini/, run as users run StudioGAN."""

import contextlib
import importlib.util
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from topk_plugin import KSchedule
from topk_plugin.base.errors import UserError
from topk_plugin.report.find import run_folders
from topk_plugin.report.read_run import read_run
from topk_plugin.studiogan.adapter import adapted_worker
from topk_plugin.studiogan.resume import STATE_KEY, Resumption

MINI = Path(__file__).parent / "mini"
ROOT = Path(__file__).parents[2]

BATCH, STEPS, SAVE_FREQ, LR, COND = 8, 6, 2, 0.2, 0.5
GATE = {"apply_topk": True, "topk_gamma": 0.7, "topk_nu": 0.25}
SCHEDULE = KSchedule(0.7, 0.25)
MULTI_HINGE = {"MODEL": {"d_cond_mtd": "MH"}}


@dataclass
class Run:
    """What a run left."""

    status: int
    err: str
    save: Path

    def check(self) -> "Run":
        assert self.status == 0, self.err
        return self

    @property
    def checkpoint(self) -> Path:
        (folder,) = (self.save / "checkpoints").iterdir()
        return folder

    def states(self, model: str) -> dict[str, Any]:
        (path,) = self.checkpoint.glob(f"model={model}-current-weights-step=*.pth")
        return torch.load(path, weights_only=False)  # NumPy's numbers are in it

    def weights(self) -> dict[str, Tensor]:
        return {
            f"{model} {name}": value
            for model in ("G", "D")
            for name, value in self.states(model)["state_dict"].items()
        }

    def logged_k(self) -> list[str]:
        """StudioGAN's own log, a value a step."""
        return re.findall(r"Topk: (\S+)", self.log())

    def events(self) -> EventAccumulator:
        files = list((self.save / "tensorboard").rglob("events.out.tfevents.*"))
        assert len({file.parent for file in files}) == 1
        accumulator = EventAccumulator(str(files[0].parent))
        accumulator.Reload()
        return accumulator

    def log(self) -> str:
        """StudioGAN's own, from the first part of the run on."""
        logs = sorted((self.save / "logs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        return "".join(path.read_text() for path in logs)

    def scalars(self, tag: str) -> dict[int, float]:
        return {event.step: event.value for event in self.events().Scalars(tag)}


def go_on(mini: "Mini", run: Run, name: str, **changes: Any) -> Run:
    """Resume a copy of a run."""
    save = mini.folder / name
    shutil.copytree(run.save, save)
    checkpoint = next((save / "checkpoints").iterdir())
    return mini("-ckpt", str(checkpoint), save=save, **changes).check()


class Mini:
    """The miniature in a folder of its own, with the line that ``studiogan patch`` puts in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._runs = folder, 0
        shutil.copytree(MINI / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
        self.main = folder / "src" / "main.py"
        text = self.main.read_text()
        assert text.count("import config\n") == 1
        (folder / "src" / "plain_main.py").write_text(text)
        line = "import topk_plugin.studiogan.autostart  # topk-plugin\n"
        self.main.write_text(text.replace("import config\n", line + "import config\n"))

    def __call__(
        self,
        *arguments: str,
        plugin: bool = True,
        save: Path | None = None,
        loss: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
        **sections: dict[str, Any],
    ) -> Run:
        self._runs += 1
        save = save or self.folder / f"run{self._runs}"
        config = self.folder / f"config{self._runs}.yaml"
        optimization = {"total_steps": STEPS - 1, **sections.pop("OPTIMIZATION", {})}
        tree = {"LOSS": loss or {}, "OPTIMIZATION": optimization, **sections}
        config.write_text(yaml.safe_dump(tree))
        path = [ROOT] if plugin else [MINI / "without_plugin"]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "NETRC": os.devnull,  # no account with wandb
            **(environment or {}),
        }
        for name in ("WANDB_MODE", "WANDB_API_KEY", "TOPK_PLUGIN_NO_FIX"):
            environment.pop(name, None)
        process = subprocess.run(
            [
                *(sys.executable, "src/main.py" if plugin else "src/plain_main.py", "-t"),
                *("-cfg", str(config), "-save", str(save), "--save_freq", str(SAVE_FREQ)),
                *arguments,
            ],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,  # on a busy machine
            check=False,
        )
        return Run(process.returncode, process.stderr, save)


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Mini:
    return Mini(tmp_path_factory.mktemp("mini"))


@pytest.fixture(scope="module")
def off(mini: Mini) -> Run:
    return mini().check()


@pytest.fixture(scope="module")
def gated(mini: Mini) -> Run:
    return mini(loss=GATE).check()


# --- the same training by hand -------------------------------------------------------------------


class Streams:
    """The global random numbers of every process."""

    def __init__(self, world: int) -> None:
        self.states: list[Tensor] = []
        for rank in range(world):
            torch.manual_seed(rank)
            self.states.append(torch.get_rng_state())

    @contextlib.contextmanager
    def of(self, rank: int) -> Iterator[None]:
        torch.set_rng_state(self.states[rank])
        yield
        self.states[rank] = torch.get_rng_state()


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"mini_{name}", MINI / "src" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def terms(out: dict[str, Tensor], label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Score, adversarial term and conditional term of the generator's loss, each [N]."""
    logits = out["adv_output"]
    if out["cls_output"] is None:
        own = logits[torch.arange(len(label)), label]
        rows = zip(logits, label, strict=True)
        others = torch.stack([row[torch.arange(4) != c].max() for row, c in rows])
        return own - others, F.relu(1 + others - own), torch.zeros(len(label))
    conditional = F.cross_entropy(out["cls_output"], label, reduction="none")
    return logits, -logits, COND * conditional


def by_hand(
    kept: str, *, world: int = 1, steps: int = STEPS, multi_hinge: bool = False
) -> dict[str, Tensor]:
    """Weights after training with the k best samples of all processes together.

    Args:
        kept: "both": both terms of the generator's loss come from the k best samples alone;
            "adversarial": only the adversarial one does, as with StudioGAN's slice.
    """
    before = torch.get_default_dtype(), torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        return _by_hand(kept, world, steps, multi_hinge)
    finally:
        torch.set_default_dtype(before[0])
        torch.set_rng_state(before[1])


def _by_hand(kept: str, world: int, steps: int, multi_hinge: bool) -> dict[str, Tensor]:
    model, own_batch = load("models/model"), BATCH // world
    streams, networks, baskets = Streams(world), [], []
    data = load("utils/misc").noise(2 * BATCH, 4, 3)
    own_data = [Subset(data, range(rank, 2 * BATCH, world)) for rank in range(world)]
    loaders = [DataLoader(own, own_batch) for own in own_data]
    for rank in range(world):
        with streams.of(rank):
            critic = model.Discriminator
            networks.append((model.Generator(5, 3, 4), critic(3, 4, multi_hinge)))
            baskets.append(iter(loaders[rank]))
    G, D = networks[0]

    def latents() -> tuple[Tensor, Tensor]:
        parts = []
        for rank in range(world):
            with streams.of(rank):
                parts.append((torch.randn(own_batch, 5), torch.randint(0, 3, (own_batch,))))
        return torch.cat([z for z, _ in parts]), torch.cat([y for _, y in parts])

    def real() -> tuple[Tensor, Tensor] | None:
        parts = [next(basket, None) for basket in baskets]
        if parts[0] is None:
            return None
        return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

    def descend(network: torch.nn.Module, loss: Tensor) -> None:
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter -= LR * gradient

    epochs = 0
    for step in range(1, steps + 1):
        batch = real()
        if batch is None:
            epochs += 1
            for rank in range(world):
                with streams.of(rank):
                    baskets[rank] = iter(loaders[rank])
            batch = real()
        x, y = batch
        z, label = latents()
        on_real, on_fake = D(x, y), D(G(z, label).detach(), label)
        if multi_hinge:
            rest = torch.full_like(label, 3)
            loss = terms(on_real, y)[1].mean() + terms(on_fake, rest)[1].mean()
        else:
            loss = F.relu(1 - on_real["adv_output"]).mean()
            loss = loss + F.relu(1 + on_fake["adv_output"]).mean()
            loss = loss + COND * F.cross_entropy(on_real["cls_output"], y)
        descend(D, loss)
        z, label = latents()
        score, adversarial, conditional = terms(D(G(z, label), label), label)
        best = score.argsort(descending=True)[: SCHEDULE.k(epochs, BATCH)]
        conditional = conditional[best] if kept == "both" else conditional
        descend(G, adversarial[best].mean() + conditional.mean())
        if step % SAVE_FREQ == 0:
            with streams.of(0):  # the pictures
                torch.randn(own_batch, 5), torch.randint(0, 3, (own_batch,))
    return {
        f"{name} {key}": value
        for name, network in (("G", G), ("D", D))
        for key, value in network.state_dict().items()
    }


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


# --- off ---------------------------------------------------------------------------------------


def test_with_the_flag_off_it_trains_as_without_the_plugin_bit_for_bit(
    mini: Mini, off: Run
) -> None:
    without, with_plugin = mini(plugin=False).check(), off
    weights = with_plugin.weights()
    assert weights.keys() == without.weights().keys()
    for name, value in without.weights().items():
        assert torch.equal(weights[name], value), name
    assert STATE_KEY not in with_plugin.states("D")
    assert with_plugin.logged_k() == without.logged_k() == ["N/A"] * STEPS
    tags = with_plugin.events().Tags()["scalars"]
    assert "speed/images_per_second" in tags
    assert not [tag for tag in tags if tag.startswith("topk/")]
    assert with_plugin.err.count("topk-plugin") >= 1
    assert "adapter on" in with_plugin.err


# --- the gate ----------------------------------------------------------------------------------


def test_the_gate_trains_on_the_best_samples_alone(gated: Run) -> None:
    weights = gated.weights()
    assert distance(weights, by_hand("both")) < 1e-12
    assert distance(weights, by_hand("adversarial")) > 1e-3  # what a slice would do


def test_k_is_in_the_log_and_in_tensorboard(gated: Run) -> None:
    # two batches an epoch
    expected = [SCHEDULE.k(step // 2, BATCH) for step in range(STEPS)]
    assert expected == [8, 8, 5, 5, 3, 3]
    assert gated.logged_k() == [str(k) for k in expected]
    assert gated.scalars("topk/k") == {step + 1: k for step, k in enumerate(expected)}
    assert gated.scalars("topk/fraction_kept")[6] == 3 / 8
    threshold, kept = (gated.scalars(f"topk/{t}") for t in ("threshold", "score_kept_mean"))
    dropped = gated.scalars("topk/score_dropped_mean")
    assert all(dropped[s] <= threshold[s] <= kept[s] for s in range(3, 7))
    assert set(gated.scalars("topk/nonfinite").values()) == {0.0}
    tags = gated.events().Tags()
    assert any(tag.startswith("topk/keep_rate_class/") for tag in tags["scalars"])
    assert "topk/scores" in tags["histograms"]
    assert "topk/kept_vs_dropped" in tags["images"]
    assert all(0 < speed < 1e9 for speed in gated.scalars("speed/images_per_second").values())


def test_the_checkpoint_goes_on_at_the_same_progress_on_another_batch_size(
    mini: Mini, gated: Run
) -> None:
    state = gated.states("D")[STATE_KEY]
    assert (state["steps"], state["epochs"]) == (6, 2)
    assert STATE_KEY not in gated.states("G")
    longer = {"batch_size": 20, "total_steps": 9}
    resumed = go_on(mini, gated, "larger", loss=GATE, OPTIMIZATION=longer)
    k = [SCHEDULE.k(2 + step // 2, 20) for step in range(4)]
    assert k == [9, 9, 6, 6]
    assert resumed.logged_k()[-4:] == [str(value) for value in k]
    after = {step: value for step, value in resumed.scalars("topk/k").items() if step > 6}
    assert after == {7: 9, 8: 9, 9: 6, 10: 6}
    state = resumed.states("D")[STATE_KEY]
    assert (state["steps"], state["epochs"]) == (10, 3)
    assert type(resumed.states("D")["topk"]) is int  # StudioGAN's own entry stays readable


def test_a_multi_hinge_critic_is_gated_and_not_sliced(mini: Mini) -> None:
    gate = mini(loss={**GATE, "adv_loss": "MH"}, **MULTI_HINGE).check()
    assert distance(gate.weights(), by_hand("both", multi_hinge=True)) < 1e-12
    cut = mini(loss={**GATE, "adv_loss": "MH", "topk_mode": "slice"}, **MULTI_HINGE)
    assert cut.status != 0
    assert "no top-k for a multi-hinge critic here" in cut.err


def test_steps_may_move_the_schedule(mini: Mini) -> None:
    run = mini(
        loss={**GATE, "topk_every": 4}, OPTIMIZATION={"g_updates_per_step": 2, "total_steps": 4}
    ).check()
    # two updates a step; the log is written after them and says what they used
    expected = [SCHEDULE.k(step // 2, BATCH) for step in range(5)]
    assert run.logged_k() == [str(k) for k in expected]
    assert list(run.scalars("topk/k").values()) == expected
    assert run.states("D")[STATE_KEY]["steps"] == 8  # saved after step 4


def test_top_k_that_is_switched_on_later_starts_where_it_would_have_been(
    mini: Mini, off: Run
) -> None:
    """As in the built-in trainer: the schedule's epochs are the run's."""
    on = go_on(mini, off, "on later", loss=GATE, OPTIMIZATION={"total_steps": 9})
    # the interrupted epoch, the third, begins anew
    expected = [SCHEDULE.k(2 + step // 2, BATCH) for step in range(4)]
    assert expected == [3, 3, 2, 2]
    assert on.logged_k()[-4:] == [str(k) for k in expected]
    assert f"k is 3 of 8 now (after 2 epochs), 2 at its floor from about step {6 + 2}" in (on.log())


def test_a_part_of_a_run_without_top_k_counts(mini: Mini, gated: Run) -> None:
    off = go_on(mini, gated, "off for a while", OPTIMIZATION={"total_steps": 9})
    state = off.states("D")[STATE_KEY]
    assert (state["steps"], state["epochs"]) == (10, 3)
    assert state["generator_state"] == gated.states("D")[STATE_KEY]["generator_state"]
    on = go_on(mini, off, "on again", loss=GATE, OPTIMIZATION={"total_steps": 11})
    assert on.logged_k()[-2:] == [str(SCHEDULE.k(3, BATCH))] * 2


def test_a_release_in_shares_of_the_run_goes_on_after_a_resume(mini: Mini) -> None:
    release = {"topk_release_from": "25%", "topk_release_to": "75%"}
    loss = {**GATE, "topk_every": 1, **release}
    sizes = {"g_updates_per_step": 2, "total_steps": 12}
    # 24 updates: from the 6th on k rises, from the 18th on it is the whole batch
    schedule = KSchedule(0.7, 0.25, 1, 6, 18)
    first = mini(loss=loss, OPTIMIZATION=sizes).check()
    # once a step; StudioGAN's log says what its first update used, TensorBoard its second
    expected = [schedule.k(2 * step, BATCH) for step in range(13)]
    assert expected[0] == expected[9] == BATCH
    assert min(expected) == 2
    assert first.logged_k() == [str(k) for k in expected]
    second_update = [schedule.k(2 * step + 1, BATCH) for step in range(13)]
    assert list(first.scalars("topk/k").values()) == second_update
    assert "2 at its floor from about step 2, back to 8 from step 3 to 9;" in first.log()
    half = mini("--save_freq", "3", loss=loss, OPTIMIZATION=sizes | {"total_steps": 5}).check()
    assert half.logged_k() != first.logged_k()[:6]  # a share of a shorter run
    larger = go_on(mini, half, "longer", loss=loss, OPTIMIZATION=sizes | {"batch_size": 16})
    assert larger.logged_k()[6:] == [str(schedule.k(2 * step, 16)) for step in range(6, 13)]


# --- the slice ---------------------------------------------------------------------------------


def test_the_slice_cuts_the_adversarial_term_alone(mini: Mini) -> None:
    cut = mini(loss={**GATE, "topk_mode": "slice"}).check()
    assert distance(cut.weights(), by_hand("adversarial")) < 1e-12
    assert cut.logged_k() == ["8", "8", "5", "5", "3", "3"]
    assert list(cut.scalars("topk/k").values()) == [8, 8, 5, 5, 3, 3]
    state = cut.states("D")[STATE_KEY]
    assert (state["steps"], state["epochs"]) == (6, 2)


def test_the_slice_keeps_one_sample_of_a_batch_of_one(mini: Mini) -> None:
    loss = {**GATE, "topk_mode": "slice"}
    run = mini(loss=loss, OPTIMIZATION={"batch_size": 1}).check()
    assert run.logged_k() == ["1"] * STEPS


def test_a_frozen_critic_starts_with_the_whole_batch(mini: Mini, gated: Run) -> None:
    """Where StudioGAN's own k stays the word "initialize", which is no number."""
    run = mini(
        *("-ckpt", str(gated.checkpoint), "--freezeD", "0"),
        loss={**GATE, "topk_mode": "slice"},
        OPTIMIZATION={"total_steps": 2},
    ).check()
    assert run.logged_k() == ["8", "8", "5"]


# --- divergence --------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [{}, GATE], ids=["off", "gate"])
def test_a_training_that_diverges_is_told(mini: Mini, loss: dict[str, Any]) -> None:
    run = mini(loss=loss, OPTIMIZATION={"lr": math.inf}).check()
    assert re.search(r"Diverged: the .* loss is (nan|-?inf).* at step \d\. Stop", run.log())
    said = "Diverged: of the critic, hidden.weight"
    assert said in run.log()
    if loss:
        again = go_on(mini, run, "diverged", loss=loss, OPTIMIZATION={"total_steps": 6})
        assert again.log().count(said) == run.log().count(said) + 1  # before it trains on


def test_a_healthy_training_is_not_called_diverged(gated: Run) -> None:
    assert "Diverged" not in gated.log()


# --- what a report reads -----------------------------------------------------------------------


def test_the_run_leaves_what_a_report_needs(mini: Mini, gated: Run) -> None:
    (folder,) = run_folders([gated.save])
    run = read_run(folder, "gated")
    assert (run.trained_by, run.state) == ("PyTorch-StudioGAN with topk-plugin", "finished")
    assert run.settings["LOSS.topk_gamma"] == "0.7"
    assert run.settings["OPTIMIZATION.total_steps"] == str(STEPS - 1)  # StudioGAN trains one more
    assert "OPTIMIZATION.g_optimizer" not in run.settings  # an object, which StudioGAN keeps there
    assert run.scalars["loss/generator"].steps.tolist() == list(range(1, STEPS + 1))
    assert {"samples/generated_images", "topk/kept_vs_dropped"} <= run.pictures.keys()
    assert len(run.histograms) > 0
    broken = mini(loss=GATE, OPTIMIZATION={"lr": math.inf}).check()
    notices = read_run(run_folders([broken.save])[0], "broken").notices
    assert any(notice.text.startswith("Diverged: ") for notice in notices)


# --- refusals ----------------------------------------------------------------------------------


def test_a_wrong_flag_stops_it_before_anything_is_written(mini: Mini) -> None:
    run = mini(loss={**GATE, "topk_gamma": "0.9"})
    assert run.status != 0
    assert "TopKFlagError: LOSS.topk_gamma is '0.9'; it must be a number above 0" in run.err
    assert not run.save.exists()


def test_another_version_of_studiogan_is_refused() -> None:
    class WORKER:
        def train_generator(self) -> None: ...

        save = visualize_fake_images = log_train_statistics = train_generator

    with pytest.raises(UserError, match="WORKER has no sample_data_basket; the adapter") as caught:
        adapted_worker(WORKER, None, Resumption())
    assert __file__ in str(caught.value)


# --- processes ---------------------------------------------------------------------------------


def test_spawned_processes_have_the_adapter_and_select_together(mini: Mini) -> None:
    two = {"TOPK_PLUGIN_CPU_PROCESSES": "2"}
    run = mini("-DDP", "--backend", "gloo", loss=GATE, environment=two).check()
    assert distance(run.weights(), by_hand("both", world=2)) < 1e-12
    assert list(run.scalars("topk/k").values()) == [8, 8, 5, 5, 3, 3]  # of both batches of 4
    assert run.err.count("adapter on") == 1
