"""Ending a run early where its state is whole, and timing what it does until then."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

from tqdm import tqdm


class Interrupted(Exception):
    """The user or the system asked the run to stop."""


class StopRequest:
    """Turns Ctrl-C, SIGTERM and SIGHUP into a request that the run answers between two steps.

    While the block lasts, the first signal is only noted: :meth:`check` raises ``Interrupted``
    where the run's state is whole. Inside of :meth:`interruptible` it is raised at once. A second
    signal ends the run wherever it is, with ``KeyboardInterrupt``. In a thread that is not the
    main one no signal arrives, so nothing is changed.
    """

    def __init__(self) -> None:
        self._asked = False
        self._at_once = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            # SIGHUP: the terminal was closed
            numbers = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
            self._previous = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() itself gave

    @property
    def asked(self) -> bool:
        """Whether a signal has arrived."""
        return self._asked

    def check(self) -> None:
        """Stop here when asked to.

        Raises:
            Interrupted: a signal has arrived.
        """
        if self._asked:
            raise Interrupted

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Nothing in here changes the run's state, so a signal need not wait.

        Raises:
            Interrupted: a signal has arrived.
        """
        self.check()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        if self._at_once:
            raise Interrupted
        tqdm.write("stopping after this step (again to stop at once)", file=sys.stderr)


class Stopwatch:
    """Wall time of training steps, without that of what happens between them."""

    def __init__(self) -> None:
        self._mark = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap, pauses left out."""
        now = time.perf_counter()
        seconds, self._mark = now - self._mark, now
        return seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done in here takes no time."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._mark += time.perf_counter() - started
