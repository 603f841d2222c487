"""Updates of a network: all of them, or all but those whose loss or gradient is not finite."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from topk_plugin.engine.methods.method import Term

SIDES = ("generator", "discriminator")


class Updates:
    """Every update is applied.

    The trainer calls, for each update of a network: :meth:`begin`, :meth:`saw` with each loss that
    was made, :meth:`step` once the gradients are whole, and :meth:`end` when methods have done
    what they do after it.
    """

    def begin(self, side: str) -> None:
        """An update of "generator" or "discriminator" begins."""

    def saw(self, loss: Tensor) -> None:
        """A loss of this update, a scalar."""

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimiser's step."""
        optimizer.step()

    def end(self) -> None:
        """The update is over."""

    def scalars(self) -> dict[str, Tensor]:
        """Names and 0-d tensors for the log."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """What a run that goes on has to know; {}: nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from ``state``."""


class FiniteUpdates(Updates):
    """An update with a loss or a gradient that is not finite changes nothing, and is counted.

    What it would change is put back: weights and the optimiser's memory, buffers of both networks
    (statistics of batch normalisation, vectors of spectral normalisation), and what methods
    remember of images and scores (through their own state_dict and load_state_dict). Random
    streams, the position in the data and the schedule of k move on as after any update, for the
    host does not learn of it: whether an update counts is decided on the device, as in
    ``torch.amp.GradScaler``, so that nothing waits. Where all is finite every bit is as without.

    Args:
        networks: generator and critic.
        terms: the methods at work.
        device: where the training is.

    Attributes:
        skipped: side -> updates left out so far, int64 scalars on the device.
        longest: side -> most of them in a row since :meth:`forget_rows`, the same.
    """

    def __init__(
        self, networks: Sequence[nn.Module], terms: Mapping[str, Term], device: torch.device
    ) -> None:
        self._networks = networks
        self._terms = terms
        self._one = torch.ones((), device=device)
        # 1.0 where this update is to be left out, in the form that fused optimisers take
        self._found = torch.zeros((), device=device)
        self.skipped, self._row, self.longest = (
            {side: torch.zeros((), dtype=torch.int64, device=device) for side in SIDES}
            for _ in range(3)
        )
        self._side = SIDES[0]
        self._buffers: _Kept | None = None
        self._memories: dict[str, _Kept] = {}

    def begin(self, side: str) -> None:
        self._side = side
        self._found.zero_()
        self._buffers = _Kept(b for network in self._networks for b in network.buffers())
        self._memories = {
            name: _Kept(_tensors(state))
            for name, term in self._terms.items()
            if (state := term.state_dict())
        }

    @torch.no_grad()
    def saw(self, loss: Tensor) -> None:
        torch.maximum(self._found, 1 - loss.detach().isfinite().float(), out=self._found)

    @torch.no_grad()
    def step(self, optimizer: torch.optim.Optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        # One pass over all gradients, a kernel for many: what GradScaler uses. It also multiplies
        # them, by 1 here.
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self._found, self._one)
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = self._found  # type: ignore[attr-defined]
            optimizer.step()
        else:
            memory = _memory(optimizer)
            before = _Kept([*parameters, *memory])
            optimizer.step()
            before.put_back(self._found)
            known = {id(tensor) for tensor in memory}
            for tensor in _memory(optimizer):
                if id(tensor) not in known:  # the first step has made it, of zeros
                    tensor.copy_(torch.where(self._found > 0, 0, tensor))
        assert self._buffers is not None, "begin() comes first"
        self._buffers.put_back(self._found)
        self._put_memories_back()
        found = self._found.long()
        row, longest = self._row[self._side], self.longest[self._side]
        self.skipped[self._side] += found
        row.add_(found).mul_(found)
        torch.maximum(longest, row, out=longest)

    @torch.no_grad()
    def end(self) -> None:
        assert self._buffers is not None, "begin() comes first"
        self._buffers.put_back(self._found)  # methods change some after the step, by the scores
        self._buffers, self._memories = None, {}

    def _put_memories_back(self) -> None:
        for name, kept in self._memories.items():
            term = self._terms[name]
            state = term.state_dict()
            now = _tensors(state)
            if not now:
                continue
            if len(now) == len(kept.tensors):
                chosen = kept.chosen(self._found, now)
            else:  # the first batch has made some, of which nothing was before
                chosen = [torch.where(self._found > 0, 0, tensor) for tensor in now]
            term.load_state_dict(_replaced(state, iter(chosen)), self._found.device)

    def forget_rows(self) -> None:
        """Begin :attr:`longest` anew."""
        for longest in self.longest.values():
            longest.zero_()

    def scalars(self) -> dict[str, Tensor]:
        return {f"skipped/{side}": count for side, count in self.skipped.items()}

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.skipped)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for side, count in self.skipped.items():
            count.copy_(state[side])


class _Kept:
    """Floating-point tensors and a copy of what they held, one flat tensor a type.

    Flat, so that choosing between then and now takes the same few kernels for any number of them.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = [t.detach() for t in tensors if t.is_floating_point()]
        self._before = [_flat(group) for group in self._groups(self.tensors)]

    def chosen(self, found: Tensor, now: Sequence[Tensor]) -> list[Tensor]:
        """What was kept where ``found`` is 1, else ``now``; in the order of ``tensors``."""
        by_place: dict[int, Tensor] = {}
        places = {id(tensor): place for place, tensor in enumerate(now)}
        for group, before in zip(self._groups(now), self._before, strict=True):
            parts = torch.where(found > 0, before, _flat(group)).split([t.numel() for t in group])
            for tensor, part in zip(group, parts, strict=True):
                by_place[places[id(tensor)]] = part.view(tensor.shape)
        return [by_place[place] for place in range(len(now))]

    def put_back(self, found: Tensor) -> None:
        """Have the tensors hold what they held, where ``found`` is 1."""
        if self.tensors:
            torch._foreach_copy_(self.tensors, self.chosen(found, self.tensors))

    @staticmethod
    def _groups(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
        groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        return list(groups.values())


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _memory(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The tensors that an optimiser remembers, where its parameters are."""
    return [
        value
        for parameter, memory in optimizer.state.items()
        for value in memory.values()
        if isinstance(value, Tensor) and value.device == parameter.device
    ]


def _tensors(state: Any) -> list[Tensor]:
    """The floating-point tensors in nested plain data."""
    if isinstance(state, Tensor):
        return [state] if state.is_floating_point() else []
    inner = state.values() if isinstance(state, Mapping) else state
    if not isinstance(inner, Iterable) or isinstance(inner, str | bytes):
        return []
    return [tensor for value in inner for tensor in _tensors(value)]


def _replaced(state: Any, tensors: Any) -> Any:
    """Nested plain data with its floating-point tensors replaced by the next ones."""
    if isinstance(state, Tensor):
        return next(tensors) if state.is_floating_point() else state
    if isinstance(state, Mapping):
        return {name: _replaced(value, tensors) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return [_replaced(value, tensors) for value in state]
    return state
