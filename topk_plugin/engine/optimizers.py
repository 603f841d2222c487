"""The optimisers that StudioGAN offers, with its settings."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from topk_plugin.engine.keys.settings import Section

# StudioGAN gives Adam this eps, not torch's 1e-8.
ADAM_EPS = 1e-6


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    settings: Section,
    *,
    learning_rate: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """The optimiser of section OPTIMIZATION for one network.

    Args:
        parameters: what it updates.
        settings: section OPTIMIZATION; its values are taken to be checked.
        learning_rate: g_lr or d_lr.
        weight_decay: g_weight_decay or d_weight_decay.
    """
    parameters = list(parameters)
    momentum = settings.momentum or 0.0
    if settings.type_ == "SGD":
        return torch.optim.SGD(
            parameters,
            lr=learning_rate,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=bool(settings.nesterov),
        )
    if settings.type_ == "RMSprop":
        return torch.optim.RMSprop(
            parameters,
            lr=learning_rate,
            weight_decay=weight_decay,
            momentum=momentum,
            alpha=0.99 if settings.alpha is None else settings.alpha,
        )
    return torch.optim.Adam(
        parameters,
        lr=learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=ADAM_EPS,
        weight_decay=weight_decay,
        fused=True,  # one kernel over all parameters instead of several for each
    )


def describe_learning_rates(settings: Section) -> list[str]:
    """A note where two time scales (TTUR, Heusel et al. 2017, arXiv 1706.08500) are doubled."""
    updates, g_lr, d_lr = settings.d_updates_per_step, settings.g_lr, settings.d_lr
    if updates <= settings.g_updates_per_step or d_lr <= g_lr:
        return []
    return [
        f"note: the critic has both {updates} updates a step and a larger learning rate (d_lr "
        f"{d_lr:g}, g_lr {g_lr:g}); two learning rates (TTUR) are meant to take the place of "
        "further updates, so try OPTIMIZATION.d_updates_per_step=1"
    ]


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over an optimiser's memory (moments, step counts), and keep the own settings.

    torch would restore the settings too, and so undo a learning rate that the user has lowered.

    Raises:
        ValueError: the state is of another type of optimiser, or of other parameters.
    """
    settings = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    if _kind(state["param_groups"]) != _kind(optimizer.param_groups):
        raise ValueError("OPTIMIZATION.type_ is another than the checkpoint's")
    optimizer.load_state_dict(state)
    # Fused Adam on a CPU walks the memory of parameters and moments side by side, so moments that
    # were saved in another memory format would be taken for other weights' ones.
    for parameter, memory in optimizer.state.items():
        for name, value in memory.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                memory[name] = torch.empty_like(parameter).copy_(value)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def _kind(groups: list[dict[str, Any]]) -> set[str]:
    """What tells the types apart; each version of torch adds settings that do not."""
    return {name for name in ("betas", "alpha", "nesterov") if all(name in g for g in groups)}
