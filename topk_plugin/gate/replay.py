"""Going through the same forward passes twice: what they change beside gradients is put back."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class Replay:
    """The state that forward passes change, as it is when this object is made.

    It knows three kinds. *Random streams*: torch's own (of the CPU and of the networks' devices)
    and the generators given; NumPy's and Python's are not known. *Running statistics* of
    normalisation layers. All *other buffers*, of which spectral normalisation's singular vectors
    are the ones that matter: a batch taken in parts must be normalised by one power iteration, as
    it would be in one piece.

    Args:
        networks: modules that the passes call, their wrappers included.
        generators: random generators that the passes draw from.
    """

    def __init__(
        self, networks: Iterable[nn.Module], generators: Iterable[torch.Generator]
    ) -> None:
        modules = list(dict.fromkeys(m for network in networks for m in network.modules()))
        self._statistics = _Buffers([m for m in modules if isinstance(m, _NormBase)])
        self._others = _Buffers([m for m in modules if not isinstance(m, _NormBase)])
        streams = dict.fromkeys((torch.default_generator, *generators))
        self._streams = [(stream, stream.get_state()) for stream in streams]
        self._devices = [(device, _random_state(device)) for device in _devices_of(modules)]

    def next_look(self) -> None:
        """Before every pass of a first look, without graph, over a part of the batch."""
        self._others.restore()

    def start_again(self) -> None:
        """After the first look: everything."""
        self._others.restore()
        self._statistics.restore()
        for stream, state in self._streams:
            stream.set_state(state)
        for device, state in self._devices:
            _set_random_state(device, state)

    def next_pass(self) -> None:
        """Before every pass with a graph over a part of the batch.

        Running statistics move with each part, as they do wherever gradients are accumulated. Of
        the other buffers those are written to that have changed, not the constants that the graph
        of an earlier part may need.
        """
        self._others.restore_changed()


class _Buffers:
    """The buffers of modules, and their values now."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self._places = [
            (module, name, buffer)
            for module in modules
            for name, buffer in module.named_buffers(recurse=False)
        ]
        self._values = [buffer.detach().clone() for _, _, buffer in self._places]
        self._versions = [buffer._version for _, _, buffer in self._places]

    def restore(self) -> None:
        """Put all of them back."""
        self._write(range(len(self._places)))

    def restore_changed(self) -> None:
        """Put back those of which torch knows that they were replaced or written to.

        It doesn't know what batch normalisation does to its running statistics.
        """
        self._write(
            i
            for i, (module, name, buffer) in enumerate(self._places)
            if getattr(module, name) is not buffer or buffer._version != self._versions[i]
        )

    @torch.no_grad()
    def _write(self, which: Iterable[int]) -> None:
        chosen = list(which)
        for i in chosen:
            module, name, buffer = self._places[i]
            setattr(module, name, buffer)
        if chosen:
            buffers = [self._places[i][2] for i in chosen]
            torch._foreach_copy_(buffers, [self._values[i] for i in chosen])
        self._versions = [buffer._version for _, _, buffer in self._places]


def _devices_of(modules: list[nn.Module]) -> list[torch.device]:
    """The devices of the modules' tensors that have random streams of their own."""
    tensors = (
        tensor
        for module in modules
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    )
    devices = dict.fromkeys(tensor.device for tensor in tensors)
    return [
        device
        for device in devices
        if device.type != "cpu"  # torch.default_generator is its
        and hasattr(getattr(torch, device.type, None), "get_rng_state")
    ]


def _random_state(device: torch.device) -> Tensor:
    module: Any = getattr(torch, device.type)
    return module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)


def _set_random_state(device: torch.device, state: Tensor) -> None:
    module: Any = getattr(torch, device.type)
    if device.type == "mps":
        module.set_rng_state(state)
    else:
        module.set_rng_state(state, device)
