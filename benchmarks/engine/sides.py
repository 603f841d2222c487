"""The trainers that engine_speed.py compares, each in a process of its own.

A process answers one request at a time, so that the trainers take turns on the same cores: build,
replay (given images and latents, for the losses), step (for the time), and what else the report
needs.
"""

import importlib
import logging
import resource
import time
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import torch
import yaml
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from topk_plugin.engine.allocator import keep_freed_memory
from topk_plugin.engine.compiling import compile_forward
from topk_plugin.engine.config.config import Config, load_config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.open import open_images
from topk_plugin.engine.data.stream import Batch
from topk_plugin.engine.latents import LatentSource
from topk_plugin.engine.trainer import Trainer
from topk_plugin.studiogan.fixes import amp
from topk_plugin.studiogan.testing.in_process import Tree, make_worker, start_adapted

NOISE_SEED = 1


@dataclass(frozen=True)
class Side:
    """What a process trains.

    Args:
        checkout: StudioGAN's source folder; None for the built-in trainer.
        precision: "fp32" or "bf16" (for StudioGAN: its flag -mpc, with the adapter's fix ``amp``,
            without which it is fp32 on a CPU).
        compiled: with torch.compile.
        nudged: every weight is changed by its last bit or so: what rounding does to the losses.
        config: YAML file.
        channels: g_conv_dim and d_conv_dim.
        data: CIFAR-10 images.
        threads: of torch.
    """

    checkout: Path | None
    precision: str
    compiled: bool
    nudged: bool
    config: Path
    channels: int
    data: Path
    threads: int

    def load(self) -> Config:
        widths = [f"MODEL.{name}_conv_dim={self.channels}" for name in "gd"]
        return load_config(self.config, widths)

    def images(self) -> ImageSet:
        """The training images."""
        return open_images(self.load().DATA.name, path=self.data, img_size=32, split="train")


def serve(side: Side, folder: Path, connection: Connection) -> None:
    """Answer requests, (name, arguments), until None comes."""
    torch.set_num_threads(side.threads)
    make = _Ours if side.checkout is None else _StudioGAN
    trainer = make(side, folder)
    while (request := connection.recv()) is not None:
        name, arguments = request
        connection.send(getattr(trainer, name)(*arguments))


@dataclass
class _Given:
    """Images and latents of one replayed step: the same in every process."""

    real: list[Batch]
    latents: list[tuple[Tensor, Tensor]]


def _given(config: Config, images: ImageSet, steps: int) -> list[_Given]:
    generator = torch.Generator().manual_seed(NOISE_SEED)
    batch, updates = config.OPTIMIZATION.batch_size, config.OPTIMIZATION.d_updates_per_step

    def real() -> Batch:
        chosen = torch.randint(len(images), (batch,), generator=generator)
        pixels = images.images[chosen].float().div(127.5).sub(1)
        return Batch(pixels, images.labels[chosen], chosen)

    def latents() -> tuple[Tensor, Tensor]:
        labels = torch.randint(config.DATA.num_classes, (batch,), generator=generator)
        return torch.randn(batch, config.MODEL.z_dim, generator=generator), labels

    return [
        _Given([real() for _ in range(updates)], [latents() for _ in range(updates + 1)])
        for _ in range(steps)
    ]


class _Timed:
    """What both trainers can do."""

    def __init__(self) -> None:
        self._before = _peak()

    def step(self) -> float:
        """Seconds of one iteration."""
        started = time.perf_counter()
        self._iterate()
        return time.perf_counter() - started

    def memory(self) -> int:
        """Bytes that training added to the peak of the process."""
        return _peak() - self._before

    def _iterate(self) -> Any:
        raise NotImplementedError


