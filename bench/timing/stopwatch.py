"""Measure time in all timed benches: a stopwatch, calls timed in turns, and the name of the machine."""

import platform
import time
from collections.abc import Callable

import torch

Call = Callable[[], object]

# Clock cycles that a GPU idles before a timed call: 0.3 ms at first, then doubled up to 40 ms or so.
IDLE, LONGEST_IDLE = 1 << 19, 1 << 26


class Stopwatch:
    """Time calls one at a time, from an empty cache.

    On a GPU the time is that of the GPU alone. The GPU idles until the host has enqueued the call, and a call
    that took longer to enqueue is timed again behind a longer pause. `late` counts calls that no pause could
    hide: those that wait for the GPU themselves, or that take tens of ms to enqueue. Their times hold the
    host's part as well. With `own`, the time on a CPU is that of the calling thread if torch has no other, so
    other programs hardly count.
    """

    def __init__(self, device: str, own: bool = False) -> None:
        self.cuda = device != "cpu"
        self.clock = time.thread_time if own and torch.get_num_threads() == 1 else time.perf_counter
        self.dirt = torch.empty(1 << 28, dtype=torch.int8, device=device) if self.cuda else None
        self.idle = IDLE
        self.late = 0

    def __call__(self, run: Call) -> float:
        """Return the milliseconds of one call."""
        if not self.cuda:
            began = self.clock()
            run()
            return 1e3 * (self.clock() - began)
        while True:
            took, late = self._timed(run)
            if not late:
                return took
            if self.idle >= LONGEST_IDLE:
                self.late += 1
                return took
            self.idle *= 2

    def _timed(self, run: Call) -> tuple[float, bool]:
        """Return the milliseconds of one call, and whether the GPU began before all of it was enqueued."""
        self.dirt.zero_()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(self.idle)
        start.record()
        run()
        late = start.query()
        stop.record()
        torch.cuda.synchronize()
        return start.elapsed_time(stop), late


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
