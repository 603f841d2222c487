"""What runs on the pretend device, in the process that test_pretend_device.py starts."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.pretend_device.device import counted, load, reads_refused
from tests.cli.helpers import Program
from tests.engine.digests import CASES
from tests.engine.tiny import tiny_config, tiny_images
from topk_plugin import KSchedule, TopK
from topk_plugin.engine.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def device() -> torch.device:
    return load(Path(os.environ["PRETEND_DEVICE_BUILD"]))


# --- the device itself ----------------------------------------------------------------------------


def test_it_computes_what_the_cpu_computes_and_keeps_views_and_layouts(device) -> None:
    x = torch.randn(4, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    own = x.to(device, memory_format=torch.channels_last)
    assert own.is_contiguous(memory_format=torch.channels_last)
    own[:, 1].mul_(2)  # through a view
    own.add_(1).clamp_(-1)
    x[:, 1] *= 2
    assert torch.equal(own.cpu(), x.add(1).clamp(-1))
    result = torch.empty(0, device=device)
    torch.add(own, own, out=result)
    assert torch.equal(result.cpu(), 2 * own.cpu())
    for generator in (torch.Generator(device), torch.Generator()):
        generator.manual_seed(3)
        assert torch.rand(2, generator=generator, device=generator.device).sum().item() == (
            torch.rand(2, generator=torch.Generator().manual_seed(3)).sum().item()
        )


def test_tensors_of_cpu_and_device_must_not_meet(device) -> None:
    ours, theirs = torch.ones(3, device=device), torch.ones(3)
    for mix in (
        lambda: ours + theirs,
        lambda: theirs.mul_(ours),
        lambda: torch.cat([ours, theirs]),
        lambda: torch.where(theirs > 0, ours, ours),
        lambda: ours[theirs.long()],
        lambda: torch._foreach_add_([ours], [theirs]),
        lambda: ours.normal_(generator=torch.Generator()),
    ):
        with pytest.raises((RuntimeError, IndexError), match=r"device|meets|cpu"):
            mix()
    assert (ours * torch.tensor(2.0)).tolist() == [2, 2, 2]  # a number may


def test_what_the_host_reads_is_counted(device) -> None:
    x = torch.arange(4.0, device=device)
    with counted() as nothing:
        x.mul(2).view(2, 2).t().sum()
    assert (nothing.reads, nothing.copies_in) == ({}, 0)
    assert nothing.operations == {"aten::mul.out": 1, "aten::sum.IntList_out": 1}
    for read in (
        lambda: x.sum().item(),
        lambda: x.cpu(),
        lambda: x.nonzero(),
        lambda: x[x > 1],
        lambda: bool(x.sum() > 1),
        lambda: torch.equal(x, x),
    ):
        with counted() as counts:
            read()
        assert sum(counts.reads.values()) == 1, counts.reads
    with reads_refused(), pytest.raises(RuntimeError, match="_local_scalar_dense makes the host"):
        x.sum().item()
    with counted() as counts:
        torch.ones(3).to(device)
    assert counts.copies_in == 1


# --- the trainer ----------------------------------------------------------------------------------


def _trainer(changes: tuple[dict, ...], device: torch.device) -> Trainer:
    # so many images that no epoch ends: then its order comes from the host, and the gate looks
    # whether it acted
    return Trainer(tiny_config(*changes), tiny_images(400), seed=0, device=device)


def _state(trainer: Trainer) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def walk(value: object, path: str) -> None:
        if isinstance(value, Tensor):
            found[path] = value.cpu()
        elif isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, f"{path}/{name}")
        elif isinstance(value, list | tuple):
            for index, inner in enumerate(value):
                walk(inner, f"{path}/{index}")

    walk(trainer.state_dict(), "")
    return found


# One of each kind; all of them where the slow tests run.
QUICK = ("hinge", "2C", "AC", "contrastive ICR", "LeCam, R1 and feature matching", "deep_conv")
QUICK += ("balanced", "random", "slice every 3", "accumulated", "SGD")


@pytest.mark.parametrize("case", CASES if os.environ.get("PRETEND_DEVICE_ALL") else QUICK)
def test_training_reads_nothing_and_equals_the_cpus(case: str, device, monkeypatch) -> None:
    # the same operations on both: which op has which implementation differs by device
    monkeypatch.setenv("TOPK_PLUGIN_OPS", "reference")
    ours, theirs = (_trainer(CASES[case], place) for place in (device, CPU))
    for step in range(3):
        with counted() as counts, reads_refused():
            ours.step()
        theirs.step()
        assert counts.reads == {}
        if step:
            assert counts.copies_in == 0  # of one tensor that a step makes on the host, say
    found, wanted = _state(ours), _state(theirs)
    assert found.keys() == wanted.keys()
    assert len(found) > 100
    if ours._needs.second_derivatives:
        # torch derives a convolution's gradient in another order on devices that it doesn't know
        torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)
    else:
        assert [name for name in found if not torch.equal(found[name], wanted[name])] == []


def test_the_end_of_an_epoch_reads_once_and_brings_the_next_order(device) -> None:
    trainer = Trainer(tiny_config(), tiny_images(48), seed=0, device=device)
    reads, copies = [], []
    for _ in range(6):  # 3 steps an epoch
        with counted() as counts:
            trainer.step()
        reads.append(sum(counts.reads.values()))
        copies.append(counts.copies_in)
    assert reads == [0, 0, 1, 0, 0, 1]
    assert copies[1:] == [0, 0, 2, 0, 0]  # the order and the flips


@pytest.mark.parametrize("case", ["hinge", "2C", "contrastive ICR"])
def test_training_with_the_devices_own_ops_is_close_to_the_cpus(case: str, device) -> None:
    ours, theirs = (_trainer(CASES[case], place) for place in (device, CPU))
    with counted() as counts:
        found = ours.step()
    assert counts.reads == {}
    for name, wanted in theirs.step().items():
        torch.testing.assert_close(found[name].cpu(), wanted, rtol=1e-4, atol=1e-4)


# --- the commands ---------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path, capsys, monkeypatch) -> Program:
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TOPK_PLUGIN_OPS", "reference")
    return Program(tmp_path, capsys)


def test_train_stop_resume_evaluate_and_sample(program: Program, device, tmp_path: Path) -> None:
    runs = {}
    for name in ("cpu", "pretend"):
        run = runs[name] = tmp_path / name
        options = ("--seed", 1, "-metrics", "fid", "prdc", "--device", name)
        first = program.train(run, *options, "--set", "OPTIMIZATION.total_steps=3")
        assert first.status == 0, first.err
        done = program.train(run, *options, "--set", "OPTIMIZATION.total_steps=5", "-ckpt", "auto")
        assert done.status == 0, done.err
        done = program("evaluate", "-ckpt", run, "-data", program.data, "--device", name,
                       *("-metrics", "fid", "--extractor", "builtin"))  # fmt: skip
        assert done.status == 0, done.err
        done = program("sample", "-ckpt", run, "-save", tmp_path / f"images-{name}",
                       *("--num_images", 4, "--seed", 2, "--device", name))  # fmt: skip
        assert done.status == 0, done.err
    results = [json.loads((run / "result.json").read_text()) for run in runs.values()]
    assert results[0]["metrics"] == pytest.approx(results[1]["metrics"], rel=1e-4)
    for file in sorted((tmp_path / "images-cpu").rglob("*.png")):
        own = tmp_path / "images-pretend" / file.relative_to(tmp_path / "images-cpu")
        assert own.stat().st_size > 0


def test_a_device_that_is_not_there_is_refused(program: Program, tmp_path: Path) -> None:
    done = program.train(tmp_path / "run", "--device", "typewriter")
    assert done.status == 2
    assert "--device typewriter" in done.err
    assert "allowed: auto, cpu, cuda or pretend" in done.err


# --- the gate in somebody's own loop --------------------------------------------------------------


class _Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"adv_output": self.layers(x).squeeze(1)}


def test_a_plain_loop_with_the_gate(device) -> None:
    weights = []
    for place in (CPU, device):
        torch.manual_seed(0)
        generator, critic = nn.Linear(4, 2).to(place), _Critic().to(place)
        optimizer = torch.optim.Adam(generator.parameters(), lr=0.01)
        random = torch.Generator(place).manual_seed(0)
        topk = TopK(KSchedule(gamma=0.5, nu=0.25, every=1), policy="top")
        topk.attach(critic, score="adv_output", labels=1)
        y = torch.zeros(8, dtype=torch.long, device=place)
        for step in range(4):
            z = torch.randn(8, 4, generator=random, device=place)
            with counted() as counts:
                optimizer.zero_grad()
                with topk.generator_step():
                    critic(generator(z), y)["adv_output"].neg().mean().backward()
                optimizer.step()
                topk.end_step()
            if step:
                assert (counts.reads, counts.copies_in) == ({}, 0)
        assert topk.k == 2
        weights.append([p.detach().cpu() for p in generator.parameters()])
    for ours, theirs in zip(*weights, strict=True):
        assert torch.equal(ours, theirs)
