"""Which way the generator's loss pushes the scores, and so which end of them is the good one."""

import logging
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from topk_plugin.gate import ranks
from topk_plugin.gate.gate_warnings import WrongSignWarning, warn

# Watched calls before the votes are looked at, and the fewest votes and the majority that decide.
_CALLS = 16
_FEWEST_VOTES = 8
_MAJORITY = 0.75

_log = logging.getLogger("topk_plugin")


class SignCheck:
    """Lets the gradients that arrive at the scores vote.

    The loss falls along minus its gradient: where the gradients of a batch's scores add up to less
    than 0, it pushes them up, and the critic gives its best samples the highest scores.

    Args:
        higher_is_better: as the user says; ``"auto"``: as the votes say.

    Attributes:
        higher_is_better: True or False; None while ``"auto"`` is undecided.
    """

    def __init__(self, higher_is_better: bool | Literal["auto"]) -> None:
        self.automatic = higher_is_better == "auto"
        self.higher_is_better = None if higher_is_better == "auto" else higher_is_better
        self._open = self._watching = True
        self._calls = 0
        self._votes: dict[torch.device, Tensor] = {}  # [2]: for up, for down

    # --- voting ----------------------------------------------------------------------------

    def watch(self, scores: Any) -> None:
        """Let the gradient of these scores vote: a tensor, or a list of tensors."""
        if not self._watching or torch.compiler.is_compiling():
            return
        tensors = scores if isinstance(scores, list | tuple) else [scores]
        self._watch([(x, None) for x in tensors if isinstance(x, Tensor) and x.requires_grad])

    def watch_through(self, output: Any, scores: Any) -> None:
        """Like :meth:`watch`, for scores that a callable made of the critic's output.

        The loss may depend on the output and not on these scores, so a vote is the direction in
        which a step along the output's gradient moves them.
        """
        if not self._watching:
            return
        outputs = [x for x in _tensors(output) if x.requires_grad]
        found = [x for x in _tensors(scores) if x.requires_grad]
        if not outputs or not found:
            return
        slopes = torch.autograd.grad(
            [x.sum() for x in found], outputs, retain_graph=True, allow_unused=True
        )
        self._watch([(x, s) for x, s in zip(outputs, slopes, strict=True) if s is not None])

    def _watch(self, tensors: list[tuple[Tensor, Tensor | None]]) -> None:
        for x, slope in tensors:
            x.register_hook(lambda gradient, slope=slope: self._vote(gradient, slope))
        if tensors:
            self._calls += 1

    @torch.no_grad()
    def _vote(self, gradient: Tensor, slope: Tensor | None) -> None:
        push = (gradient if slope is None else gradient * slope).sum()
        votes = torch.stack([push < 0, push > 0]).long()
        if push.device in self._votes:
            self._votes[push.device] += votes
        else:
            self._votes[push.device] = votes

    # --- decisions -------------------------------------------------------------------------

    def end_step(self) -> None:
        """Look at the votes once enough calls were watched.

        Warns:
            WrongSignWarning: the votes contradict the setting.
        """
        if self._watching and self._calls >= _CALLS:
            self._decide(_FEWEST_VOTES)

    def end_epoch(self) -> None:
        """Watch again if nothing was decided: another epoch's loss may say more."""
        self._watching = self._open

    def settle(self, higher_is_better: bool) -> None:
        """What ``"auto"`` was decided to be in an earlier part of the training."""
        self.higher_is_better = higher_is_better
        self._open = self._watching = False

    def orientation(self, k: int | Tensor, batch_size: int) -> bool:
        """Whether the higher scores are the better ones, for a selection of k.

        Raises:
            RuntimeError: ``"auto"`` is undecided, and samples are to be dropped.
        """
        keeps_all = not isinstance(k, Tensor) and k == batch_size
        if self.higher_is_better is None and not keeps_all:
            if not torch.compiler.is_compiling():
                self._decide(fewest_votes=1)
            if self.higher_is_better is None:
                raise RuntimeError(
                    "higher_is_better='auto' is undecided, and the first samples are to be "
                    "dropped: the gradients that arrived at the scores point both ways, or there "
                    "were none; pass True if the critic's loss pushes real scores up, else False"
                )
        return self.higher_is_better is not False

    def _decide(self, fewest_votes: int) -> None:
        up, down = self._count_votes()
        self._calls, self._votes = 0, {}
        self._open = up + down < fewest_votes or max(up, down) < _MAJORITY * (up + down)
        self._watching = self._open and self.automatic
        if self._open:
            return
        higher = up > down
        if self.higher_is_better is None:
            self.higher_is_better = higher
            _log.info(
                "top-k: the loss pushes generated samples' scores %s in %d of %d batches, so "
                "higher_is_better='auto' is %s",
                *("up" if higher else "down", max(up, down), up + down, higher),
            )
        elif higher != self.higher_is_better:
            warn(
                f"the generator's loss pushes the scores {'up' if higher else 'down'} in "
                f"{max(up, down)} of {up + down} batches, but higher_is_better is {not higher}: "
                f"top-k keeps the worst samples. Pass TopK(..., higher_is_better={higher}), unless "
                "it is the critic's own update that runs inside generator_step()",
                WrongSignWarning,
            )

    def _count_votes(self) -> tuple[int, int]:
        """For up and for down; of all ranks, which have to decide alike, for ``"auto"``."""
        votes = [votes.cpu() for votes in self._votes.values()]
        total = sum(votes, torch.zeros(2, dtype=torch.int64))
        if self.automatic and ranks.world_size() > 1:
            device = next(iter(self._votes), torch.device("cpu"))
            total = ranks.gather_batch(total.to(device)).view(-1, 2).sum(0)
        up, down = total.tolist()
        return up, down


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return [x for branch in tree for x in _tensors(branch)]
    return []
