"""The check of the ops on a GPU: its own logic, on the CPU."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.ops import gpu_check, gpu_check_times
from benchmarks.ops.gpu_check_cases import Case, Size, cases
from topk_plugin.ops import dispatch

REPOSITORY = Path(__file__).resolve().parents[3]
ON_CPU = ["--device", "cpu", "--size", "small"]
SMALL = (Size(2, 8, 4), torch.device("cpu"), torch.float32, False)
WITH_CASES = sorted({case.op for case in cases(*SMALL)})


@pytest.fixture(autouse=True)
def _no_choice_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options under which times take no time, and torch.compile compiles nothing."""
    monkeypatch.setattr(gpu_check_times, "_median", lambda work, device: (work(), 0.5)[1])
    monkeypatch.setattr(torch, "compile", lambda form, **options: form)
    return [*ON_CPU, "--ops", *WITH_CASES]


def _break(monkeypatch: pytest.MonkeyPatch, op: str, form) -> None:
    """Make the cases of ``op`` use ``form``, a function of the right one, in its place."""

    def broken(*arguments) -> list[Case]:
        return [
            dataclasses.replace(case, form=form(case.form)) if case.op == op else case
            for case in cases(*arguments)
        ]

    monkeypatch.setattr(gpu_check, "cases", broken)


def test_every_op_has_a_case() -> None:
    found = cases(*SMALL)
    assert set(WITH_CASES) == set(dispatch.OPS)
    assert len({(case.op, case.variant) for case in found}) == len(found)


def test_every_op_passes_and_the_files_say_so(quick, tmp_path: Path, capsys) -> None:
    assert gpu_check.main([*quick, "--save", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    rows = result["rows"]
    combinations = {(row["op"], row["dtype"], row["layout"], len(row["size"])) for row in rows}
    assert len(combinations) == len(WITH_CASES) * 3 * 2
    assert all(row["passed"] for row in rows)
    timed = [row for row in rows if "milliseconds" in row]
    assert {row["dtype"] for row in timed} == {"fp32", "bf16"}
    assert set(timed[0]["milliseconds"]) == {"op", "reference", "compiled"}
    assert all(row["share_of_roofline"] > 0 for row in timed)
    assert "--size small" in result["command"]
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert readme.count("| yes |") == len(rows)
    printed = capsys.readouterr().out
    assert printed.startswith(dispatch.describe(torch.device("cpu")))
    assert printed.count("\nok ") == len(rows)
    assert f"{len(rows)} of {len(rows)} comparisons passed" in printed


@pytest.mark.parametrize(
    ("op", "form"),
    [
        ("gate_rows", lambda right: lambda *x: right(*x) * 1.1),
        ("conv3x3_avgpool", lambda right: lambda *x: right(*x) + 0.1),
        ("self_attention_2d", lambda right: lambda *x: right(*x).double()),
        ("spectral_weights", lambda right: lambda *x: [w * torch.nan for w in right(*x)]),
        # the right result, and running statistics that moved too far
        (
            "conditional_batch_norm_relu",
            lambda right: lambda *x: (right(*x), x[-1].mul_(1.001))[0],
        ),
        # the right result with a wrong gradient
        ("upsample_conv3x3", lambda right: lambda *x: _wrong_gradient(right(*x))),
    ],
)
def test_a_wrong_op_fails(quick, op: str, form, monkeypatch, capsys) -> None:
    _break(monkeypatch, op, form)
    assert gpu_check.main([*quick, "--dtypes", "fp32", "--no-times"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[1] for line in lines if line.startswith("FAILED")} == {op}


def _wrong_gradient(result: torch.Tensor) -> torch.Tensor:
    return 1.01 * result - 0.01 * result.detach()


def test_an_op_that_raises_fails_and_the_others_go_on(quick, monkeypatch, capsys) -> None:
    def raising(*inputs):
        raise RuntimeError("no kernel image is available")

    _break(monkeypatch, "upsample_conv3x3", lambda right: raising)
    assert gpu_check.main([*quick, "--dtypes", "fp32", "--no-times"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED  upsample_conv3x3 fp32 contiguous 3x10x5: RuntimeError: no kernel" in printed
    assert "\nok      gate_rows" in printed


def test_an_op_without_a_case_fails(quick, monkeypatch, capsys) -> None:
    monkeypatch.setattr(gpu_check, "cases", lambda *arguments: [])
    assert gpu_check.main([*quick, "--dtypes", "fp32", "--ops", "gate_rows"]) == 1
    assert "has no case of it" in capsys.readouterr().out


def test_where_torch_compile_fails_the_rest_is_timed(quick, monkeypatch, tmp_path) -> None:
    def no_compiler(*inputs):
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", lambda form, **options: no_compiler)
    options = ["--dtypes", "fp32", "--ops", "gate_rows", "--save", str(tmp_path)]
    assert gpu_check.main([*quick, *options]) == 0
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    timed = [row for row in rows if "milliseconds" in row]
    assert timed
    for row in timed:
        assert set(row["milliseconds"]) == {"op", "reference"}
        assert row["compiled_raised"] == "RuntimeError: no C++ compiler"


def test_the_limits_and_the_roofline_on_a_machine_of_known_speed(monkeypatch) -> None:
    monkeypatch.setattr(gpu_check_times, "_median", lambda work, device: 2.0)
    limits = gpu_check_times.limits_of(torch.device("cpu"), torch.float32)
    assert limits == {
        "bytes_per_second": 2 * 2**22 / 2e-3,
        "operations_per_second": 2 * 128**3 / 2e-3,
    }
    found = {case.op: case for case in cases(*SMALL)}
    # half of the rows of weight 0: read half, write all, and the two weights
    image = 2 * 3 * 64 * 64 * 4
    share = found["gate_rows"].read_share
    seconds = gpu_check_times._roofline_seconds(
        found["gate_rows"], {"bytes_per_second": 1e6, "operations_per_second": 1e12}
    )
    assert seconds == pytest.approx((share * image + image + 8) / 1e6)
    # bound by its operations: one 4x4 convolution of stride 2
    seconds = gpu_check_times._roofline_seconds(
        found["conv3x3_avgpool"], {"bytes_per_second": 1e12, "operations_per_second": 1e6}
    )
    assert seconds == pytest.approx(2 * 16 * 8 * (2 * 8 * 2 * 2) / 1e6)


def test_a_time_is_measured() -> None:
    slept = []
    milliseconds = gpu_check_times._median(
        lambda: slept.append(sum(range(1000))), torch.device("cpu")
    )
    assert slept
    assert 0 < milliseconds < 100


def test_the_same_numbers_at_every_call_and_in_every_layout() -> None:
    size, cpu = Size(2, 8, 4), torch.device("cpu")
    first, second = (cases(size, cpu, torch.float64, layout) for layout in (False, True))
    for a, b in zip(first, second, strict=True):
        for x, y in zip([*a.inputs, *a.constants], [*b.inputs, *b.constants], strict=True):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_ends_with_one_sentence() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_HOME"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ops.gpu_check"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        "torch sees no CUDA GPU here, so no op was checked; run this on a machine with one"
    )


def test_forced_references_leave_nothing_to_check(monkeypatch, capsys) -> None:
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, "reference")
    assert gpu_check.main(ON_CPU) == 2
    assert "TOPK_PLUGIN_OPS=reference" in capsys.readouterr().err
