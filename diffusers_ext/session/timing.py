"""Measure how long parts of a session take, on the CPU or the GPU."""

import time
from typing import Any

import torch


class Timer:
    """Sums the seconds spent inside `with timer:`.

    On a GPU the work is enqueued, not done, when the block ends. So events are recorded and only read when
    `seconds` is asked for, and no call waits.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._pairs: list[tuple[Any, Any]] = []
        self._began: Any = None

    def __enter__(self) -> None:
        self._began = _event() if torch.cuda.is_initialized() else time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        if isinstance(self._began, float):
            self._seconds += time.perf_counter() - self._began
        else:
            self._pairs.append((self._began, _event()))

    @property
    def seconds(self) -> float:
        """The sum until now; reading it waits for work that still runs on the GPU."""
        for began, ended in self._pairs:
            ended.synchronize()
            self._seconds += began.elapsed_time(ended) / 1000
        self._pairs.clear()
        return self._seconds


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
