"""Networks through torch.compile."""

import torch
from torch import Tensor, nn

_FIRST_VERSION = (2, 5)


def compile_forward(network: nn.Module) -> None:
    """Compile what ``network`` does between its hooks, at its first call.

    Hooks of the network itself stay outside: the gate of top-k training, whose k moves, and the
    power iterations of spectral normalisation, which change vectors that an earlier forward pass
    still needs for its gradient. Parameters and state_dict keep their names.
    """
    network.forward = torch.compile(network.forward)


def why_compiling_fails(device: torch.device) -> str | None:
    """Compile something small on ``device``; a reason in words if that fails, else None."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < _FIRST_VERSION:
        return f"it needs torch 2.5, this is {torch.__version__}"
    x = torch.ones(2, device=device)
    try:
        torch.compile(_sample)(x)
    except Exception as error:  # a missing compiler, linker or header, each with a type of its own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[0] if lines else type(error).__name__
    return None


def _sample(x: Tensor) -> Tensor:
    return torch.relu(x) + 1
