"""What a fault is, and what trying it says."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.faults.program import Program


@dataclass
class Outcome:
    """What trying a fault a number of times showed.

    Attributes:
        trials: how often it was tried.
        lost: a sentence for each trial after which something was lost, let in or left unsaid.
        notes: numbers and counts that the table shows.
    """

    trials: int = 0
    lost: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def count(self, name: str) -> None:
        """One more of a kind of ending."""
        self.notes[name] = self.notes.get(name, 0) + 1

    def most(self, name: str, value: float, digits: int = 1) -> None:
        """The largest value of a kind so far."""
        self.notes[name] = max(self.notes.get(name, 0.0), round(value, digits))

    def check(self, fine: bool, trouble: str) -> bool:
        """Note ``trouble`` unless all is fine."""
        if not fine:
            self.lost.append(trouble[:1500])
        return fine


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        name: for ``--only``.
        what: what happens to the program, for the table.
        goal: what must hold afterwards, for the table.
        run: tries it so many times.
        quick: trials in a test run; 0: none.
        full: trials of the long run.
    """

    name: str
    what: str
    goal: str
    run: Callable[[Program, int], Outcome]
    quick: int
    full: int
