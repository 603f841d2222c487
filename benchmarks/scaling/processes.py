"""One number of processes: iterations, and their parts alone."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from topk_plugin.engine.config.config import Config, load_config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.trainer import Trainer
from topk_plugin.gate import ranks

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "CIFAR10" / "BigGAN-TopK.yaml"


def trainer_of(path: Path, *more: str, batch: int, channels: int | None) -> tuple[Trainer, Config]:
    """A trainer of a config on random images, with another batch and width; and the config.

    Args:
        more: further changes of the config.
    """
    whole = load_config(path)
    changes = [f"OPTIMIZATION.batch_size={batch}", "OPTIMIZATION.acml_steps=1", *more]
    if channels is not None:
        changes += [f"MODEL.g_conv_dim={channels}", f"MODEL.d_conv_dim={channels}"]
    config = load_config(path, changes)
    size, classes = config.DATA.img_size, config.DATA.num_classes
    count = 4 * batch * config.OPTIMIZATION.d_updates_per_step
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, size, size), generator=random, dtype=torch.uint8)
    names = tuple(str(label) for label in range(classes))
    images = ImageSet(pixels, torch.arange(count) % classes, names, "random", "random numbers")
    return Trainer(config, images, seed=0, device=torch.device("cpu")), whole


def measure(
    world: int, batch: int, channels: int, iterations: int, folder: Path
) -> dict[str, float]:
    """Seconds and bytes of an iteration, as the first of ``world`` processes sees them."""
    arguments = (world, batch, channels, iterations, str(folder))
    if world == 1:
        _one(0, *arguments)
    else:
        spawn(_one, args=arguments, nprocs=world)
    found: dict[str, float] = torch.load(folder / "found.pt", weights_only=True)
    return found


def _one(rank: int, world: int, batch: int, channels: int, iterations: int, folder: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        meeting = f"file://{folder}/meeting"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    trainer, config = trainer_of(CONFIG, batch=batch, channels=channels)
    trainer.step()
    found: dict[str, Any] = {"iteration": _fastest(iterations, trainer.step)}
    found["loader"] = _fastest(iterations, trainer.stream.next_step)
    counts = [sum(p.numel() for p in n.parameters()) for n in (trainer.critic, trainer.generator)]
    gradients = [torch.zeros(count) for count in counts]
    scores = torch.zeros(batch // world)
    found["gather"] = _fastest(10 * iterations, lambda: ranks.gather_batch(scores))
    found["all_reduce"] = _fastest(iterations, lambda: [ranks.mean(g) for g in gradients])
    critic, generator = (4 * count for count in counts)
    found["gradient_bytes"] = critic + generator
    ring = (world - 1) / world
    updates = config.OPTIMIZATION.d_updates_per_step
    found["sent_gradients"] = 2 * ring * (updates * critic + generator)
    found["sent_scores"] = ring * 4 * batch
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def _fastest(times: int, work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(times):
        if ranks.world_size() > 1:
            dist.barrier()
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best
