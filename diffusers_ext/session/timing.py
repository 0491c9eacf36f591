"""Measure how long parts of a session take, on the CPU or the GPU."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

_KEPT = 64  # pairs of events after which those that are over are added up


class Timer:
    """Sums the seconds spent inside `with timer:`.

    On a GPU the work is enqueued, not done, when the block ends. So events are recorded and only read when
    they are over, or when `seconds` is asked for. No call waits.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._pairs: deque[tuple[Any, Any]] = deque()
        self._began: Any = None

    def __enter__(self) -> None:
        self._began = now()

    def __exit__(self, *exc: object) -> None:
        self.add(self._began, now())

    def add(self, began: Any, ended: Any) -> None:
        """Add the time between two results of `now`; that of two clocks is unknown and counts as none."""
        if type(began) is not type(ended):  # CUDA started between them
            return
        if isinstance(began, float):
            self._seconds += ended - began
            return
        self._pairs.append((began, ended))
        if len(self._pairs) > _KEPT:
            while self._pairs and self._pairs[0][1].query():
                self._read()

    @property
    def seconds(self) -> float:
        """The sum until now; reading it waits for work that still runs on the GPU."""
        while self._pairs:
            self._pairs[0][1].synchronize()
            self._read()
        return self._seconds

    def _read(self) -> None:
        began, ended = self._pairs.popleft()
        self._seconds += began.elapsed_time(ended) / 1000


class SiteTimer:
    """Times the attention of one site: `sparse` where its method acted in the call, else `dense`."""

    def __init__(self, acted: Callable[[], bool]) -> None:
        self.sparse, self.dense = Timer(), Timer()
        self.dense_calls = self.sparse_calls = 0
        self._acted = acted
        self._began: Any = None

    def __enter__(self) -> None:
        self._began = now()

    def __exit__(self, kind: type | None, *exc: object) -> None:
        ended = now()
        if kind is not None or type(self._began) is not type(ended):  # such a call is no measurement
            return
        if self._acted():
            self.sparse.add(self._began, ended)
            self.sparse_calls += 1
        else:
            self.dense.add(self._began, ended)
            self.dense_calls += 1


def now() -> Any:
    """Return the time in seconds, or an event on the stream of a GPU."""
    return _event() if torch.cuda.is_initialized() else time.perf_counter()


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
