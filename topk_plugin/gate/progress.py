"""How far a training is: the one count that the gate, the slice, trainers and drivers share."""

from collections.abc import Mapping
from dataclasses import dataclass

from topk_plugin.gate.schedule import KSchedule


@dataclass
class Progress:
    """Generator updates and passes over the data that are over.

    Attributes:
        steps: generator updates.
        epochs: passes over the training images.
    """

    steps: int = 0
    epochs: int = 0

    def end_step(self) -> None:
        """One more generator update is over."""
        self.steps += 1

    def end_epoch(self) -> None:
        """One more pass over the data is over."""
        self.epochs += 1

    def of(self, schedule: KSchedule) -> int:
        """What ``schedule`` counts: epochs, or whole blocks of ``schedule.every`` updates."""
        return self.epochs if schedule.every == "epoch" else self.steps // schedule.every

    def state_dict(self) -> dict[str, int]:
        """Both counts, for a checkpoint; never an absolute k."""
        return {"steps": self.steps, "epochs": self.epochs}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from :meth:`state_dict`."""
        self.steps, self.epochs = int(state["steps"]), int(state["epochs"])
