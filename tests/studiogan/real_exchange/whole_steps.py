"""Whole training steps of StudioGAN's WORKER and of the engine side by side, in one process.

``python whole_steps.py CHECKOUT FILE``: prints, as JSON, how far losses, gradients and weights are
from each other at most over some steps of every case, relative to their size. Both start from the
same weights and see the same images, labels and latents, in float64; augmentations and the
gradient penalty draw from streams of one seed.
"""

import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.engine.tiny import tiny_images
from tests.studiogan.real_exchange.studiogan_side import gradients, replace_zeros, weights
from topk_plugin.engine.config.config import Config, load_config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.stream import Batch
from topk_plugin.engine.methods.topk import k_of
from topk_plugin.engine.trainer import Trainer
from topk_plugin.studiogan.testing.in_process import make_worker, start_bare

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "CIFAR10"
BATCH, K, STEPS, IMAGES = 16, 12, 4, 600
PRECISION = torch.float64
SMALL = (
    *("DATA.name=tiny", "DATA.num_classes=4", "MODEL.z_dim=20", "MODEL.g_shared_dim=8"),
    *("MODEL.g_conv_dim=8", "MODEL.d_conv_dim=8", "MODEL.g_ema_decay=0.9", "MODEL.g_ema_start=2"),
    *(f"OPTIMIZATION.batch_size={BATCH}", "OPTIMIZATION.d_updates_per_step=2"),
)
SLICE = (
    *("LOSS.apply_topk=true", "LOSS.topk_gamma=0.5", "LOSS.topk_nu=0.7", "LOSS.topk_mode=slice"),
)
DIFFAUG = ("AUG.apply_diffaug=true", "AUG.diffaug_type=diffaug")
GP = ("LOSS.adv_loss=wasserstein", "LOSS.apply_gp=true", "LOSS.gp_lambda=10")
R1 = ("LOSS.apply_r1_reg=true", "LOSS.r1_place=inside_loop", "LOSS.r1_lambda=1.5")
CR = ("LOSS.apply_cr=true", "LOSS.cr_lambda=10", "AUG.cr_aug_type=cr")
BCR = ("LOSS.apply_bcr=true", "LOSS.real_lambda=10", "LOSS.fake_lambda=10", "AUG.bcr_aug_type=bcr")
ZCR = ("LOSS.apply_zcr=true", "LOSS.radius=0.05", "LOSS.g_lambda=0.5", "LOSS.d_lambda=20")
LECAM = (
    *("LOSS.apply_lecam=true", "LOSS.lecam_lambda=0.3"),
    *("LOSS.lecam_ema_start_iter=1", "LOSS.lecam_ema_decay=0.9"),
)
MATCHING = ("LOSS.apply_fm=true", "LOSS.fm_lambda=1.7")
ACCUMULATED = ("OPTIMIZATION.acml_steps=2", "OPTIMIZATION.g_updates_per_step=2")
RESNET = ("MODEL.backbone=resnet", "MODEL.g_shared_dim=N/A")
DEEP_CONV = (
    *("MODEL.backbone=deep_conv", "MODEL.g_shared_dim=N/A"),
    *("MODEL.g_conv_dim=N/A", "MODEL.d_conv_dim=N/A"),
    *("MODEL.apply_attn=false", "MODEL.attn_g_loc=[]", "MODEL.attn_d_loc=[]"),
)
PLAIN = (
    *("MODEL.g_shared_dim=N/A", "MODEL.g_cond_mtd=W/O", "MODEL.d_cond_mtd=W/O"),
    *("MODEL.apply_g_sn=false", "MODEL.apply_d_sn=false"),
)
AC = ("MODEL.d_cond_mtd=AC", "MODEL.normalize_d_embed=true", "LOSS.cond_lambda=0.7")
D2DCE = (
    *("MODEL.d_cond_mtd=D2DCE", "MODEL.normalize_d_embed=true", "MODEL.d_embed_dim=24"),
    *("LOSS.cond_lambda=0.5", "LOSS.temperature=0.5", "LOSS.m_p=0.98"),
)
NARROW = ("MODEL.d_embed_dim=24",)

CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "BigGAN, R1, DiffAugment": ("BigGAN", R1 + DIFFAUG),
    "BigGAN, gradient penalty, slice": ("BigGAN", GP + SLICE),
    "BigGAN, CR, LeCam, feature matching, D2DCE": ("BigGAN", D2DCE + CR + LECAM + MATCHING),
    "ContraGAN, feature matching, accumulated": (
        "ContraGAN",
        NARROW + MATCHING + DIFFAUG + ACCUMULATED,
    ),
    "BigGAN, all that goes together": (
        "BigGAN",
        DIFFAUG + BCR + ZCR + LECAM + MATCHING + GP + R1 + SLICE + ACCUMULATED,
    ),
    "BigGAN, AC": ("BigGAN", AC),
    "resnet, PD": ("BigGAN", (*RESNET, "MODEL.apply_g_sn=false")),
    "resnet, AC, DiffAugment": ("BigGAN", RESNET + AC + DIFFAUG),
    "resnet, WGAN-GP": ("BigGAN", RESNET + PLAIN + GP),
    "resnet, D2DCE, slice": ("BigGAN", RESNET + D2DCE + SLICE),
    "deep_conv, unconditional": ("BigGAN", DEEP_CONV + PLAIN),
    "deep_conv, 2C, ICR": ("ContraGAN", NARROW + DEEP_CONV + BCR + ZCR),
    "deep_conv, AC, R1, slice": ("BigGAN", DEEP_CONV + AC + R1 + SLICE),
}


class OneHot:
    """StudioGAN turns one-hot labels into float32 whatever the network's precision is."""

    def __init__(self, labels: Tensor) -> None:
        self._labels = labels

    def to(self, _: torch.dtype) -> Tensor:
        return self._labels.to(PRECISION)


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Of all tensors together, relative to their length."""
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    off = sum((ours[n] - theirs[n]).square().sum().item() for n in theirs)
    return float((off / sum(v.square().sum().item() for v in theirs.values())) ** 0.5)


class Given:
    """Images and latents of a case, drawn once."""

    def __init__(self, config: Config, images: ImageSet) -> None:
        optimization, random = config.OPTIMIZATION, torch.Generator().manual_seed(3)
        updates = optimization.d_updates_per_step + optimization.g_updates_per_step
        self._basket = BATCH * optimization.d_updates_per_step * optimization.acml_steps
        self._order = torch.randperm(IMAGES, generator=random)
        self._images = images
        self.latents: list[tuple[Tensor, Tensor, Tensor | None]] = []
        for _ in range(STEPS * updates * optimization.acml_steps):
            z, noise = torch.randn(2, BATCH, 20, generator=random, dtype=PRECISION)
            labels = torch.randint(4, (BATCH,), generator=random)
            self.latents.append((z, labels, z + 0.05 * noise if config.LOSS.apply_zcr else None))

    def baskets(self) -> Iterator[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
        for number in itertools.count():
            place = torch.arange(number * self._basket, (number + 1) * self._basket) % IMAGES
            chosen = self._order[place]
            pixels = (self._images.images[chosen] / 127.5 - 1).to(PRECISION)
            yield pixels.split(BATCH), self._images.labels[chosen].split(BATCH)


class GivenLatents:
    """In place of the engine's own source."""

    def __init__(self, latents: list[tuple[Tensor, Tensor, Tensor | None]]) -> None:
        self._remaining = iter(latents)

    def labels(self, count: int) -> Tensor:
        self._z, labels, self._nearby = next(self._remaining)
        return labels

    def latents(self, count: int) -> Tensor:
        return self._z

    def nearby(self, z: Tensor, radius: float) -> Tensor | None:
        return self._nearby


