"""Copies of a critic carry no trace of the gate; copies of a TopK are attached to nothing."""

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from topk_plugin import KSchedule, TopK

HALF = KSchedule(0.5, 0.5)


def gated_mask(topk: TopK, critic: nn.Module, images: Tensor) -> list[bool]:
    with topk.generator_step():
        critic(images.clone().requires_grad_()).mean().backward()
    return topk.stats.mask.tolist()


def make(policy: str = "top") -> tuple[TopK, nn.Module]:
    torch.manual_seed(0)
    topk = TopK(HALF, policy=policy)
    topk.progress.epochs = 1
    return topk, nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


@pytest.mark.parametrize("save", [pickle.dumps, lambda module: saved(module)])
@pytest.mark.parametrize("inside", [False, True])
def test_a_pickled_critic_names_nothing_of_the_plugin(save, inside: bool) -> None:
    """Snapshots are whole pickled networks, read where the plugin is not installed."""
    topk, critic = make()
    before = save({"D": nn.Sequential(critic)} if inside else critic)
    topk.attach(critic)
    gated_mask(topk, critic, torch.randn(4, 3))
    after = save({"D": nn.Sequential(critic)} if inside else critic)
    assert b"topk" not in after
    assert b"nullcontext" not in after
    assert len(after) == len(before)


def saved(module: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    return buffer.getvalue()


def test_a_pickle_is_read_without_the_plugin(tmp_path: Path) -> None:
    topk, critic = make()
    topk.attach(critic)
    (tmp_path / "D.pkl").write_bytes(pickle.dumps(critic))
    program = (
        "import pickle, sys, torch\n"
        "sys.modules['topk_plugin'] = None\n"
        "critic = pickle.load(open('D.pkl', 'rb'))\n"
        "print(critic(torch.ones(2, 3)).shape, len(critic._forward_hooks))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "torch.Size([2, 1]) 0"


class Persistent(nn.Linear):
    """A class with a reduction of its own, as StyleGAN's snapshots have."""

    def __reduce__(self):
        reduced = list(super().__reduce__())
        reduced[2] = {**reduced[2], "note": "mine"}
        return tuple(reduced)


def test_hooks_and_reductions_of_others_survive_a_copy() -> None:
    topk, _ = make()
    critic, seen = Persistent(3, 1), []
    critic.register_forward_hook(lambda *_: seen.append(1))
    topk.attach(critic)
    copied = copy.deepcopy(critic)
    copied(torch.randn(2, 3))
    assert seen == [1]
    assert copied.note == "mine"
    assert len(copied._forward_hooks) == 1
    assert not copied._forward_pre_hooks
    assert "__reduce_ex__" not in vars(copied)


def test_a_copied_topk_is_free_and_has_its_progress() -> None:
    topk, critic = make("random")
    topk.attach(critic)
    images = torch.randn(8, 3)
    gated_mask(topk, critic, images)
    topk.end_step()
    holder = nn.Module()
    holder.topk, holder.critic = topk, critic
    for copied in (copy.deepcopy(holder), pickle.loads(pickle.dumps(holder))):
        assert (copied.topk.progress.steps, copied.topk.progress.epochs) == (1, 1)
        assert not copied.critic._forward_hooks
        copied.topk.attach(copied.critic)  # it is attached to nothing
    expected = gated_mask(topk, critic, images)
    assert gated_mask(copied.topk, copied.critic, images) == expected  # the same noise


def test_a_shared_progress_is_moved_by_its_owner_and_stays_shared_in_a_copy() -> None:
    from topk_plugin import Progress

    progress = Progress(epochs=2)
    pair = [TopK(HALF, progress=progress) for _ in range(2)]
    critics = [nn.Linear(3, 1) for _ in pair]
    for topk, critic in zip(pair, critics, strict=True):
        topk.attach(critic)
        gated_mask(topk, critic, torch.randn(4, 3))
        topk.end_step()
        topk.end_epoch()
    assert (progress.steps, progress.epochs) == (0, 2)
    pair[0].load_state_dict({**pair[0].state_dict(), "epochs": 9})
    assert pair[0].progress is progress
    assert progress.epochs == 2
    first, second = copy.deepcopy(pair)
    assert first.progress is second.progress is not progress
