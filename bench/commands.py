"""Seconds of commands that a newcomer waits for: help, the demo, and plans that are refused.

    python -m bench.commands

Each command runs in a process of its own, as from a shell, and is checked by its exit code.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .ledger import Ledger
from .timing import RESULTS, machine, results_file

MAIN = "from diffusers_ext.cli import main; main()"
# Name -> words, exit code, how often; {out} is a folder of its own.
COMMANDS: dict[str, tuple[str, int, int]] = {
    "help": ("--help", 0, 5),
    "plan": ("plan flux --method clear --height 1024 --width 1024", 0, 3),
    "plan, refused": ("plan 4000x4000 --method clear", 2, 3),
    "plan, refused for its tiles": ("plan 21x45x80 --method gna --set window=[3,3,3] --tile 1x1x1", 2, 3),
    "demo": ("demo --out {out}", 0, 1),
}


@dataclass(frozen=True)
class Row:
    """Median seconds of a command, from the start of Python to its end."""

    command: str
    words: str
    code: int
    seconds: float
    ok: bool


def measure(name: str) -> Row:
    """Runs a command as often as its row says."""
    words, expected, repeats = COMMANDS[name]
    took, codes = [], set()
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", MAIN, *words.format(out=folder).split()],
                capture_output=True, check=False,
            )  # fmt: skip
            took.append(time.perf_counter() - began)
            codes.add(done.returncode)
    return Row(name, words, max(codes), statistics.median(took), codes == {expected})


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="part of the names of the commands")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results as JSON")
    args = parser.parse_args(arguments)
    where = machine("cpu")
    names = [name for name in COMMANDS if args.only in name]
    if not names:
        raise SystemExit(f"error: no command has {args.only!r} in its name; they are {', '.join(COMMANDS)}.")
    ledger = Ledger(results_file(args.out, "commands", where), where, names)
    for name in names:
        with ledger.case(name):
            row = measure(name)
            ledger.add(row)
            print(f"{row.command:32} {row.seconds:8.2f} s  exit code {row.code}", flush=True)
    return ledger.finish()


if __name__ == "__main__":
    main()
