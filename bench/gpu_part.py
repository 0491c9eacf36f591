"""Run one part on a lent machine: a module of `bench` in a process of its own, with a deadline."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from diffusers_ext.outputs.stop import StopRequest

from .gpu_summary import Outcome
from .ledger import results_file
from .timing.stopwatch import machine

ROOT = Path(__file__).parents[1]
GRACE = 5.0  # seconds between asking a part to end and killing it
TICK = 0.1  # seconds between two looks at a part
# Error lines of a command and of a traceback.
ERROR = re.compile(r"error: |([A-Za-z_]\w*\.)*[A-Z]\w*(Error|Exception)\b")


@dataclass(frozen=True)
class Part:
    """A part is a module that takes `--device` and `--out`; its name is that of the module if left out.

    `share` is its share of the time, relative to the other parts. `words` are its options on a GPU. `cpu`
    holds those that make it tiny on a CPU. Parts of one module add to one record.
    """

    name: str
    group: str
    share: float
    cpu: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    of: str = ""

    @property
    def module(self) -> str:
        """Return the name by which Python runs it."""
        name = self.of or self.name
        return f"bench.{name}" if name == "gpu_tests" else f"bench.timing.{name}"

    @property
    def bench(self) -> str:
        """Return the name of its record."""
        return (self.of or self.name).removeprefix("gpu_")


def run(
    part: Part, device: str, out: Path, environment: dict[str, str], limit_s: float, stop: StopRequest
) -> Outcome:
    """Run a part until it ends, until `limit_s` seconds are over, or until the run is asked to stop."""
    words = [sys.executable, "-m", part.module, "--device", device, "--out", str(out)]
    words += part.cpu if device == "cpu" else part.words
    path = results_file(out, part.bench, machine(device))
    before = path.stat().st_mtime_ns if path.is_file() else None
    found = Outcome(part.name, "done", deadline_s=limit_s)
    with (out / "log.txt").open("ab") as log:
        log.write(f"\n== {' '.join(words[1:])}\n".encode())
        log.flush()
        begin, clock = log.tell(), time.monotonic()
        process = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            while process.poll() is None and not stop.asked and time.monotonic() - clock < limit_s:
                time.sleep(TICK)
            code = process.poll()
        finally:
            end(process)
    found.seconds = time.monotonic() - clock
    if code is None and stop.asked:
        found.state, found.why = "interrupted", "the run was asked to end; what it had measured is kept"
    elif code is None:
        found.state = "stopped"
    elif code:
        found.state = "failed"
        found.why = last_words(out / "log.txt", begin) or f"it ended with code {code} and said nothing"
    if path.is_file() and path.stat().st_mtime_ns != before:
        record = json.loads(path.read_text())
        found.rows, found.failed, found.waiting = len(record["rows"]), record["failed"], record["waiting"]
    if found.state == "stopped":
        kept = (
            "what it had measured is kept" if found.rows else "it had measured nothing yet; give more minutes"
        )
        found.why = f"stopped after {limit_s:.0f} s; {kept}"
    return found


def end(process: subprocess.Popen[bytes]) -> None:
    """End a part and all that it has started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(GRACE)
        except ProcessLookupError:  # all have ended
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def last_words(path: Path, begin: int) -> str:
    """Return the last line about an error in a log, from byte `begin` on; without one, the last line."""
    with path.open("rb") as log:
        log.seek(begin)
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if ERROR.match(line)), lines[-1] if lines else "")
