"""Does bf16 cost quality? Short Digits runs in fp32 and bf16, the same seeds in both.

    python -m benchmarks.engine.precision --runs runs/precision

Runs that are finished are not repeated, one that was stopped goes on.
"""

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from scipy.stats import ttest_rel

from topk_plugin.base.files import atomic_write, write_json

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "Digits" / "BigGAN-TopK.yaml"
PRECISIONS = ("fp32", "bf16")
STEPS = 500


def main() -> None:
    parser = argparse.ArgumentParser(description="Digits runs in fp32 and in bf16.")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--save", type=Path, default=Path("benchmarks/results/precision"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    scores: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    measured_with = {}
    for seed in range(options.seeds):
        for precision in PRECISIONS:
            result = _run(options.runs / f"{precision}-{seed}", precision, seed)
            scores[precision].append(result["metrics"]["frechet_distance"])
            measured_with = result["measured_with"]
            print(precision, seed, scores[precision][-1], flush=True)
    result = {
        "command": "python -m benchmarks.engine.precision --runs runs/precision "
        f"--seeds {options.seeds}",
        "config": f"configs/Digits/{CONFIG.name}, {STEPS} steps",
        "measured_with": measured_with,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "frechet_distance": scores,
    }
    write_json(options.save / "results.json", result)
    with atomic_write(options.save / "README.md") as temporary:
        temporary.write_text(report(result), encoding="utf-8")


def _run(folder: Path, precision: str, seed: int) -> dict[str, Any]:
    file = folder / "result.json"
    if not file.exists():
        command = [sys.executable, "-m", "topk_plugin", "train", "-cfg", CONFIG, "-save", folder]
        command += ["--set", f"OPTIMIZATION.total_steps={STEPS}", "--seed", seed, "-ckpt", "auto"]
        command += ["--precision", precision, "--save_freq", STEPS, "-metrics", "fid"]
        subprocess.run([str(word) for word in command], check=True)
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return result


def report(result: dict[str, Any]) -> str:
    """The page of the results."""
    scores = result["frechet_distance"]
    low, high = min(scores["fp32"]), max(scores["fp32"])
    inside = sum(low <= score <= high for score in scores["bf16"])
    test = ttest_rel(scores["bf16"], scores["fp32"])
    interval = test.confidence_interval(0.95)
    lines = [
        "# bf16 against fp32",
        "",
        f"`{result['command']}`: {result['config']}; Frechet distance in the features of the "
        f"{result['measured_with']['extractor']} extractor (lower is better) at the end. Python "
        f"{result['versions']['python']}, torch {result['versions']['torch']}.",
        "",
        f"| seed | {' | '.join(PRECISIONS)} |",
        "|---|---|---|",
        *(
            f"| {seed} | {' | '.join(f'{scores[p][seed]:.2f}' for p in PRECISIONS)} |"
            for seed in range(len(scores["fp32"]))
        ),
        "",
        f"{inside} of {len(scores['bf16'])} bf16 runs lie within the fp32 seeds' spread, {low:.2f} "
        f"to {high:.2f}. Paired difference bf16 - fp32, mean and 95 % interval (t): "
        f"{interval.low / 2 + interval.high / 2:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}].",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
