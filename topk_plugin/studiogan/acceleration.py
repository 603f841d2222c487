"""The fast operations in StudioGAN's own networks, where the user asks for them."""

import os
from typing import Any

from torch import nn

from topk_plugin.base.errors import UserError
from topk_plugin.studiogan.accelerate import accelerate

SWITCH = "TOPK_PLUGIN_ACCELERATE"


def is_wanted() -> bool:
    """Whether ``$TOPK_PLUGIN_ACCELERATE`` is 1.

    Raises:
        UserError: it is something else than 1, 0 or nothing.
    """
    value = os.environ.get(SWITCH, "")
    if value not in ("", "0", "1"):
        raise UserError(f"{SWITCH} is {value!r}; allowed: 1 (on), or 0 (off, the default)")
    return value == "1"


def accelerate_worker(worker: Any) -> None:
    """Accelerate the networks of StudioGAN's WORKER: generator, critic, and averaged generator.

    Raises:
        UserError: nothing in the generator or the critic can be accelerated.
    """
    networks: list[nn.Module] = [worker.Gen, worker.Dis]
    if worker.MODEL.apply_g_ema:
        networks.append(worker.Gen_ema)
    for network in networks:
        wrapper = nn.DataParallel | nn.parallel.DistributedDataParallel
        inner: nn.Module = network.module if isinstance(network, wrapper) else network
        try:
            # DistributedDataParallel has laid out its gradients as the weights were
            accelerate(inner, channels_last=inner is network)
        except ValueError as error:
            raise UserError(f"{SWITCH}=1 (--accelerate): {error}; leave it out") from error
    worker.logger.info("Accelerated: generator and critic (%s=1).", SWITCH)
