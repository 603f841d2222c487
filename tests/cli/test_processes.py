"""`topk-plugin train` in several processes (gloo), as a user starts and hurts it."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.cli.helpers import Program, final_weights
from tests.engine.tiny import tiny_config
from topk_plugin.cli import launching
from topk_plugin.engine import processes
from topk_plugin.engine.replicas import check_batch_size
from topk_plugin.gate import ranks

TIME = 240


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Program) -> Program:
    """The program, for runs in two processes of their own."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return program


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=TIME)
    return process.returncode, out, err


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIME
    while time.monotonic() < deadline:
        log = run / "metrics.jsonl"
        if log.exists() and f'"step": {step},' in log.read_text():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("no step was logged")


def test_two_processes_train_and_one_goes_on(pair: Program) -> None:
    run, four = pair.folder / "run", ("--set", "OPTIMIZATION.total_steps=4")
    arguments = pair.train_arguments(run, *four, "--processes", 2, "-sync_bn")
    status, out, err = finished(pair.start(arguments))
    assert status == 0, err
    assert out == ""
    assert err.count("processes: 2 (gloo), 4 samples of a batch's 8 each\n") == 1
    assert "note: batch normalisation" not in err
    assert err.count("step 4: G") == 1
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["command"].endswith("--processes 2")
    assert [entry["step"] for entry in result["history"]] == [0, 2, 4]

    alone = pair.folder / "alone"
    assert pair.train(alone, *four).status == 0
    expected = json.loads((alone / "result.json").read_text())
    # step 0: the same generator and the same features, to the digit
    assert result["history"][0] == expected["history"][0]
    weights, others = final_weights(run), final_weights(alone)
    assert weights.keys() == others.keys()
    name = next(n for n in weights if n.endswith("generator/linear0.weight_orig"))
    assert torch.allclose(weights[name], others[name], atol=1e-4)

    outcome = pair.train(run, "-ckpt", "auto")
    assert outcome.status == 0, outcome.err
    assert json.loads((run / "result.json").read_text())["steps"] == 6
    assert json.loads((run / "environment.json").read_text())["processes"] == 1


def test_a_fault_of_the_user_is_told_once(pair: Program) -> None:
    run = pair.folder / "run"
    uneven = ("--set", "OPTIMIZATION.batch_size=7", "--processes=2")
    status, _, err = finished(pair.start(pair.train_arguments(run, *uneven)))
    assert status == 2
    assert err.count("error") == 1
    assert "OPTIMIZATION.batch_size is 7" in err
    assert "such as 6 or 8" in err
    assert not run.exists()


@pytest.mark.slow
def test_a_signal_leaves_a_checkpoint_and_a_killed_process_the_last_one(pair: Program) -> None:
    run = pair.folder / "run"
    long = ("--set", "OPTIMIZATION.total_steps=100000")
    arguments = pair.train_arguments(run, *long, "--processes", 2, "-metrics", "none")

    process = pair.start(arguments)
    wait_for_step(run, 3, process)
    process.send_signal(signal.SIGTERM)
    status, _, err = finished(process)
    assert status == 130, err
    stopped = int(torch.load(run / "checkpoints" / "last.pt", weights_only=True)["trainer"]["step"])
    assert f"stopped at step {stopped:,} of 100,000; a checkpoint is saved" in err
    assert stopped >= 3

    process = pair.start([*arguments, "-ckpt", "auto"])
    wait_for_step(run, stopped + 3, process)
    os.kill(child_of(process.pid), signal.SIGKILL)
    status, _, err = finished(process)
    assert status == 2
    assert err.count("topk-plugin: error:") == 1
    assert "was ended by SIGKILL" in err
    assert "-ckpt auto" in err

    shorter = ("--set", f"OPTIMIZATION.total_steps={stopped + 8}", "-metrics", "none")
    outcome = pair.train(run, *shorter, "-ckpt", "auto")
    assert outcome.status == 0, outcome.err
    assert json.loads((run / "result.json").read_text())["steps"] == stopped + 8


def child_of(parent: int) -> int:
    """The last process that ``parent`` has started."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return max(int(child) for child in children)


def test_what_does_not_share_a_batch_is_refused(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    outcome = program("study", "-cfg", program.config, "-save", "x", "--arm", "a", "--seeds", 1)
    assert outcome.status == 2
    assert "only train, evaluate, sample run in several processes" in outcome.err
    outcome = program.train("x", "--processes", 2)
    assert outcome.status == 2
    assert "one of 4 that torchrun has started" in outcome.err


def test_batches_that_processes_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "world_size", lambda: 8)
    check_batch_size(64)
    with pytest.raises(processes.UserError, match="multiple of 8, such as 48 or 56"):
        check_batch_size(50)
    with pytest.raises(processes.UserError, match=r"such as 8$"):
        check_batch_size(3)


def test_the_plan_says_what_several_processes_change(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launching.describe_processes(tiny_config(), synchronized_bn=False) == []
    (alone,) = launching.describe_processes(tiny_config(), synchronized_bn=True)
    assert alone == "note: -sync_bn is for several processes, and this is one"
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "nccl")
    config = tiny_config({"LOSS": {"topk_mode": "slice"}})
    shared, batch_norm, best = launching.describe_processes(config, synchronized_bn=False)
    assert shared == "processes: 2 (nccl), 4 samples of a batch's 8 each"
    assert "-sync_bn" in batch_norm
    assert "topk_scope 'global'" in best


def test_the_command_is_remembered_as_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["train", "-save", "a b"]
    assert launching.command_typed(arguments) == "topk-plugin train -save 'a b'"
    monkeypatch.setenv("WORLD_SIZE", "3")
    expected = "torchrun --nproc_per_node 3 -m topk_plugin train -save 'a b'"
    assert launching.command_typed(arguments) == expected
    monkeypatch.setenv("TOPK_PLUGIN_PROCESSES", "3")
    assert launching.command_typed(arguments) == "topk-plugin train -save 'a b' --processes 3"
