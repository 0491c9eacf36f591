"""Measure time in all timed benches: a stopwatch, calls timed in turns, and the name of the machine."""

import platform
import time
from collections.abc import Callable

import torch

Call = Callable[[], object]


class Stopwatch:
    """Time calls one at a time, from an empty cache."""

    def __init__(self, device: str) -> None:
        self.cuda = device != "cpu"
        self.dirt = torch.empty(1 << 28, dtype=torch.int8, device=device) if self.cuda else None

    def __call__(self, run: Call) -> float:
        """Return the milliseconds of one call."""
        if not self.cuda:
            began = time.perf_counter()
            run()
            return 1e3 * (time.perf_counter() - began)
        self.dirt.zero_()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize()
        return start.elapsed_time(stop)


def in_turns(
    watch: Stopwatch, *calls: Call, repeats: int = 3, seconds: float = 0.0
) -> list[tuple[float, ...]]:
    """Return the milliseconds of each call, a tuple for each, timed one after the other (A B A B ...).

    Ratios of neighbouring calls survive a busy machine; ratios of two separate measurements would not.
    There are at least `repeats` rounds, and on a GPU as many as fit into `seconds`.
    """
    rounds, began = [], time.perf_counter()
    while len(rounds) < repeats or (watch.cuda and time.perf_counter() - began < seconds):
        rounds.append([watch(call) for call in calls])
    return list(zip(*rounds, strict=True))


def machine(device: str) -> str:
    """Return the name of the device for tables and files; stops with one sentence if there is none."""
    if device == "cpu":
        return f"cpu-{platform.machine()}"
    if not torch.cuda.is_available():
        raise SystemExit(
            f"error: --device {device} needs a CUDA device and torch {torch.__version__} sees none; use "
            "--device cpu for the tiny cases."
        )
    return torch.cuda.get_device_name()
