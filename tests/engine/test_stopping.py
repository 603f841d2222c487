"""Signals become a request; time of pauses is left out."""

import os
import signal
import threading
import time

import pytest

from topk_plugin.engine.stopping import Interrupted, StopRequest, Stopwatch


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # the handler runs between two instructions of this thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_waits_until_the_state_is_whole(number: int) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        stop.check()
        send(number)  # in a step
        with pytest.raises(Interrupted):
            stop.check()
        with pytest.raises(Interrupted), stop.interruptible():
            pytest.fail("the block must not begin")
    assert signal.getsignal(number) is before


def test_a_signal_acts_at_once_where_it_may() -> None:
    with StopRequest() as stop:
        reached = []
        with pytest.raises(Interrupted), stop.interruptible():  # noqa: PT012
            send(signal.SIGTERM)
            reached.append("the end")
        assert reached == []
        with pytest.raises(KeyboardInterrupt):  # while the checkpoint is written
            send(signal.SIGINT)


def test_the_second_signal_ends_the_run_wherever_it_is() -> None:
    with StopRequest():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_in_another_thread_nothing_is_changed() -> None:
    seen = []

    def look() -> None:
        with StopRequest() as stop:
            stop.check()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_pauses_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    watch = Stopwatch()
    now[0] += 3
    with watch.paused():
        now[0] += 100
    now[0] += 4
    assert watch.lap() == 7
    now[0] += 1
    assert watch.lap() == 1
