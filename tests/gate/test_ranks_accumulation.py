"""One selection over all micro-batches of two processes (gloo on the CPU)."""

import itertools
import os
import time
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from topk_plugin import KSchedule, TopK
from topk_plugin.gate import ranks

SIZES, FEATURES, STEPS = (3, 2, 3), 4, 4  # micro-batches of one rank
JOINED = 2 * sum(SIZES)


def make(seed: int, *widths: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = [spectral_norm(nn.Linear(a, b)) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(layers[0], nn.Tanh(), layers[1]).double()


def micro_batches(step: int, rank: int | None) -> list[Tensor]:
    """The joined ones, or a rank's part of each."""
    random = torch.Generator().manual_seed(step)
    z = torch.randn(JOINED, FEATURES, dtype=torch.float64, generator=random)
    joined = z.split([2 * size for size in SIZES])
    return list(joined) if rank is None else [part.chunk(2)[rank] for part in joined]


def train(rank: int | None, model: nn.Module, generator: nn.Module, options: dict) -> list[tuple]:
    critic = make(1, 3, 8, 1)
    topk = TopK(KSchedule(0.7, 0.2), accumulation="effective", **options)
    topk.attach(critic)
    results = []
    for step in range(STEPS):
        generator.zero_grad()
        given = micro_batches(step, rank)
        n = sum(map(len, given))
        last = len(given) - 1

        def forward(i: int, given: list[Tensor] = given, n: int = n, last: int = last) -> Tensor:
            model.require_backward_grad_sync = i == last  # as no_sync() does
            return -critic(model(given[i])).sum() / n

        with topk.generator_step() as block:
            indices = range(len(given))
            for loss in block.accumulate(forward, indices, networks=[model, critic]):
                loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in generator.parameters()])
        results.append((gradient.clone(), topk.stats.mask.clone(), topk.stats.scores.clone()))
        topk.end_step()
        topk.end_epoch()
    return results


def run(rank: int, folder: str, options: dict) -> None:
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    try:
        generator = make(0, FEATURES, 8, 3)
        model = nn.parallel.DistributedDataParallel(generator)
        torch.save(train(rank, model, generator, options), f"{folder}/result-{rank}.pt")
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    # leave together, and without torch's teardown: see test_ranks.py
    while not all(Path(f"{folder}/result-{r}.pt").exists() for r in range(2)):
        time.sleep(0.01)
    os._exit(0)


@pytest.mark.parametrize("normalize", ["kept", "batch"])
def test_global_and_effective_equal_one_process_on_the_joined_micro_batches(
    tmp_path: Path, normalize: str
) -> None:
    options = {"scope": "global", "normalize": normalize}
    generator = make(0, FEATURES, 8, 3)
    single = train(None, generator, generator, options)
    mp.spawn(run, args=(str(tmp_path), options), nprocs=2)
    both = [torch.load(tmp_path / f"result-{r}.pt", weights_only=True) for r in range(2)]
    for step in range(STEPS):
        gradient, mask, scores = single[step]
        assert mask.sum() == [16, 11, 7, 5][step]
        for rank in both:
            assert torch.equal(rank[step][1], mask)
            assert torch.allclose(rank[step][2], scores, rtol=0, atol=1e-12)
            # DistributedDataParallel averages over the ranks
            assert (rank[step][0] - gradient).norm() < 1e-10 * gradient.norm()


def test_rank_scope_selects_over_each_ranks_own_micro_batches(tmp_path: Path) -> None:
    mp.spawn(run, args=(str(tmp_path), {"scope": "rank"}), nprocs=2)
    for r in range(2):
        _, mask, scores = torch.load(tmp_path / f"result-{r}.pt", weights_only=True)[3]
        assert len(mask) == len(scores) == sum(SIZES)
        assert mask.sum() == 2
        assert sorted(mask.nonzero().flatten().tolist()) == sorted(scores.topk(2).indices.tolist())


def test_parts_of_one_process_are_the_batch() -> None:
    batch = torch.arange(5.0)
    assert torch.equal(ranks.gather_parts(batch, [2, 3]), batch)
    assert torch.equal(ranks.own_parts(batch, [2, 3]), batch)
