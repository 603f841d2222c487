"""Weights, optimizers and training steps: the built-in engine against the real StudioGAN."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.engine.tiny import tiny_images
from tests.studiogan.real_exchange.studiogan_side import (
    AUGMENTATION_SEED,
    gradients,
    in_precision,
    outputs,
    replace_zeros,
    stand_still,
    weights,
)
from topk_plugin.engine.building import build_critic, build_generator
from topk_plugin.engine.checkpoint import RunProgress, load_checkpoint, save_checkpoint
from topk_plugin.engine.config.config import Config, load_config
from topk_plugin.engine.data.stream import Batch
from topk_plugin.engine.methods.topk import k_of
from topk_plugin.engine.networks.sampling import sampling_copy
from topk_plugin.engine.trainer import Trainer

pytestmark = pytest.mark.studiogan

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "real_exchange" / "studiogan_side.py"
# Of the engine's checkpoints, by the name of StudioGAN's file.
STATES = {"G": "generator", "G_ema": "generator_ema", "D": "discriminator"}

STEPS, BATCH, K = 3, 16, 12
SMALL = (
    "DATA.name=tiny",
    "DATA.num_classes=4",
    "MODEL.z_dim=20",
    "MODEL.g_shared_dim=8",
    "MODEL.g_conv_dim=8",
    "MODEL.d_conv_dim=8",
    "MODEL.g_ema_decay=0.9",
    "MODEL.g_ema_start=2",
    f"OPTIMIZATION.batch_size={BATCH}",
    "OPTIMIZATION.d_updates_per_step=2",
)
TOPK = ("LOSS.apply_topk=true", "LOSS.topk_gamma=0.5", "LOSS.topk_nu=0.7")

SINGLE, DOUBLE = torch.float32, torch.float64
CONFIGS = ("BigGAN", "BigGAN-ICR", "ContraGAN")
# In single precision a ReLU whose input is nearly 0 may be open on one side and closed on the
# other, which changes the gradient by 1e-3 or so: StudioGAN's own differs as much between single
# and double precision. A smooth activation shows what agreement there is otherwise.
SMOOTH = ("BigGAN-ICR ELU", "ContraGAN ELU")

every_origin = pytest.mark.parametrize("origin", ["studiogan", "engine"])
every_config = pytest.mark.parametrize("name", CONFIGS)
every_k = pytest.mark.parametrize("k", [None, K])
every_precision = pytest.mark.parametrize("precision", [SINGLE, DOUBLE], ids=str)


def config_of(name: str, *changes: str) -> Config:
    name, _, activation = name.partition(" ")
    if name == "ContraGAN":
        changes += ("MODEL.d_embed_dim=24",)
    if activation:
        changes += (f"MODEL.g_act_fn={activation}", f"MODEL.d_act_fn={activation}")
    return load_config(ROOT / "configs" / "CIFAR10" / f"{name}.yaml", (*SMALL, *changes))


def slice_of(k: int | None) -> tuple[str, ...]:
    """Changes that turn StudioGAN's own slice on; k is given by the schedule."""
    return () if k is None else (*TOPK, "LOSS.topk_mode=slice")


def new_trainer(config: Config) -> Trainer:
    return Trainer(config, tiny_images(), seed=1, device=torch.device("cpu"))


@dataclass
class Exchange:
    """What StudioGAN was asked in one run, and what it answered.

    Attributes:
        folder: ``studiogan`` and ``evaluated`` in it hold the files that its WORKER has saved,
            ``checkpoint.pt`` is the engine's, of a trainer after as many steps.
        name: of the config.
        inputs, draws: what networks and training steps were given.
        answer: by origin of the weights and precision; see the script.
    """

    folder: Path
    name: str
    inputs: dict[str, Tensor]
    draws: dict[str, Any]
    answer: dict[str, Any]

    def state(self, origin: str) -> dict[str, Any]:
        """A trainer's state with the weights and optimizers of ``origin``, read from its files."""
        state = load_checkpoint(self.folder / "checkpoint.pt").trainer
        if origin == "studiogan":
            for name, network in STATES.items():
                (file,) = (self.folder / "studiogan").glob(f"model={name}-*.pth")
                content = torch.load(file, weights_only=True)
                state[network] = content["state_dict"]
                if name != "G_ema":
                    state[f"{name.lower()}_optimizer"] = content["optimizer"]
        return state

    def networks(self, origin: str, precision: torch.dtype) -> dict[str, nn.Module]:
        """The engine's networks with the weights of ``origin``, loaded strictly."""
        config, state = config_of(self.name), self.state(origin)
        networks = {}
        for name, network in STATES.items():
            build = build_critic if name == "D" else build_generator
            networks[name] = build(config)
            networks[name].load_state_dict(state[network])
            networks[name].to(precision)
        return networks


