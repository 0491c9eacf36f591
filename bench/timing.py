"""What timed benches share: a stopwatch, the name of the machine and of their files."""

import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


class Stopwatch:
    """Times calls one at a time, from an empty cache."""

    def __init__(self, device: str) -> None:
        self.cuda = device != "cpu"
        self.dirt = torch.empty(1 << 28, dtype=torch.int8, device=device) if self.cuda else None

    def __call__(self, run: Callable[[], object]) -> float:
        """Milliseconds of one call."""
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


def machine(device: str) -> str:
    """Name of the device for tables and files; stops with one sentence where there is none."""
    if device == "cpu":
        return f"cpu-{platform.machine()}"
    if not torch.cuda.is_available():
        raise SystemExit(
            f"error: --device {device} needs a CUDA device and torch {torch.__version__} sees none; use "
            "--device cpu for the tiny cases."
        )
    return torch.cuda.get_device_name()


def results_file(folder: Path, bench: str, machine: str) -> Path:
    """Where a bench keeps what it measured on a machine."""
    return folder / f"{bench}-{machine.replace(' ', '-').lower()}.json"
