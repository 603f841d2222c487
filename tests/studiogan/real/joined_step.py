"""The gradient of StudioGAN's first generator step, on the same batch for any number of processes.

    python -m tests.studiogan.real.joined_step CHECKOUT REPORT STUDIOGAN ARGS

In float64, on StudioGAN's own networks and path through main.py, with two changes for the numbers
to be comparable: the batch is cut out of one that is fixed, a part for each process, and batch norm
has no statistics of a batch (SyncBatchNorm, which would join them, needs CUDA).

REPORT-RANK.pt: the gradient that the optimizer sees, and each row's score and own gradient.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from tests.studiogan.real.watched_main import CHECKOUT, REPORT, main, prepare
from topk_plugin.studiogan.testing.step_recorder import Recorder


class NoStatistics(nn.Module):
    """Conditional scale and shift alone; made and called as StudioGAN's conditional batch norm."""

    def __init__(self, affine_input_dim: int, channels: int, modules: Any) -> None:
        super().__init__()
        self.scale = nn.Linear(affine_input_dim, channels, bias=False)
        self.shift = nn.Linear(affine_input_dim, channels, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * (1 + self.scale(y)[:, :, None, None]) + self.shift(y)[:, :, None, None]


def part_of_the_batch(*, batch_size: int, z_dim: int, num_classes: int, **_: Any) -> Any:
    """In place of StudioGAN's ``sample_zy``: latents, classes, and no perturbed latents."""
    fixed = torch.Generator().manual_seed(5)
    latents = torch.randn(16, z_dim, generator=fixed)
    classes = torch.randint(num_classes, (16,), generator=fixed)
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    mine = slice(rank * batch_size, (rank + 1) * batch_size)
    return latents[mine], classes[mine], None


def watch(worker: Any) -> None:
    """Let the worker take its first step, and write what it was."""
    for network in (worker.Gen, worker.Dis):  # the processes have drawn weights of their own
        fixed = torch.Generator().manual_seed(6)
        for parameter in network.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
            parameter.data = torch.randn(parameter.shape, generator=fixed) * spread
        for name, buffer in network.named_buffers():
            if name.endswith(("weight_u", "weight_v")):
                buffer.copy_(nn.functional.normalize(torch.ones_like(buffer), dim=0))
    recorder = Recorder()
    recorder.watch(worker)

    def tell(*_: Any) -> None:
        (batch,), (update,) = recorder.batches, recorder.updates
        found = {"update": update, "scores": batch.scores, "rows": batch.rows}
        torch.save(found, f"{os.environ[REPORT]}-{worker.global_rank}.pt")
        if distributed.is_initialized():
            distributed.barrier()
        os._exit(0)  # gloo's teardown sometimes aborts

    worker.OPTIMIZATION.g_optimizer.register_step_pre_hook(tell)
    train_generator = worker.train_generator

    def train_in_the_second_epoch(current_step: int) -> None:
        while worker.epoch_counter == 0:  # in the first one, k is still the whole batch
            worker.sample_data_basket()
        train_generator(current_step=current_step)

    worker.train_generator = train_in_the_second_epoch


def make_comparable() -> None:
    """In every process, the spawned ones too."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    prepare(watch)
    ops: Any = importlib.import_module("utils.ops")
    sample: Any = importlib.import_module("utils.sample")
    ops.ConditionalBatchNorm2d, ops.batchnorm_2d = NoStatistics, lambda **_: nn.Identity()
    sample.sample_zy = part_of_the_batch


if __name__ == "__main__":
    os.environ[CHECKOUT], os.environ[REPORT] = str(Path(sys.argv[1]).resolve()), sys.argv[2]
    make_comparable()
    main()
elif __name__ == "__mp_main__":
    make_comparable()