def draws_for(config: Config) -> dict[str, Any]:
    """Real batches of one step, and (latents, labels, latents nearby) of each of its updates."""
    images = tiny_images()
    updates = config.OPTIMIZATION.d_updates_per_step
    order = torch.randperm(len(images))[: updates * BATCH]
    latents = []
    for _ in range(updates + 1):
        z, noise = torch.randn(2, BATCH, config.MODEL.z_dim)
        nearby = z + config.LOSS.radius * noise if config.LOSS.apply_zcr else None
        latents.append((z, torch.randint(config.DATA.num_classes, (BATCH,)), nearby))
    return {
        "images": (images.images[order] / 127.5 - 1).split(BATCH),
        "labels": images.labels[order].split(BATCH),
        "latents": latents,
    }


def question_for(name: str) -> tuple[dict[str, Any], Trainer]:
    """What StudioGAN is asked, and the trainer whose weights are in it."""
    torch.manual_seed(5)
    config = config_of(name)
    trainer = new_trainer(config)
    replace_zeros(trainer.generator, trainer.critic)
    for _ in range(STEPS):
        trainer.step()
    inputs = {
        "z": torch.randn(BATCH, config.MODEL.z_dim),
        "y": torch.randint(config.DATA.num_classes, (BATCH,)),
        "images": torch.rand(BATCH, 3, 32, 32) * 2 - 1,
        "labels": torch.randint(config.DATA.num_classes, (BATCH,)),
    }
    question = {
        "tree": config.to_dict(),
        "steps": STEPS,
        "k": K,
        "precisions": [SINGLE] if name in SMOOTH else [SINGLE, DOUBLE],
        "inputs": inputs,
        "draws": draws_for(config),
        "engine": trainer.state_dict(),
    }
    return question, trainer


@pytest.fixture(scope="module")
def exchanged(
    studiogan_checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Exchange]:
    folder = tmp_path_factory.mktemp("exchange")
    made = {name: question_for(name) for name in (*CONFIGS, *SMOOTH)}
    torch.save({name: question for name, (question, _) in made.items()}, folder / "request.pt")
    # The checkout is not ours: no compiled files in it.
    environment = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, SCRIPT, studiogan_checkout, folder / "request.pt", folder],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr

    def read(name: str) -> Exchange:
        own, (question, trainer) = folder / name, made[name]
        save_checkpoint(own / "checkpoint.pt", trainer, seed=1, data={}, progress=RunProgress())
        answer = torch.load(own / "answer.pt", weights_only=True)
        return Exchange(own, name, question["inputs"], question["draws"], answer)

    return read


def largest_error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest value where that is above 1."""
    scale = max(1.0, theirs.abs().max().item())
    return (ours - theirs).abs().max().item() / scale


def global_error(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Norm of all differences, relative to the norm of all values."""
    assert ours.keys() == theirs.keys()
    difference = sum((ours[n] - theirs[n]).double().square().sum().item() for n in theirs)
    return (difference / sum(v.double().square().sum().item() for v in theirs.values())) ** 0.5


@every_precision
@every_origin
@every_config
def test_outputs_agree(exchanged, name, origin, precision):
    exchange = exchanged(name)
    theirs = exchange.answer[f"{origin} {precision}"]["outputs"]
    networks = exchange.networks(origin, precision)
    ours = outputs(networks, in_precision(precision, exchange.inputs))

    assert ours.keys() == theirs.keys()
    errors = {output: largest_error(ours[output], theirs[output]) for output in theirs}
    assert max(errors.values()) < (1e-5 if precision == SINGLE else 1e-13), errors


@every_precision
@every_origin
@every_config
def test_sampling_is_what_studiogan_evaluates_after_enough_passes(
    exchanged, name, origin, precision
):
    """StudioGAN renews the spectral norms' vectors once a forward pass, the engine all at once."""
    exchange = exchanged(name)
    theirs = exchange.answer[f"{origin} {precision}"]["evaluation"]
    average = exchange.networks(origin, precision)["G_ema"]
    inputs = in_precision(precision, exchange.inputs)
    ours = sampling_copy(average)(inputs["z"], inputs["y"])
    with torch.no_grad():
        not_renewed = average.eval()(inputs["z"], inputs["y"])

    errors = {number: largest_error(ours, images) for number, images in theirs.items()}
    errors["not renewed"] = largest_error(ours, not_renewed)
    assert errors["last pass"] < (1e-5 if precision == SINGLE else 1e-12), errors
    # else this test would show nothing
    assert min(errors["first pass"], errors["not renewed"]) > 1e-4, errors


class GivenLatents:
    """Stands in for the engine's LatentSource, which an update asks for labels first."""

    def __init__(self, draws: Iterator[list[Tensor]]) -> None:
        self._draws = draws

    def labels(self, count: int) -> Tensor:
        self._latents, labels, self._nearby = next(self._draws)
        return labels

    def latents(self, count: int) -> Tensor:
        return self._latents

    def nearby(self, latents: Tensor, radius: float) -> Tensor:
        return self._nearby


