"""Says so when a training in StudioGAN has diverged: in its losses, and in what it saves."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from topk_plugin.engine.divergence import describe_not_finite, not_finite

LOSSES = {
    "gen_acml_loss": "generator's loss",
    "dis_acml_loss": "critic's loss",
    "real_cond_loss": "conditional loss",
}
NETWORKS = {"Gen": "generator", "Gen_ema": "averaged generator", "Dis": "critic"}


class DivergenceWatch:
    """Warns in StudioGAN's log; StudioGAN itself trains on, saves and measures whatever it has.

    Args:
        logger: StudioGAN's, of its first process.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._losses_were_finite = True

    def look_at_losses(self, losses: Mapping[str, Any], step: int) -> None:
        """Warn once when losses stop being finite.

        Args:
            losses: what StudioGAN logs, by its names; those that are no numbers are left out.
            step: steps that are over.
        """
        wrong = [
            f"the {LOSSES[name]} is {value:g}"
            for name, found in losses.items()
            if name in LOSSES and not math.isfinite(value := _number(found))
        ]
        if wrong and self._losses_were_finite:
            self._logger.warning(
                "Diverged: %s at step %d. Stop before the next checkpoint replaces the last good "
                "one, and go on from that with a lower learning rate.",
                ", ".join(wrong),
                step,
            )
        self._losses_were_finite = not wrong

    def look_at_networks(self, worker: Any, step: int) -> None:
        """Warn when a weight or buffer of StudioGAN's WORKER is not finite.

        Args:
            worker: StudioGAN's WORKER.
            step: steps that are over.
        """
        for name, words in NETWORKS.items():
            network = getattr(worker, name, None)
            wrong = not_finite(network.state_dict()) if isinstance(network, nn.Module) else []
            if wrong:
                self._logger.warning(
                    "Diverged: of the %s, %s at step %d. Its pictures and metrics mean nothing; go "
                    "on from an earlier checkpoint (-best has the best one).",
                    words,
                    describe_not_finite(wrong),
                    step,
                )


def _number(value: Any) -> float:
    """NaN for NaN; 0 for what is no number, such as a loss that a config does not have."""
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError):
        return 0.0
