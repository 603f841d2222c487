"""What each method costs: whole training steps with it and without it, taking turns.

    OMP_NUM_THREADS=1 python -m benchmarks.engine.methods --save benchmarks/results/methods

A 32 px BigGAN of a few channels on random images; the ratio of a step's time with the method to
that of the same training without it, of neighbouring steps, and its 95 % interval over the rounds.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topk_plugin.base.environment import environment
from topk_plugin.base.files import write_json
from topk_plugin.base.intervals import bootstrap_interval
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.trainer import Trainer

BASE: dict[str, dict[str, Any]] = {
    "DATA": {"name": "random", "img_size": 32, "num_classes": 10},
    "MODEL": {
        "backbone": "big_resnet",
        "g_cond_mtd": "cBN",
        "d_cond_mtd": "PD",
        "apply_g_sn": True,
        "apply_d_sn": True,
        "z_dim": 80,
        "g_shared_dim": 32,
        "g_conv_dim": 16,
        "d_conv_dim": 16,
    },
    "LOSS": {"adv_loss": "hinge"},
    "OPTIMIZATION": {"batch_size": 32, "d_updates_per_step": 2},
}
TOPK = {"LOSS": {"apply_topk": True, "topk_gamma": 0.5, "topk_nu": 0.5, "topk_every": 1}}
EMA = {"MODEL": {"apply_g_ema": True, "g_ema_decay": 0.99, "g_ema_start": 0}}
LECAM = {"lecam_lambda": 0.3, "lecam_ema_start_iter": 1, "lecam_ema_decay": 0.9}
BCR = {"apply_bcr": True, "real_lambda": 10.0, "fake_lambda": 10.0}
ZCR = {"apply_zcr": True, "radius": 0.05, "g_lambda": 0.5, "d_lambda": 20.0}

# The method's name in the registry -> the settings that turn it on.
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "top-k": TOPK,
    "DiffAugment": {"AUG": {"apply_diffaug": True, "diffaug_type": "diffaug"}},
    "masking": {"AUG": {"apply_masking": True}},
    "SAN": {"LOSS": {"apply_san": True}},
    "selective matching": {"LOSS": {"apply_sfl": True}},
    "relativistic": {"LOSS": {"adv_loss": "relativistic"}},
    "relativistic_average": {"LOSS": {"adv_loss": "relativistic_average"}},
    "CR": {"LOSS": {"apply_cr": True, "cr_lambda": 10.0}, "AUG": {"cr_aug_type": "cr"}},
    "bCR": {"LOSS": BCR, "AUG": {"bcr_aug_type": "bcr"}},
    "zCR": {"LOSS": ZCR},
    "feature matching": {"LOSS": {"apply_fm": True, "fm_lambda": 1.0}},
    "WGAN-GP": {"LOSS": {"apply_gp": True, "gp_lambda": 10.0}},
    "LeCam": {"LOSS": {"apply_lecam": True, **LECAM}},
    "R1": {"LOSS": {"apply_r1_reg": True, "r1_lambda": 1.0}},
    "R2": {"LOSS": {"apply_r2_reg": True, "r2_lambda": 1.0}},
    "historical averaging": {"LOSS": {"apply_historical": True, "historical_lambda": 0.01}},
    "minibatch discrimination": {"LOSS": {"apply_minibatch": True}},
    "NICE": {"LOSS": {"apply_nice": True}},
    "self-diagnosing": {
        "DATA": {"apply_diagan": True, "diagan_from": 0.1, "diagan_window": 0.067},
        "OPTIMIZATION": {"total_steps": 30},
    },
    "K+1": {
        "DATA": {"labels_per_class": 10},
        "MODEL": {"d_cond_mtd": "K+1"},
        "LOSS": {"adv_loss": "vanilla", "cond_lambda": 2.0},
    },
    "virtual batch norm of the generator": {"MODEL": {"apply_g_vbn": True}},
    "projected GAN": {"MODEL": {"apply_projected": True, "projected_size": 64}},
    "moving average": EMA,
}
WARM_UP = 3  # behind which self-diagnosing is in its second phase


def main() -> None:
    parser = argparse.ArgumentParser(description="What each method costs.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="+", choices=list(CASES), help="these methods")
    parser.add_argument("--save", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = options.save / "methods.json"
    # of part of the methods: the others' rows stay
    kept = options.only and file.exists()
    rows = json.loads(file.read_text(encoding="utf-8"))["methods"] if kept else {}
    for name in options.only or CASES:
        ratios = measured(CASES[name], options.rounds)
        rows[name] = {"ratio": float(np.median(ratios)), "interval": bootstrap_interval(ratios)}
        print(f"{name}: {rows[name]['ratio']:.3f} {rows[name]['interval']}", flush=True)
    command = f"OMP_NUM_THREADS=1 python -m benchmarks.engine.methods --rounds {options.rounds}"
    options.save.mkdir(parents=True, exist_ok=True)
    write_json(
        file,
        {"command": command, "environment": environment(), "methods": rows},
    )


def measured(changes: dict[str, dict[str, Any]], rounds: int) -> np.ndarray[Any, Any]:
    """The ratio of a step's time with ``changes`` to that without, of each round."""
    plain, changed = trainer_of({}), trainer_of(changes)
    for trainer in (plain, changed):
        for _ in range(WARM_UP):
            trainer.step()
    return np.array([seconds(changed) / seconds(plain) for _ in range(rounds)])


def trainer_of(changes: dict[str, dict[str, Any]]) -> Trainer:
    """A training on random images."""
    tree = {name: {**BASE.get(name, {}), **changes.get(name, {})} for name in {*BASE, *changes}}
    source = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (640, 3, 32, 32), generator=source, dtype=torch.uint8)
    labels = torch.arange(640) % 10
    images = ImageSet(pixels, labels, tuple(map(str, range(10))), "random", "made here")
    return Trainer(Config.from_dict(tree), images, seed=0, device=torch.device("cpu"))


def seconds(trainer: Trainer) -> float:
    """Of one step."""
    started = time.perf_counter()
    trainer.step()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
