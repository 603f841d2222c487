"""StudioGAN's half of the exchange of weights, in a process of its own.

``python studiogan_side.py CHECKOUT REQUEST FOLDER``: REQUEST is a file of torch.save, with any
number of runs by their names; FOLDER has a subfolder for each. In each run a real WORKER trains
some steps and saves. Its networks, and then the ones of the request, are evaluated, and make one
more training step on the images and latents of the request. What they gave is in answer.pt.
"""

import importlib
import itertools
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from topk_plugin.engine.methods.flip_and_shift import flip_and_shift
from topk_plugin.engine.networks.sampling import POWER_ITERATIONS
from topk_plugin.studiogan.testing.in_process import make_worker, start_bare

AUGMENTATION_SEED = 11
FOLDERS = ("studiogan", "evaluated", "engine")


def replace_zeros(*networks: nn.Module) -> None:
    """Give parameters that start at 0, such as the weight of self-attention, something to do."""
    for parameter in itertools.chain.from_iterable(n.parameters() for n in networks):
        if not parameter.any():
            nn.init.uniform_(parameter, -0.3, 0.3)


def outputs(networks: dict[str, nn.Module], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What generators and critic make of the same inputs, in plain eval mode.

    Args:
        networks: "G", "G_ema" and "D".
        inputs: "z", "y" for the generators, "images", "labels" for the critic.
    """
    result = {}
    with torch.no_grad():
        for name in ("G", "G_ema"):
            result[name] = networks[name].eval()(inputs["z"], inputs["y"])
        scored = networks["D"].eval()(inputs["images"], inputs["labels"])
    for name in ("adv_output", "h", "embed", "proxy"):
        if scored.get(name) is not None:
            result[f"D {name}"] = scored[name]
    return result


def gradients(network: nn.Module) -> dict[str, Tensor]:
    """The gradients by the parameters' names."""
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def weights(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, less the counts of batches."""
    states = network.state_dict().items()
    return {name: value.clone() for name, value in states if value.is_floating_point()}


def stand_still(*optimizers: torch.optim.Optimizer) -> None:
    """Let steps change nothing, so that all updates of a training step see the same weights."""
    for group in itertools.chain.from_iterable(o.param_groups for o in optimizers):
        group["lr"] = 0.0


def in_precision(precision: torch.dtype, value: Any) -> Any:
    """Nested data with its floating point tensors in another precision."""
    if isinstance(value, dict):
        return {name: in_precision(precision, item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [in_precision(precision, item) for item in value]
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(precision)
    return value


class Run:
    """A WORKER that has trained some steps."""

    def __init__(self, request: dict[str, Any], folder: Path) -> None:
        self.request, self.folder = request, folder
        self.worker = worker = make_worker(request["tree"], folder)
        self.networks = {"G": worker.Gen, "G_ema": worker.Gen_ema, "D": worker.Dis}
        self.optimizers = {
            "G": worker.OPTIMIZATION.g_optimizer,
            "D": worker.OPTIMIZATION.d_optimizer,
        }
        replace_zeros(worker.Gen, worker.Dis)
        for step in range(request["steps"]):
            worker.train_discriminator(current_step=step)
            worker.train_generator(current_step=step)

    def answer(self) -> dict[str, Any]:
        for name in FOLDERS:
            (self.folder / name).mkdir()
        self.save(self.folder / "studiogan")
        self.write_engine(self.folder / "engine")
        answer = {}
        for origin in ("studiogan", "engine"):
            for precision in self.request["precisions"]:
                answer[f"{origin} {precision}"] = case = {}
                self.load(self.folder / origin, precision)
                inputs = in_precision(precision, self.request["inputs"])
                case["outputs"] = outputs(self.networks, inputs)
                case["evaluation"] = self.evaluation(inputs)
                draws = in_precision(precision, self.request["draws"])
                for k in (None, self.request["k"]):
                    self.load(self.folder / origin, precision)
                    if precision == torch.float32:
                        stand_still(*self.optimizers.values())
                    case[f"step with k={k}"] = self.step(draws, k)
        self.worker.best_fid = np.float64(31.5)  # as StudioGAN's own evaluation sets it
        self.save(self.folder / "evaluated")
        return answer

    def save(self, folder: Path) -> None:
        """Saved by the WORKER itself."""
        self.worker.RUN.ckpt_dir = str(folder)
        self.worker.save(step=self.request["steps"], is_best=False)

    def write_engine(self, folder: Path) -> None:
        """The engine's state as files that StudioGAN's own loader reads."""
        engine = self.request["engine"]
        for optimizer in (engine["g_optimizer"], engine["d_optimizer"]):
            # The engine keeps channels innermost; fused Adam on a CPU is blind to the difference.
            for memory in optimizer["state"].values():
                memory |= {name: value.contiguous() for name, value in memory.items()}
        for name, network, optimizer in (
            ("G", "generator", "g_optimizer"),
            ("G_ema", "generator_ema", None),
            ("D", "discriminator", "d_optimizer"),
        ):
            content = {"state_dict": engine[network]}
            if optimizer is not None:
                content["optimizer"] = engine[optimizer]
            torch.save(content, folder / f"model={name}-current-weights-step=0.pth")

    def load(self, folder: Path, precision: torch.dtype) -> None:
        """By StudioGAN's own loader, which is strict."""
        load = importlib.import_module("utils.ckpt").load_ckpt
        for name, network in self.networks.items():
            network.to(precision)
            (file,) = folder.glob(f"model={name}-*.pth")
            optimizer = self.optimizers.get(name)
            load(network, optimizer, file, load_model=True, load_opt=optimizer is not None)

    def evaluation(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Images of the averaged generator in the mode in which StudioGAN evaluates it.

        Each forward pass is a power iteration there, whatever the latents are.
        """
        generator, *_ = self.worker.gen_ctlr.prepare_generator()
        z, y = inputs["z"], inputs["y"]
        with torch.no_grad():
            first = generator(z, y, eval=True)
            for _ in range(POWER_ITERATIONS - 2):
                generator(z[:1], y[:1], eval=True)
            return {"first pass": first, "last pass": generator(z, y, eval=True)}

    def step(self, draws: dict[str, Any], k: int | None) -> dict[str, Any]:
        """A training step on given images, labels and latents."""
        worker, latents = self.worker, iter(draws["latents"])
        random = torch.Generator().manual_seed(AUGMENTATION_SEED)
        worker.LOSS.apply_topk, worker.topk = k is not None, k
        with (
            patch("utils.sample.sample_zy", lambda **_: next(latents)),
            patch.object(worker, "sample_data_basket", lambda: (draws["images"], draws["labels"])),
            patch.object(
                worker.AUG,
                "parallel_augment",
                lambda images: flip_and_shift(images, random),
                create=True,
            ),
        ):
            conditional, d_loss = worker.train_discriminator(current_step=self.request["steps"])
            g_loss = worker.train_generator(current_step=self.request["steps"])
        losses = {"loss/discriminator": d_loss.item(), "loss/generator": g_loss.item()}
        if isinstance(conditional, Tensor):
            losses["loss/conditional"] = conditional.item()
        return {
            "losses": losses,
            "gradients": {name: gradients(self.networks[name]) for name in ("D", "G")},
            "after": {name: weights(network) for name, network in self.networks.items()},
        }


def main(checkout: str, request_file: str, folder: str) -> None:
    start_bare(Path(checkout) / "src")
    for name, request in torch.load(request_file, weights_only=True).items():
        own = Path(folder) / name
        own.mkdir()
        torch.save(Run(request, own).answer(), own / "answer.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