def step_of_engine(
    exchange: Exchange, origin: str, precision: torch.dtype, *changes: str
) -> dict[str, Any]:
    """The step that StudioGAN made, by the engine."""
    trainer = new_trainer(config_of(exchange.name, *changes))
    networks = {"G": trainer.generator, "G_ema": trainer.averaged_generator(), "D": trainer.critic}
    for network in networks.values():
        network.to(precision)
    trainer.load_state_dict(exchange.state(origin))
    if precision == SINGLE:
        stand_still(trainer.g_optimizer, trainer.d_optimizer)
    draws = in_precision(precision, exchange.draws)
    trainer.stream.next_step = lambda: map(Batch, draws["images"], draws["labels"], draws["labels"])
    trainer.latents = GivenLatents(iter(draws["latents"]))
    trainer.augmentation.manual_seed(AUGMENTATION_SEED)
    losses = trainer.step()
    return {
        "k": k_of(trainer.terms),
        "losses": {loss: value.item() for loss, value in losses.items()},
        "gradients": {network: gradients(networks[network]) for network in ("D", "G")},
        "after": {name: weights(network) for name, network in networks.items()},
    }


def step_errors(
    exchange: Exchange, origin: str, ours: dict[str, Any], theirs: dict[str, Any]
) -> dict[str, float]:
    """Of gradients, and of how far parameters and buffers have moved in the step."""
    before = exchange.state(origin)
    errors = {
        f"gradient of {name}": global_error(ours["gradients"][name], theirs["gradients"][name])
        for name in ("D", "G")
    }
    for name, network in STATES.items():
        start = before[network]
        moved = [
            {n: v - start[n] for n, v in side["after"][name].items()} for side in (ours, theirs)
        ]
        errors[f"move of {name}"] = global_error(*moved)
    return errors


@every_k
@every_origin
@every_config
def test_a_training_step_agrees(exchanged, name, origin, k):
    """Two updates of the critic and one of the generator, on loaded weights and optimizers."""
    exchange = exchanged(name)
    theirs = exchange.answer[f"{origin} {DOUBLE}"][f"step with k={k}"]
    ours = step_of_engine(exchange, origin, DOUBLE, *slice_of(k))

    assert ours["k"] == k
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-10)
    errors = step_errors(exchange, origin, ours, theirs)
    assert max(errors.values()) < 1e-9, errors


@every_k
@every_origin
@pytest.mark.parametrize("name", [*CONFIGS, *SMOOTH])
def test_losses_and_gradients_agree_in_single_precision(exchanged, name, origin, k):
    """As above, with learning rates of 0: all updates see the weights that were loaded."""
    exchange = exchanged(name)
    theirs = exchange.answer[f"{origin} {SINGLE}"][f"step with k={k}"]
    ours = step_of_engine(exchange, origin, SINGLE, *slice_of(k))

    assert ours["k"] == k
    # sums of numbers of up to 60, which partly cancel
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-5, abs=1e-4)
    errors = step_errors(exchange, origin, ours, theirs)
    assert max(errors.values()) < (1e-4 if name in SMOOTH else 1e-2), errors


@every_origin
@pytest.mark.parametrize("name", ["BigGAN", "BigGAN-ICR"])
def test_the_gate_gives_the_gradient_of_the_slice(exchanged, name, origin):
    """Where all that the critic says about fakes is one score; zCR's term is cut by neither."""
    exchange = exchanged(name)
    theirs = exchange.answer[f"{origin} {DOUBLE}"][f"step with k={K}"]
    ours = step_of_engine(exchange, origin, DOUBLE, *TOPK)

    assert ours["k"] == K
    errors = step_errors(exchange, origin, ours, theirs)
    assert max(errors.values()) < 1e-9, errors
    uncut = exchange.answer[f"{origin} {DOUBLE}"]["step with k=None"]
    assert global_error(ours["gradients"]["G"], uncut["gradients"]["G"]) > 1e-2


def test_a_critic_saved_after_an_evaluation_needs_numpy_numbers_allowed(exchanged):
    """StudioGAN stores its best FID as numpy's float64."""
    exchange = exchanged("BigGAN")
    (file,) = (exchange.folder / "evaluated").glob("model=D-*.pth")
    with pytest.raises(Exception, match="numpy"):
        torch.load(file, weights_only=True)

    number = np.float64(1)
    makers = [number.__reduce__()[0], np.dtype, type(number.dtype)]
    with torch.serialization.safe_globals(makers):
        content = torch.load(file, weights_only=True)

    config = config_of("BigGAN")
    build_critic(config).load_state_dict(content["state_dict"])
    assert content["best_fid"] == 31.5
