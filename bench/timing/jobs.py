"""Measure what a job costs beside its pictures: time and memory for each task, alone and shared.

    python -m bench.timing.jobs                    about ten minutes on an idle machine
    python -m bench.timing.jobs --largest 1000     shorter

The pictures are the smallest of the cheapest model. Each case runs `diffusers-ext run` in processes of its
own. The overhead of a task is the time between two pictures of a worker, less the time in the pipeline as
the manifest has it. A second run finds all tasks finished, and shows what it costs to look at them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from ..ledger import Row
from ..runner import options, run

RUN = (sys.executable, "-m", "diffusers_ext", "run")
SIZES = (100, 1000, 10000)
SHARED = 1000  # tasks where several workers share a job
LINE = (
    "{engine:16} {workers:2} {tasks:6} {picture_ms:8.1f} {overhead_ms:8.2f} {memory_mib:8.0f} {again_s:7.1f}"
)
JOB = """
[model]
name = "shapes-sd-turbo"
[call]
height = 16
width = 16
[prompts]
texts = ["a red circle"]
seeds = "0-{last}"
"""


def measure(engine: str, workers: int, tasks: int) -> list[Row]:
    """Return the row of one case; `memory_mib` is the most that one process held at once."""
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "job.toml", Path(folder) / "made"
        path.write_text(JOB.format(last=tasks - 1))
        words = [*RUN, str(path), "--out", str(out)]
        more = ["--engine", "ray", "--workers", str(workers)] if engine == "ray" else []
        _, memory = _together([*words, *more], 1 if engine == "ray" else workers)
        lines = [
            json.loads(t) for p in (out / "manifest").glob("*.jsonl") for t in p.read_text().splitlines()
        ]
        again, _ = _together(words, 1)
        pictures = len(list(out.glob("*.png")))
    ends = sorted(line["modified"] for line in lines)
    each = sum(line["seconds"] for line in lines) / len(lines)
    pace = (ends[-1] - ends[0]) / 1e9 * workers / (len(ends) - 1)
    row = {"engine": engine, "workers": workers, "tasks": tasks, "picture_ms": 1e3 * each}
    row |= {"overhead_ms": 1e3 * (pace - each), "memory_mib": memory, "again_s": again}
    return [row | {"ok": pictures == len(lines) == tasks}]


def _together(words: list[str], count: int) -> tuple[float, float]:
    """Run a command `count` times at once; returns seconds, and the most MiB that one process held."""
    began = time.monotonic()
    running = [subprocess.Popen(words, stdout=subprocess.DEVNULL) for _ in range(count)]
    memory = []
    for process in running:
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f"a run ended with {os.waitstatus_to_exitcode(status)}")
        process.returncode = 0
        memory.append(usage.ru_maxrss / 1024)
    return time.monotonic() - began, max(memory)


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = options(__doc__, device="cpu")
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="tasks of the largest case")
    args = parser.parse_args(arguments)
    sizes = [size for size in SIZES if size <= args.largest]
    cases = {f"alone {size}": partial(measure, "alone", 1, size) for size in sizes}
    shared = min(SHARED, args.largest)
    cases |= {f"together {shared}": partial(measure, "together", 2, shared)}
    cases |= {f"ray {shared}": partial(measure, "ray", 2, shared)}
    return run("jobs", cases, args, LINE, cores=os.cpu_count(), load=os.getloadavg()[0])


if __name__ == "__main__":
    main()
