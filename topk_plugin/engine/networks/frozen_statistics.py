"""Batch normalisation that learns nothing for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def frozen_batch_statistics(generator: nn.Module) -> Iterator[None]:
    """Keep the running statistics of ``generator``'s batch normalisation as they are.

    Inside the block, batch normalisation in training mode still normalises by the batch, but
    moves neither running mean, running variance nor the count of batches. StudioGAN does so for
    the generator during the critic's step.
    """
    tracking = [
        module
        for module in generator.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True
