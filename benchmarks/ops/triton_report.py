"""Compiles every Triton kernel for sm_80 and sm_90 without a GPU, and says what came out.

    python -m benchmarks.ops.triton_report

Registers and stack are read from the compiled binary by cuobjdump, spilled bytes are what ptxas
says about the same PTX; both programs come with triton. The bytes per element are
counted by hand, in each kernel's file. How fast a kernel is can't be known without a GPU:
benchmarks/ops/gpu_check.py measures it on one.
"""

import argparse
import importlib
import json
import os
import pkgutil
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from topk_plugin.base.files import atomic_write
from topk_plugin.ops import kernels
from topk_plugin.ops.kernels.specimen import Specimen

ARCHITECTURES = (80, 90)
COMMAND = "python -m benchmarks.ops.triton_report"
SAVE = Path(__file__).parents[1] / "results" / "triton"


def main() -> None:
    parser = argparse.ArgumentParser(description="Triton kernels, compiled without a GPU.")
    parser.add_argument("--save", type=Path, default=SAVE, help="the report's folder")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        sys.exit("TRITON_INTERPRET is set, and then triton compiles nothing; unset it")
    report = make_report()
    with atomic_write(options.save / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    with atomic_write(options.save / "README.md") as temporary:
        temporary.write_text(table(report), encoding="utf-8")
    print(table(report))


def make_report() -> dict[str, Any]:
    """Every specimen of every kernel file on every architecture."""
    import triton

    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder  # so that nothing comes from an earlier version
        rows = [
            _row(file, specimen, architecture, Path(folder))
            for file in kernel_files()
            for specimen in importlib.import_module(f"{kernels.__name__}.{file}").specimens()
            for architecture in ARCHITECTURES
        ]
    return {
        "command": COMMAND,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": triton.__version__,
            "ptxas": _ptxas_version(),
        },
        "rows": rows,
    }


def kernel_files() -> list[str]:
    """The modules of topk_plugin.ops.kernels that have kernels."""
    names = [module.name for module in pkgutil.iter_modules(kernels.__path__)]
    return sorted(name for name in names if name != "specimen")


def _row(file: str, specimen: Specimen, architecture: int, folder: Path) -> dict[str, Any]:
    compiled = _compile(specimen, architecture)
    return {
        "file": file,
        "kernel": specimen.kernel.__name__,
        "specimen": specimen.name,
        "architecture": f"sm_{architecture}",
        "num_warps": specimen.num_warps,
        **_resources(compiled.asm["cubin"], folder),
        "spilled_bytes": _spilled_bytes(compiled.asm["ptx"], folder),
        "shared_bytes": compiled.metadata.shared,
        "widest_load_bytes": _widest_load(compiled.asm["ptx"]),
        "cubin_bytes": len(compiled.asm["cubin"]),
        "bytes_per_element": specimen.bytes_per_element,
        "floor_bytes_per_element": specimen.floor_bytes_per_element,
        "note": specimen.note,
    }


def _compile(specimen: Specimen, architecture: int) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget

    from benchmarks.ops.triton_versions import source_of

    return triton.compile(
        source_of(specimen),
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": specimen.num_warps},
    )


def _resources(cubin: bytes, folder: Path) -> dict[str, int]:
    """Registers and stack (where spilled registers go) of a thread, from the binary itself."""
    from benchmarks.ops.triton_versions import program

    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    text = _output([program("cuobjdump"), "--dump-resource-usage", str(file)])
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if found is None:
        raise RuntimeError(f"cuobjdump named no registers: {text}")
    return {"registers": int(found[1]), "stack_bytes": int(found[2])}


def _spilled_bytes(ptx: str, folder: Path) -> int:
    """Bytes that a thread's registers did not hold, stored and loaded, as ptxas counts them."""
    from benchmarks.ops.triton_versions import program

    file = folder / "kernel.ptx"
    file.write_text(ptx, encoding="utf-8")
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    assert target is not None
    options = ["-v", f"--gpu-name={target[1]}", str(file), "-o", os.devnull]
    text = _output([program("ptxas"), *options])
    found = re.findall(r"(\d+) bytes spill (?:stores|loads)", text)
    if not found:
        raise RuntimeError(f"ptxas named no spills: {text}")
    return sum(map(int, found))


def _widest_load(ptx: str) -> int:
    """Bytes of the widest load from global memory by one thread; 16 is the most there is."""
    loads = re.findall(r"\bld\.global\S*?(?:\.v(\d))?\.[bfsu](\d+)\b", ptx)
    return max((int(width or 1) * int(bits) // 8 for width, bits in loads), default=0)


def _ptxas_version() -> str:
    from benchmarks.ops.triton_versions import program

    found = re.search(r"V([\d.]+)", _output([program("ptxas"), "--version"]))
    return found[1] if found else "unknown"


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        "# Triton kernels, compiled without a GPU",
        "",
        f"`{report['command']}`; "
        + ", ".join(f"{name} {version}" for name, version in report["versions"].items())
        + ".",
        "",
        "Compiled only; nothing here was run on a GPU. Registers, stack and spills (bytes) are "
        "those of a thread, shared memory (bytes) is a block's; the widest load (bytes) is that of "
        "any one load of a thread. Bytes per element are what a kernel moves between chip and "
        "memory for one element of the image, and what any kernel for the job must move (floor); "
        "they were counted by hand.",
        "",
        "| kernel | of | GPU | warps | registers | spills | stack | shared | widest load | cubin "
        "| bytes per element | floor | over floor |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in report["rows"]:
        moved, floor = row["bytes_per_element"], row["floor_bytes_per_element"]
        cells = [
            f"{row['file']}: {row['kernel']}",
            row["specimen"],
            row["architecture"],
            row["num_warps"],
            row["registers"],
            row["spilled_bytes"],
            row["stack_bytes"],
            row["shared_bytes"],
            row["widest_load_bytes"],
            row["cubin_bytes"],
            f"{moved:.4g}",
            f"{floor:.4g}",
            f"{moved / floor:.2f}x" if floor else "",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    notes = {f"{row['file']}: {row['specimen']}": row["note"] for row in report["rows"]}
    lines += ["", *(f"- {name}: {note}" for name, note in notes.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