class _Ours(_Timed):
    def __init__(self, side: Side, folder: Path) -> None:
        keep_freed_memory()
        self._config = side.load()
        self._images = side.images()
        self._trainer = Trainer(
            self._config, self._images, seed=0, device=torch.device("cpu"), precision=side.precision
        )
        self._compiled = side.compiled
        super().__init__()

    def save(self, file: Path) -> None:
        """Write the weights."""
        networks = self._trainer.generator, self._trainer.critic
        torch.save([network.state_dict() for network in networks], file)

    def load(self, file: Path) -> None:
        """Take over weights; from now on compiled if that was asked for."""
        networks = self._trainer.generator, self._trainer.critic
        for network, state in zip(networks, torch.load(file, weights_only=True), strict=True):
            network.load_state_dict(state)
            if self._compiled:
                compile_forward(network)

    def replay(self, steps: int) -> list[list[float]]:
        """Critic's and generator's loss of steps with given images and latents."""
        losses = []
        own = self._trainer.stream, self._trainer.latents
        for given in _given(self._config, self._images, steps):
            drawn = iter(given.latents)
            current: list[tuple[Tensor, Tensor]] = []

            def labels(count: int, drawn: Any = drawn, current: Any = current) -> Tensor:
                current[:] = [next(drawn)]
                chosen: Tensor = current[0][1]
                return chosen

            def latents(count: int, current: Any = current) -> Tensor:
                z: Tensor = current[0][0]
                return z

            stand_in = SimpleNamespace(labels=labels, latents=latents)
            self._trainer.latents = cast(LatentSource, stand_in)
            with patch.object(own[0], "next_step", lambda given=given: given.real):
                found = self._trainer.step()
            losses.append([found[f"loss/{name}"].item() for name in ("discriminator", "generator")])
        self._trainer.latents = own[1]
        return losses

    def operations(self) -> int:
        """Floating-point operations of one iteration, as torch counts them."""
        with FlopCounterMode(display=False) as counter:
            self._trainer.step()
        return counter.get_total_flops()

    def images_per_step(self) -> int:
        """Real images an iteration."""
        return self._trainer.images_per_step

    def profile(self) -> dict[str, float]:
        """Share of one iteration's time, by torch's operation."""
        with torch.profiler.profile() as profiler:
            self._trainer.step()
        events = profiler.key_averages()
        total = sum(event.self_cpu_time_total for event in events)
        return {event.key: event.self_cpu_time_total / total for event in events}

    def _iterate(self) -> Any:
        return self._trainer.step()


class _StudioGAN(_Timed):
    def __init__(self, side: Side, folder: Path) -> None:
        assert side.checkout is not None
        start_adapted(side.checkout)
        self._nudged, self._images = side.nudged, side.images()
        self._fix = ExitStack()
        if side.precision == "bf16":
            assert amp.FIX.around_worker is not None
            self._fix.enter_context(amp.FIX.around_worker())
        self._config = side.load()
        tree: Tree = yaml.safe_load(side.config.read_text(encoding="utf-8"))
        tree["DATA"]["name"] = "MY_DATASET"  # the name CIFAR10 would download
        tree["MODEL"] |= {"g_conv_dim": side.channels, "d_conv_dim": side.channels}
        self._worker = make_worker(tree, folder, mixed_precision=side.precision == "bf16")
        self._worker.logger = logging.getLogger("studiogan")
        super().__init__()

    def load(self, file: Path) -> None:
        """Take over weights."""
        networks: tuple[nn.Module, ...] = self._worker.Gen, self._worker.Dis
        for network, state in zip(networks, torch.load(file, weights_only=True), strict=True):
            network.load_state_dict(state)
            if self._nudged:
                with torch.no_grad():
                    for weight in network.parameters():
                        weight.mul_(1 + 1e-7 * torch.randn_like(weight))

    def replay(self, steps: int) -> list[list[float]]:
        """Critic's and generator's loss of steps with given images and latents."""
        sample = importlib.import_module("utils.sample")
        losses = []
        for given in _given(self._config, self._images, steps):
            drawn = iter(given.latents)

            def sample_zy(drawn: Any = drawn, **_: Any) -> tuple[Tensor, Tensor, None]:
                return *next(drawn), None

            real, labels, _ = zip(*given.real, strict=True)
            with (
                patch.object(sample, "sample_zy", sample_zy),
                patch.object(self._worker, "sample_data_basket", lambda r=real, y=labels: (r, y)),
            ):
                losses.append([float(loss) for loss in self._iterate()])
        return losses

    def _iterate(self) -> tuple[Tensor, Tensor]:
        discriminator = self._worker.train_discriminator(current_step=0)[1]
        return discriminator, self._worker.train_generator(current_step=0)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
