"""A config and images small enough for a step in milliseconds."""

from pathlib import Path

import torch

from topk_plugin.engine.config.config import Config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.methods.topk import topk_of
from topk_plugin.engine.trainer import Trainer
from topk_plugin.gate.topk import TopK

CLASSES = 4

BASE = {
    "DATA": {"name": "tiny", "img_size": 32, "num_classes": CLASSES},
    "MODEL": {
        "backbone": "big_resnet",
        "g_cond_mtd": "cBN",
        "d_cond_mtd": "PD",
        "apply_g_sn": True,
        "apply_d_sn": True,
        "apply_attn": True,
        "attn_g_loc": [2],
        "attn_d_loc": [1],
        "z_dim": 8,
        "g_shared_dim": 4,
        "g_conv_dim": 2,
        "d_conv_dim": 4,
        "apply_g_ema": True,
        "g_ema_decay": 0.9,
        "g_ema_start": 2,
    },
    "LOSS": {
        "adv_loss": "hinge",
        "apply_topk": True,
        "topk_gamma": 0.5,
        "topk_nu": 0.25,
    },
    "OPTIMIZATION": {"batch_size": 8, "d_updates_per_step": 2, "total_steps": 6},
}

CONTRASTIVE = {
    "MODEL": {"d_cond_mtd": "2C", "d_embed_dim": 8, "normalize_d_embed": True},
    "LOSS": {"cond_lambda": 1.0, "temperature": 1.0},
}

ICR = {
    "LOSS": {
        "apply_bcr": True,
        "real_lambda": 10.0,
        "fake_lambda": 10.0,
        "apply_zcr": True,
        "radius": 0.05,
        "g_lambda": 0.5,
        "d_lambda": 20.0,
    },
    "AUG": {"bcr_aug_type": "bcr"},
}


REGULARIZERS: dict[str, dict] = {
    "WGAN-GP": {"LOSS": {"adv_loss": "wasserstein", "apply_gp": True, "gp_lambda": 10.0}},
    "R1": {"LOSS": {"apply_r1_reg": True, "r1_place": "inside_loop", "r1_lambda": 10.0}},
    "CR": {"LOSS": {"apply_cr": True, "cr_lambda": 10.0}, "AUG": {"cr_aug_type": "cr"}},
    "LeCam": {
        "LOSS": {
            "apply_lecam": True,
            "lecam_lambda": 0.3,
            "lecam_ema_start_iter": 1,
            "lecam_ema_decay": 0.9,
        }
    },
    "DiffAugment": {"AUG": {"apply_diffaug": True, "diffaug_type": "diffaug"}},
    "feature matching": {"LOSS": {"apply_fm": True, "fm_lambda": 1.0}},
    "label smoothing": {"LOSS": {"adv_loss": "vanilla", "real_label": 0.9}},
}


COMPANIONS: dict[str, dict] = {
    "SAN": {"LOSS": {"apply_san": True}},
    "relativistic": {"LOSS": {"adv_loss": "relativistic"}},
    "relativistic average": {"LOSS": {"adv_loss": "relativistic_average"}},
    "R2": {"LOSS": {"apply_r2_reg": True, "r2_lambda": 1.0}},
    "historical averaging": {"LOSS": {"apply_historical": True, "historical_lambda": 0.1}},
    "masking": {"AUG": {"apply_masking": True, "mask_balance": 0.5}},
    "NICE": {"LOSS": {"apply_nice": True, "nice_target": -0.9, "nice_speed": 0.1}},
    "minibatch discrimination": {"LOSS": {"apply_minibatch": True, "minibatch_kernels": 4}},
    "self-diagnosing": {
        "DATA": {"apply_diagan": True, "diagan_from": 0.5, "diagan_window": 0.34},
    },
    "selective matching": {"LOSS": {"apply_sfl": True, "sfl_share": 0.9}},
    "VBN in G": {"MODEL": {"apply_g_vbn": True}},
    "VBN in D": {"MODEL": {"apply_d_vbn": True, "apply_d_sn": False}},
    "projected GAN": {"MODEL": {"apply_projected": True, "projected_size": 64, "attn_d_loc": []}},
}


def tiny_config(*changes: dict) -> Config:
    sections = {name: dict(values) for name, values in BASE.items()}
    for change in changes:
        for name, values in change.items():
            sections.setdefault(name, {}).update(values)
    return Config.from_dict(sections)


def tiny_images(count: int = 40) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % CLASSES
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    images[:, 0] = (images[:, 0] // 4 + 48 * labels[:, None, None]).to(torch.uint8)
    names = tuple(f"class {c}" for c in range(CLASSES))
    return ImageSet(images, labels, names, "tiny", "made for the tests")


def tiny_trainer(*changes: dict, seed: int = 0, precision: str = "fp32") -> Trainer:
    return Trainer(
        tiny_config(*changes),
        tiny_images(),
        seed=seed,
        device=torch.device("cpu"),
        precision=precision,
    )


def gate_of(trainer: Trainer) -> TopK | None:
    """The trainer's gate; None with the slice or without top-k."""
    term = topk_of(trainer.terms)
    return None if term is None else term.topk


def write_image_folder(folder: Path, images: ImageSet | None = None) -> Path:
    """Class folders of PNG files."""
    from PIL import Image

    images = tiny_images() if images is None else images
    for i, (image, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        path = folder / f"class{label}" / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return folder
