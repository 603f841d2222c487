"""Top-k in the real StudioGAN: every config of src/configs/CIFAR10, on a CPU.

    python -m benchmarks.studiogan.configs CHECKOUT --data data/cifar10_jpeg_train.zip --jobs 2

Each config runs with 8 channels (where it has a width), batch 16 and top-k by the gate, k falling
at every generator update: 4 steps and a checkpoint, then resumed for 4 more and another checkpoint.
At every update the rows of the gradient at the critic's input that are not zero are counted.

One JSON file a config lies under --save as it comes; finished ones are not repeated. The table is
README.md there.
"""

import argparse
import concurrent.futures
import io
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml
from PIL import Image

from topk_plugin.base.files import atomic_write
from topk_plugin.gate.schedule import KSchedule
from topk_plugin.studiogan.checkout import source_folder

BATCH = 16
CHANNELS = 8
STEPS = 4
IMAGES = 2000
SCHEDULE = KSchedule(gamma=0.9, nu=0.5, every=1)
COMMAND = "python -m benchmarks.studiogan.configs CHECKOUT --data data/cifar10_jpeg_train.zip"


def main() -> None:
    parser = argparse.ArgumentParser(description="Top-k in every CIFAR10 config of StudioGAN.")
    parser.add_argument("checkout", type=Path, help="a PyTorch-StudioGAN checkout")
    parser.add_argument("--data", type=Path, required=True, help=".zip of class folders")
    parser.add_argument("--save", type=Path, default=Path("benchmarks/results/studiogan-configs"))
    parser.add_argument("--only", nargs="*", default=[], help="names of configs; default: all")
    parser.add_argument("--jobs", type=int, default=1, help="configs at a time, one core each")
    options = parser.parse_args()
    folder = source_folder(options.checkout) / "configs" / "CIFAR10"
    configs = sorted(path for path in folder.glob("*.yaml"))
    results = options.save / "configs"
    with tempfile.TemporaryDirectory() as data:
        _write_hdf5(options.data, Path(data) / "CIFAR10_32_train.hdf5")
        todo = [
            config
            for config in configs
            if not (results / f"{config.stem}.json").exists()
            and (not options.only or config.stem in options.only)
        ]
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:

            def try_and_save(config: Path) -> None:
                result = _try(options.checkout.resolve(), config, Path(data))
                with atomic_write(results / f"{config.stem}.json") as temporary:
                    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                print(f"{config.stem}: {_verdict(result)}", flush=True)

            for job in [pool.submit(try_and_save, config) for config in todo]:
                job.result()
    with atomic_write(options.save / "README.md") as temporary:
        temporary.write_text(_table(results), encoding="utf-8")


def _write_hdf5(archive: Path, path: Path) -> None:
    """StudioGAN's own file of CIFAR-10, so that it downloads nothing."""
    with zipfile.ZipFile(archive) as source:
        names = sorted(n for n in source.namelist() if n.count("/") == 1 and not n.endswith("/"))
        classes = sorted({name.split("/")[0] for name in names})
        chosen = random.Random(0).sample(names, IMAGES)
        images = [np.asarray(Image.open(io.BytesIO(source.read(n))).convert("RGB")) for n in chosen]
    with h5py.File(path, "w") as file:
        file["imgs"] = np.stack(images)
        file["labels"] = np.array([classes.index(n.split("/")[0]) for n in chosen])


def _small(config: Path, total_steps: int) -> dict[str, Any]:
    """The config with top-k, narrow and short."""
    tree: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
    model = tree.get("MODEL", {})
    for width in ("g_conv_dim", "d_conv_dim"):
        if isinstance(model.get(width), int):
            model[width] = CHANNELS
    tree.setdefault("OPTIMIZATION", {}).update(batch_size=BATCH, total_steps=total_steps)
    group = tree.get("STYLEGAN", {}).get("d_epilogue_mbstd_group_size")
    if isinstance(group, int):  # StudioGAN wants it no larger than the batch
        tree["STYLEGAN"]["d_epilogue_mbstd_group_size"] = min(group, BATCH)
    if "d_reg_interval" in tree.get("STYLEGAN", {}):
        # StudioGAN logs the R1 penalty at every print, and fails if none was computed so far: the
        # first step after the resume has to compute one.
        tree["STYLEGAN"]["d_reg_interval"] = STEPS
    tree.setdefault("LOSS", {}).update(
        apply_topk=True,
        topk_gamma=SCHEDULE.gamma,
        topk_nu=SCHEDULE.nu,
        topk_every=SCHEDULE.every,
    )
    return tree


