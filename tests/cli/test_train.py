"""`topk-plugin train`: the run's folder, resuming after kills, Ctrl-C."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.cli.helpers import Program, assert_same_weights, final_weights
from tests.engine.tiny import CONTRASTIVE, ICR, tiny_config
from topk_plugin.engine.checkpoint import load_checkpoint


def test_a_run_leaves_everything_in_its_folder(program: Program, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = program.train(run, "-metrics", "fid", "kid", "is", "prdc")
    assert done.status == 0, done.err
    assert sorted(p.name for p in run.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "result.json",
        "samples",
        "tensorboard",
    ]
    result = json.loads((run / "result.json").read_text())
    assert result["steps"] == 6
    assert result["seed"] == 0
    keys = {"frechet_distance", "kernel_distance", "classifier_score", "precision", "recall"}
    keys |= {"density", "coverage"}
    assert result["metrics"].keys() == keys  # no "fid": that name is Inception's
    assert [entry["step"] for entry in result["history"]] == [0, 2, 4, 6]
    assert result["measured_with"]["extractor"] == "builtin"
    assert result["measured_with"]["samples"] == 40
    assert result["top_k"]["k_at_the_end"] == 2
    assert result["data"]["fingerprint"]
    best = min(result["history"], key=lambda entry: entry["frechet_distance"])
    assert result["best"] == best
    grid = Image.open(run / "samples" / "step_000006.png")
    assert grid.size == (10 * 66 + 2, 4 * 66 + 2)  # a row a class, 32 px enlarged twice
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    tags = set().union(*entries)
    assert {
        "loss/generator",
        "loss/discriminator",
        "topk/k",
        "topk/fraction_kept",
        "topk/threshold",
        "topk/score_kept_mean",
        "topk/score_dropped_mean",
        "topk/nonfinite",
        "topk/keep_rate_class/0",
        "speed/images_per_second",
        "metric/frechet_distance",
    } <= tags
    ks = [e["topk/k"] for e in entries if "topk/k" in e]
    assert ks == [8, 8, 4, 4, 2, 2]  # k of each step; it moves after every second one
    assert tiny_config().to_yaml() == (run / "config.yaml").read_text()
    environment = json.loads((run / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    torch.load(run / "checkpoints" / "best.pt", weights_only=True)


def test_what_people_are_told(program: Program, tmp_path: Path) -> None:
    done = program.train(tmp_path / "run", "-metrics", "none", "--set", "LOSS.topk_gamma=0.9")
    assert "top-k: k from 8 to 2 of 8 (gamma 0.9 every epoch, nu 0.25)" in done.err
    assert "note: k only falls to 5 in 6 steps; LOSS.topk_gamma=0.25" in done.err
    assert "step 6: G " in done.err
    assert "img/s" in done.err
    assert "ETA" in done.err
    assert "done: 6 steps" in done.err
    assert "tensorboard --logdir" in done.err
    assert "topk-plugin sample -ckpt" in done.err
    assert done.out == ""


def test_dry_run_prints_every_option_and_writes_nothing(program: Program, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = program.train(run, "--dry-run", "--set", "LOSS.topk_nu=0.5", "OPTIMIZATION.g_lr=1e-3")
    assert done.status == 0
    assert not run.exists()
    changed = tiny_config({"LOSS": {"topk_nu": 0.5}, "OPTIMIZATION": {"g_lr": 1e-3}})
    assert done.out == changed.to_yaml()
    assert "plan: 6 steps = 3.0 epochs of 2 steps" in done.err
    assert "the floor is reached at step 2 of 6" in done.err


def test_metrics_none_measures_nothing(program: Program, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert program.train(run, "-metrics", "none").status == 0
    result = json.loads((run / "result.json").read_text())
    assert result["metrics"] == {}
    assert result["measured_with"] is None
    assert (run / "samples" / "step_000006.png").exists()


def test_without_top_k(program: Program, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = program.train(run, "-metrics", "none", "--set", "LOSS.apply_topk=false")
    assert done.status == 0
    assert "top-k: off" in done.err
    entries = (run / "metrics.jsonl").read_text()
    assert "topk/" not in entries
    assert json.loads((run / "result.json").read_text())["top_k"] == {"apply_topk": False}


def test_a_run_is_never_overwritten(program: Program, tmp_path: Path) -> None:
    run = tmp_path / "run"
    program.train(run, "-metrics", "none")
    program.train(tmp_path / "other", "-metrics", "none", "--seed", 1)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for more in ([], ["-ckpt", tmp_path / "other"]):
        again = program.train(run, "-metrics", "none", *more)
        assert again.status == 2
        assert "holds a run already; go on with it by -ckpt auto" in again.err
        assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    finished = program.train(run, "-metrics", "none", "-ckpt", "auto")
    assert finished.status == 0
    assert "resume:" in finished.err


def test_ckpt_auto_starts_anew_where_nothing_is(program: Program, tmp_path: Path) -> None:
    done = program.train(tmp_path / "run", "-metrics", "none", "-ckpt", "auto")
    assert done.status == 0
    assert "resume" not in done.err


def wait_for(path: Path, process, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "changes", [(), (CONTRASTIVE,), (ICR,)], ids=["BigGAN-TopK", "ContraGAN-TopK", "ICR-TopK"]
)
def test_killed_and_resumed_ends_bit_identical(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: tuple[dict, ...],
) -> None:
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(tmp_path / "cache"))
    steps = {"OPTIMIZATION": {"total_steps": 32}}
    program = Program(tmp_path, capsys, *changes, steps)
    options = ["-metrics", "fid", "--save_freq", 7]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert program.train(whole, *options).status == 0

    process = program.start(program.train_arguments(killed, *options))
    wait_for(killed / "samples" / "step_000014.png", process)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "result.json").exists()
    content = torch.load(killed / "checkpoints" / "last.pt", weights_only=True)
    assert content["trainer"]["step"] < 32

    resumed = program.train(killed, *options, "-ckpt", "auto")
    assert resumed.status == 0, resumed.err
    assert_same_weights(whole, killed)
    histories = [
        json.loads((run / "result.json").read_text())["history"] for run in (whole, killed)
    ]
    assert histories[0] == histories[1]
    logs = [
        [
            {
                k: v
                for k, v in json.loads(line).items()
                if k not in ("time", "speed/images_per_second")
            }
            for line in (run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in (whole, killed)
    ]
    assert logs[0] == logs[1]
    # what it was writing when it was killed is gone
    assert [p.name for p in killed.rglob(".*.partial")] == []


def test_ctrl_c_saves_and_says_how_to_go_on(program: Program, tmp_path: Path) -> None:
    options = ["-metrics", "none", "--save_freq", 1000, "--set", "OPTIMIZATION.total_steps=40"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert program.train(whole, *options).status == 0

    process = program.start(program.train_arguments(stopped, *options))
    wait_for(stopped / "metrics.jsonl", process)  # some steps are over
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "a checkpoint is saved, go on with: topk-plugin train" in err
    assert "-ckpt auto" in err
    content = torch.load(stopped / "checkpoints" / "last.pt", weights_only=True)
    assert 0 < content["trainer"]["step"] < 40

    assert program.train(stopped, *options, "-ckpt", "auto").status == 0
    assert_same_weights(whole, stopped)


def test_a_longer_run_goes_on_from_a_finished_one(program: Program, tmp_path: Path) -> None:
    options = ["-metrics", "none"]
    program.train(tmp_path / "short", *options)
    longer = ["--set", "OPTIMIZATION.total_steps=8"]
    done = program.train(tmp_path / "on", *options, *longer, "-ckpt", tmp_path / "short")
    assert done.status == 0, done.err
    assert "config differs from the checkpoint's: OPTIMIZATION.total_steps 6 -> 8" in done.err
    program.train(tmp_path / "long", *options, *longer)
    assert_same_weights(tmp_path / "on", tmp_path / "long")


def test_values_of_different_measurements_never_mix(program: Program, tmp_path: Path) -> None:
    run = tmp_path / "run"
    program.train(run, "-metrics", "fid")
    more = ["-ckpt", "auto", "--set", "OPTIMIZATION.total_steps=8"]
    done = program.train(run, "-metrics", "kid", "--num_samples", 20, *more)
    assert done.status == 0, done.err
    assert "note: metrics are now measured otherwise" in done.err
    result = json.loads((run / "result.json").read_text())
    assert [entry["step"] for entry in result["history"]] == [6, 8]
    assert all(e.keys() == {"step", "kernel_distance"} for e in result["history"])


def test_a_finished_run_can_be_measured_otherwise(program: Program, tmp_path: Path) -> None:
    run = tmp_path / "run"
    program.train(run, "-metrics", "fid")
    before = final_weights(run)
    done = program.train(run, "-metrics", "fid", "kid", "-ckpt", "auto")
    assert done.status == 0, done.err
    result = json.loads((run / "result.json").read_text())
    assert result["metrics"].keys() == {"frechet_distance", "kernel_distance"}
    assert [entry["step"] for entry in result["history"]] == [6]
    assert all(torch.equal(before[name], value) for name, value in final_weights(run).items())


def test_metrics_of_an_earlier_step_are_not_the_results(program: Program, tmp_path: Path) -> None:
    run = tmp_path / "run"
    program.train(run, "-metrics", "fid")
    more = ["-ckpt", "auto", "--set", "OPTIMIZATION.total_steps=7"]
    assert program.train(run, "-metrics", "none", *more).status == 0
    result = json.loads((run / "result.json").read_text())
    assert result["metrics"] == {}
    assert result["history"][-1]["step"] == 6
    assert result["measured_with"]["extractor"] == "builtin"  # what the history was measured with


def test_a_run_killed_before_its_first_checkpoint_starts_its_log_anew(
    program: Program, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 0, "metric/frechet_distance": 1.0}\n')
    assert program.train(run, "-metrics", "none", "-ckpt", "auto").status == 0
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4, 5, 6]


def strict(text: str) -> dict:
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize("wish", ["stop", "continue"])
def test_what_has_diverged_is_neither_measured_nor_saved(
    program: Program, tmp_path: Path, wish: str
) -> None:
    run = tmp_path / "run"
    more = ["--on_divergence", wish, "--set", "OPTIMIZATION.d_lr=1e30"]
    done = program.train(run, "-metrics", "prdc", *more)
    assert done.status == 3
    assert done.err.count("the training has diverged") == 1
    assert "Traceback" not in done.err
    result = strict((run / "result.json").read_text())
    assert result["status"] == "diverged"
    assert result["steps"] == (6 if wish == "continue" else result["diverged_at_step"])
    assert 0 < result["diverged_at_step"] <= 4
    assert [entry["step"] for entry in result["history"]] == [0]
    assert result["metrics"] == {}
    assert result["best"]["step"] == 0
    for line in (run / "metrics.jsonl").read_text().splitlines():
        strict(line)
    assert [p.name for p in (run / "samples").iterdir()] == ["step_000000.png"]
    for name, value in final_weights(run).items():
        assert value.isfinite().all(), name
    assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["trainer"]["step"] == 0
    assert f"diverged: step {result['diverged_at_step']} of 6 is not finite" in done.err

    resumed = program.train(run, "-metrics", "none", "-ckpt", "auto", "--precision", "auto")
    assert resumed.status == 0, resumed.err  # from before, with the config's own learning rate
    assert json.loads((run / "result.json").read_text())["status"] == "finished"


def test_a_damaged_last_checkpoint_costs_the_steps_since_the_one_before(
    program: Program, tmp_path: Path
) -> None:
    whole, hurt = tmp_path / "whole", tmp_path / "hurt"
    for run in (whole, hurt):
        assert program.train(run, "-metrics", "none").status == 0
    last = hurt / "checkpoints" / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 16
    last.write_bytes(content)
    done = program.train(hurt, "-metrics", "none", "-ckpt", "auto")
    assert done.status == 0, done.err
    assert "last.pt is damaged, so the run goes on from" in done.err
    assert "step 4" in done.err
    assert_same_weights(whole, hurt)


@pytest.mark.parametrize(("cost", "said"), [(4.2, "note: bf16 on this"), (0.3, "precision: bf16")])
def test_bf16_on_a_cpu_is_said_to_cost(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cost: float, said: str
) -> None:
    from topk_plugin.engine import precision

    monkeypatch.setattr(precision, "bf16_cost", lambda: cost)
    done = program.train(tmp_path / "run", "--dry-run", "--precision", "bf16")
    assert said in done.err
    assert f"take {cost:g} times fp32's time" in done.err
    assert ("--precision fp32 is faster" in done.err) is (cost > 1)


def test_the_faster_precision_is_taken_and_kept(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from topk_plugin.engine import precision

    run, auto = tmp_path / "run", ("-metrics", "none", "--precision", "auto")
    monkeypatch.setattr(precision, "step_seconds", lambda *a, **k: {"fp32": 2.0, "bf16": 1.0})
    done = program.train(run, *auto)
    assert "precision: bf16, for a step takes fp32 2 s, bf16 1 s here" in done.err
    monkeypatch.setattr(precision, "step_seconds", lambda *a, **k: {"fp32": 1.0, "bf16": 2.0})
    assert program.train(run, *auto, "-ckpt", "auto").status == 0
    assert json.loads((run / "result.json").read_text())["precision"] == "bf16"


def test_resuming_on_another_batch_size_keeps_the_progress(
    program: Program, tmp_path: Path
) -> None:
    gamma = "LOSS.topk_gamma=0.8"
    short = ["--set", gamma, "OPTIMIZATION.total_steps=3"]  # in the middle of the second epoch
    program.train(tmp_path / "run", "-metrics", "none", *short)
    done = program.train(
        tmp_path / "on",
        *("-metrics", "none", "-ckpt", tmp_path / "run", "--set", gamma),
        *("OPTIMIZATION.total_steps=5", "OPTIMIZATION.batch_size=16"),
    )
    assert done.status == 0, done.err
    lines = (tmp_path / "on" / "metrics.jsonl").read_text().splitlines()
    # one basket an epoch now; 16 images of epoch 1 were used, less than a basket of 32
    assert [json.loads(line)["topk/k"] for line in lines] == [12, 10]
    assert json.loads((tmp_path / "on" / "result.json").read_text())["top_k"]["k_at_the_end"] == 8


def test_two_trainings_cannot_share_a_folder(program: Program, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = program.start(
        program.train_arguments(run, "-metrics", "none", "--set", "OPTIMIZATION.total_steps=4000")
    )
    try:
        wait_for(run / "metrics.jsonl", first)
        second = program.train(run, "-metrics", "none", "-ckpt", "auto")
        assert second.status == 2
        assert "another training is writing to" in second.err
    finally:
        first.kill()
        first.communicate()
    after = program.train(
        run, "-metrics", "none", "-ckpt", "auto", "--set", "OPTIMIZATION.total_steps=4"
    )
    assert after.status == 0, after.err


def test_skipped_files_and_the_background_are_counted_and_kept(
    program: Program, tmp_path: Path
) -> None:
    (program.data / "class0" / "broken.png").write_bytes(b"junk")
    refused = program.train(tmp_path / "run", "-metrics", "none")
    assert refused.status == 2
    assert "broken.png (not an image)" in refused.err
    assert "--skip_damaged" in refused.err
    done = program.train(
        *(tmp_path / "run", "-metrics", "none", "--skip_damaged", "--background", "#000001")
    )
    assert done.status == 0, done.err
    assert "skipped: 1 file damaged" in done.err
    data = json.loads((tmp_path / "run" / "result.json").read_text())["data"]
    assert (data["skipped"], data["images"], data["background"]) == (1, 40, [0, 0, 1])
    # what looks at the run later reads its images in the same way
    evaluated = program(
        *("evaluate", "-ckpt", tmp_path / "run", "-data", program.data, "-metrics", "fid"),
        *("--extractor", "builtin", "--device", "cpu"),
    )
    assert evaluated.status == 0, evaluated.err
    assert json.loads(evaluated.out)["trained_on_these_images"]


def test_streamed_images_train_the_same_weights(program: Program, tmp_path: Path) -> None:
    held = program.train(tmp_path / "held", "-metrics", "none")
    assert held.status == 0, held.err
    streamed = program.train(
        *(tmp_path / "streamed", "-metrics", "none", "--stream", "--num_workers", 1)
    )
    assert streamed.status == 0, streamed.err
    assert "read anew in every epoch by 1 worker process" in streamed.err
    states, fingerprints = [], []
    for run in ("held", "streamed"):
        checkpoint = load_checkpoint(tmp_path / run / "checkpoints" / "last.pt")
        states.append(checkpoint.trainer)
        fingerprints.append(checkpoint.data["fingerprint"])
    assert fingerprints[0] == fingerprints[1]
    for name, value in states[0]["generator"].items():
        assert torch.equal(value, states[1]["generator"][name]), name
    unused = program.train(tmp_path / "x", "--num_workers", 1, "--dry-run")
    assert "--num_workers is not used (see --stream)" in unused.err
