"""One selection over the batches of two processes (gloo on the CPU)."""

import os
import time
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from topk_plugin import KSchedule, TopK
from topk_plugin.gate import ranks

BATCH, FEATURES, STEPS = 6, 4, 5


def make_generator() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def make_critic() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def latents(step: int, world: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(world * BATCH, FEATURES, dtype=torch.float64, generator=generator)


def run(rank: int, world: int, folder: str, options: dict) -> None:
    if world > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
        )
    try:
        generator, critic = make_generator(), make_critic()
        model = nn.parallel.DistributedDataParallel(generator) if world > 1 else generator
        topk = TopK(KSchedule(0.7, 0.2), **options)
        topk.attach(critic, labels=None)
        results = []
        for step in range(STEPS):
            generator.zero_grad()
            z = latents(step, 2).chunk(world)[rank]
            with topk.generator_step():
                (-critic(model(z))).mean().backward()
            gradient = torch.cat([p.grad.flatten() for p in generator.parameters()])
            results.append((gradient.clone(), topk.stats.mask.clone(), topk.k))
            topk.end_step()
            topk.end_epoch()
        torch.save(results, f"{folder}/result-{world}-{rank}.pt")
    except BaseException:
        traceback.print_exc()
        if world > 1:
            os._exit(1)
        raise
    if world > 1:
        # Leave together, when nobody needs the other's connection any more, and without torch's
        # teardown: gloo's threads sometimes abort a process that ends while they run ("terminate
        # called without an active exception").
        while not all(Path(f"{folder}/result-{world}-{r}.pt").exists() for r in range(world)):
            time.sleep(0.01)
        os._exit(0)


@pytest.mark.parametrize("normalize", ["kept", "batch"])
def test_global_scope_equals_one_process_on_the_joined_batch(
    tmp_path: Path, normalize: str
) -> None:
    options = {"scope": "global", "normalize": normalize}
    run(0, 1, str(tmp_path), options)
    mp.spawn(run, args=(2, str(tmp_path), options), nprocs=2)
    single = torch.load(tmp_path / "result-1-0.pt", weights_only=True)
    ranks = [torch.load(tmp_path / f"result-2-{r}.pt", weights_only=True) for r in range(2)]
    for step in range(STEPS):
        gradient, mask, k = single[step]
        for rank in ranks:
            assert torch.equal(rank[step][1], mask)
            assert rank[step][2] == k == int(mask.sum())
            # DistributedDataParallel averages: the gradient of the mean over all 2 B samples
            assert (rank[step][0] - gradient).norm() < 1e-10 * gradient.norm()
    assert [k for _, _, k in single] == [12, 8, 5, 4, 3]


def test_rank_scope_selects_in_each_ranks_own_batch(tmp_path: Path) -> None:
    mp.spawn(run, args=(2, str(tmp_path), {"scope": "rank"}), nprocs=2)
    ranks = [torch.load(tmp_path / f"result-2-{r}.pt", weights_only=True) for r in range(2)]
    critic, generator = make_critic(), make_generator()
    for r, rank in enumerate(ranks):
        scores = critic(generator(latents(2, 2).chunk(2)[r]))[:, 0].detach()
        _, mask, k = rank[2]
        assert k == 2 == KSchedule(0.7, 0.2).k(2, BATCH)
        assert sorted(mask.nonzero().flatten().tolist()) == sorted(scores.topk(2).indices.tolist())


def test_random_policy_agrees_across_ranks(tmp_path: Path) -> None:
    mp.spawn(run, args=(2, str(tmp_path), {"scope": "global", "policy": "random"}), nprocs=2)
    ranks = [torch.load(tmp_path / f"result-2-{r}.pt", weights_only=True) for r in range(2)]
    for step in range(STEPS):
        assert torch.equal(ranks[0][step][1], ranks[1][step][1])
        assert ranks[0][step][1].sum() == ranks[0][step][2]


def test_a_single_process_is_a_group_of_one() -> None:
    batch = torch.arange(3.0, requires_grad=True)
    gathered = ranks.gather_batch(batch)
    assert torch.equal(gathered, batch)
    assert not gathered.requires_grad
    assert torch.equal(ranks.own_part(gathered), gathered)
    assert (ranks.world_size(), ranks.rank()) == (1, 0)