def compare(name: str, folder: Path) -> dict[str, float]:
    """Quantity -> the largest distance over the steps of one case."""
    file, changes = CASES[name]
    config = load_config(CONFIGS / f"{file}.yaml", (*SMALL, *changes))
    images = tiny_images(IMAGES)
    torch.manual_seed(5)
    trainer = Trainer(config, images, seed=1, device=torch.device("cpu"))
    replace_zeros(trainer.generator, trainer.critic)
    ours: dict[str, nn.Module] = {
        "generator": trainer.generator,
        "discriminator": trainer.critic,
    }
    average = trainer.averaged_generator()
    if average is not None:
        average.load_state_dict(trainer.generator.state_dict())
        ours["average"] = average
    tree = config.to_dict()
    own = ("topk_mode", "topk_policy", "topk_scope", "topk_normalize", "topk_accumulation")
    own += ("topk_every", "real_label")
    tree["LOSS"] = {key: value for key, value in tree["LOSS"].items() if key not in own}
    worker = make_worker(tree, folder)
    theirs = {"generator": worker.Gen, "discriminator": worker.Dis, "average": worker.Gen_ema}
    for key, network in ours.items():
        theirs[key].load_state_dict(network.state_dict())
        theirs[key].to(PRECISION)
        network.to(PRECISION)
    given = Given(config, images)
    torch.manual_seed(11)
    random = torch.get_rng_state()
    expected = list(_of_studiogan(worker, {key: theirs[key] for key in ours}, given))
    trainer.latents = GivenLatents(given.latents)  # type: ignore[assignment]
    baskets = given.baskets()
    trainer.stream.next_step = lambda first_only=False: [
        Batch(x, y, y) for x, y in zip(*next(baskets), strict=True)
    ]  # type: ignore
    trainer.augmentation.set_state(random)
    trainer.progress.epochs = 1  # the schedule's k is then K
    worst: dict[str, float] = {}
    for step in expected:
        found = _state(ours, trainer.step())
        for key, value in step.items():
            worst[key] = max(worst.get(key, 0.0), distance(found[key], value))
    assert config.LOSS.topk_mode != "slice" or k_of(trainer.terms) == K
    return worst


def _of_studiogan(
    worker: Any, networks: dict[str, nn.Module], given: Given
) -> Iterator[dict[str, dict[str, Tensor]]]:
    worker.topk = K
    latents, baskets = iter(given.latents), given.baskets()
    with (
        patch("utils.sample.sample_zy", lambda **_: next(latents)),
        patch.object(worker, "sample_data_basket", lambda: next(baskets)),
        patch.object(F, "one_hot", lambda y, num_classes: OneHot(_one_hot(y, num_classes))),
    ):
        for step in range(STEPS):
            _, d_loss = worker.train_discriminator(current_step=step)
            d_gradients = gradients(networks["discriminator"])
            g_loss = worker.train_generator(current_step=step)
            # StudioGAN logs the loss of one batch over the number of batches that are accumulated
            batches = worker.OPTIMIZATION.acml_steps
            losses = {"loss/discriminator": d_loss * batches, "loss/generator": g_loss * batches}
            yield _state(networks, losses) | {"gradients of the discriminator": d_gradients}


_one_hot = F.one_hot


def _state(networks: dict[str, nn.Module], losses: dict[str, Tensor]) -> dict[str, Any]:
    names = ("loss/discriminator", "loss/generator")
    state: dict[str, Any] = {
        "losses": {name: losses[name].detach().to(PRECISION) for name in names},
        "gradients of the generator": gradients(networks["generator"]),
        "gradients of the discriminator": gradients(networks["discriminator"]),
    }
    return state | {f"weights of the {name}": weights(n) for name, n in networks.items()}


def main(checkout: str, file: str) -> None:
    start_bare(Path(checkout) / "src")
    found = {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = compare(name, Path(folder))
    Path(file).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
