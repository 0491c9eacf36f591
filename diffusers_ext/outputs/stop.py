"""Stop on Ctrl-C, SIGTERM or SIGHUP; all three do the same, and the current item may be finished first."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_TWICE = 1.0  # s; shells and `timeout` send one SIGTERM or SIGHUP twice, to the process and to its group


class Stopped(BaseException):
    """A stop request takes effect at once.

    This is no `Exception`, as `KeyboardInterrupt` is none: it must pass through libraries that catch those.
    """


class Interrupted(KeyboardInterrupt):
    """A command ends because a signal asked for it; the text says what is finished and what to do."""

    def __init__(self, text: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(text)
        self.number = number


class StopRequest:
    """SIGINT, SIGTERM and SIGHUP ask a run to end: `with StopRequest() as stop: ... if stop.asked`.

    `unit` is the name of what is being made. With it, the first request prints a line on stderr and a second
    one raises `Interrupted` at once. Signals that the process ignores (`nohup`) stay ignored. Outside the
    main thread Python takes no signals, so no request is heard there.
    """

    def __init__(self, unit: str | None = None) -> None:
        self.asked = False
        self.number = signal.SIGINT
        self._unit = unit
        self._when = 0.0
        self._raises = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self._before = _take(self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        _give_back(self._before)

    @contextmanager
    def at_once(self, deadline: float | None = None) -> Iterator[None]:
        """In this context a request raises `Stopped` at any point, and right away if it came before.

        The `deadline` does the same, in s of `time.perf_counter`, on systems that have an alarm clock.
        """
        self._raises = True
        try:
            if self.asked or (deadline is not None and time.perf_counter() >= deadline):
                raise Stopped
            with _alarm(deadline, self._ring):
                yield
        finally:
            self._raises = False

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._raises:
            self._raises = False  # only once, so that cleaning up is not interrupted
            raise Stopped

    def _ask(self, number: int, frame: FrameType | None) -> None:
        again = self.asked and (number == signal.SIGINT or time.monotonic() - self._when > _TWICE)
        if not self.asked:
            self.number, self._when = number, time.monotonic()
        self.asked = True
        self._ring(number, frame)
        if self._unit is None:
            return
        if again:
            raise Interrupted(number=number)
        # Not by way of sys.stderr, which the signal may have interrupted in the middle of a line.
        with suppress(OSError):
            os.write(2, f"\nstopping after the current {self._unit}; Ctrl-C again stops at once\n".encode())


@contextmanager
def _alarm(deadline: float | None, handler: Any) -> Iterator[None]:
    main = threading.current_thread() is threading.main_thread()
    if deadline is None or not main or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, max(deadline - time.perf_counter(), 1e-6))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def interrupting() -> Iterator[None]:
    """In this context SIGTERM and SIGHUP raise `Interrupted`, as Ctrl-C raises `KeyboardInterrupt`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number=number)

    before = _take(stop, SIGNALS[1:])
    try:
        yield
    finally:
        _give_back(before)


def _take(handler: Any, signals: tuple[int, ...] = SIGNALS) -> dict[int, Any]:
    """Set a handler for signals that are not ignored; returns those it replaced."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    heard = [number for number in signals if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def _give_back(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