def _try(checkout: Path, config: Path, data: Path) -> dict[str, Any]:
    """Run, save, resume, save; what came out."""
    started = time.perf_counter()
    result: dict[str, Any] = {"config": config.stem}
    with tempfile.TemporaryDirectory() as folder:
        save = Path(folder)
        first = _run(checkout, config, data, save, STEPS - 1, None)
        result["first"] = first
        checkpoints = sorted((save / "checkpoints").glob("*/"))
        if first["error"] is None and checkpoints:
            again = _run(checkout, config, data, save, 2 * STEPS - 1, checkpoints[0])
            result["resumed"] = again
            result["checkpoints"] = sorted(p.name for p in checkpoints[0].iterdir())
    result["seconds"] = round(time.perf_counter() - started, 1)
    result["versions"] = {"python": platform.python_version(), "torch": torch.__version__}
    return result


def _run(
    checkout: Path, config: Path, data: Path, save: Path, last: int, checkpoint: Path | None
) -> dict[str, Any]:
    # StudioGAN's loop ends after step total_steps, which is its total_steps + 1st
    short = save / f"{config.stem}.yaml"
    short.write_text(yaml.safe_dump(_small(config, last)), encoding="utf-8")
    report = save / "rows.json"
    report.unlink(missing_ok=True)
    arguments = ["-t", "-hdf5", "-l", "-cfg", str(short), "-data", str(data), "-save", str(save)]
    arguments += ["-metrics", "none", "--num_workers", "0", "--seed", "1", "--print_freq", "1"]
    arguments += ["--save_freq", str(STEPS)]
    if checkpoint is not None:
        arguments += ["-ckpt", str(checkpoint)]
    observer = Path(__file__).with_name("observer.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        process = subprocess.run(
            [sys.executable, str(observer), str(checkout), str(report), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        error = None
        if process.returncode == -signal.SIGKILL:
            error = f"killed, most likely for want of memory ({_memory()} in this machine)"
        elif process.returncode != 0:
            said = process.stderr.strip().splitlines()
            error = said[-1] if said else f"exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        error = "took over 30 minutes"
    rows = json.loads(report.read_text(encoding="utf-8")) if report.exists() else []
    return {"error": error, "updates": rows}


def _memory() -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{pages / 2**30:.0f} GiB"


def _expected(first_update: int, updates: int) -> list[int]:
    return [SCHEDULE.k(first_update + u, BATCH) for u in range(updates)]


def _rows(run: dict[str, Any]) -> list[int]:
    return [rows for update in run["updates"] for rows in update]


def _gated(run: dict[str, Any], first_update: int) -> bool:
    """Whether each critic call of update u let exactly k(u) rows through."""
    updates = run["updates"]
    return bool(updates) and all(
        calls and all(rows == k for rows in calls)
        for calls, k in zip(updates, _expected(first_update, len(updates)), strict=True)
    )


def _verdict(result: dict[str, Any]) -> str:
    first, resumed = result["first"], result.get("resumed")
    if first["error"]:
        return f"fails: {first['error']}"
    if not _gated(first, 0):
        return f"rows differ: {first['updates']}"
    if resumed is None or resumed["error"]:
        return f"does not resume: {resumed and resumed['error']}"
    if not _gated(resumed, len(first["updates"])):
        return f"rows differ after resuming: {resumed['updates']}"
    return "runs, gated, resumes"


def _table(results: Path) -> str:
    lines = [
        "# Top-k in StudioGAN's CIFAR10 configs, on a CPU",
        "",
        f"`{COMMAND}` (StudioGAN at commit 947b35e, unpatched, run through the adapter).",
        f"{CHANNELS} channels where the config has a width, batch {BATCH}, k falling at every",
        f"generator update from {SCHEDULE.k(0, BATCH)} to {SCHEDULE.k(99, BATCH)}: {STEPS} steps,",
        f"a checkpoint, {STEPS} more after `-ckpt`, another checkpoint.",
        "Rows: gradient rows at the critic's input that are not zero, for every critic call on",
        "generated images, update by update; | marks the resume.",
        "",
        "| config | runs | rows let through | as expected | resumes | seconds |",
        "|---|---|---|---|---|---|",
    ]
    files = sorted(results.glob("*.json"))
    loaded = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    for result in loaded:
        first, resumed = result["first"], result.get("resumed")
        rows = " ".join(map(str, _rows(first)))
        if resumed:
            rows += " \\| " + " ".join(map(str, _rows(resumed)))
        good = _gated(first, 0) and (resumed is None or _gated(resumed, len(first["updates"])))
        resumes = "-" if resumed is None else (resumed["error"] or "yes")
        lines.append(
            f"| {result['config']} | {first['error'] or 'yes'} | {rows} | "
            f"{'yes' if good else 'no'} | {resumes} | {result['seconds']} |"
        )
    good_ones = sum(_verdict(result) == "runs, gated, resumes" for result in loaded)
    lines += ["", f"{good_ones} of {len(loaded)} run, are gated as expected and resume.", ""]
    versions = sorted({json.dumps(result["versions"]) for result in loaded})
    lines += [f"Versions: {'; '.join(versions)}. {platform.machine()}, {os.cpu_count()} cores.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
