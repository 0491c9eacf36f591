"""Time commands that a newcomer waits for: help, the demo, and plans that are refused.

    python -m bench.timing.commands

Each command runs in a process of its own, as from a shell, and is checked by its exit code.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from functools import partial

from ..ledger import Row
from ..runner import options, run
from .stopwatch import Stopwatch, in_turns

MAIN = "from diffusers_ext.cli import main; main()"
# Name -> words, exit code, how often; {out} is a folder of its own.
COMMANDS: dict[str, tuple[str, int, int]] = {
    "help": ("--help", 0, 5),
    "plan": ("plan flux --method clear --height 1024 --width 1024", 0, 3),
    "plan, refused": ("plan 4000x4000 --method clear", 2, 3),
    "plan, refused for its tiles": ("plan 21x45x80 --method gna --set window=[3,3,3] --tile 1x1x1", 2, 3),
    "demo": ("demo --out {out}", 0, 1),
}
LINE = "{command:32} {seconds:8.2f} {code}"


def measure(name: str) -> list[Row]:
    """Run a command as often as its entry says; the row has the median of its seconds, from the start of
    Python.
    """
    words, expected, repeats = COMMANDS[name]
    codes = set()

    def run_it() -> None:
        with tempfile.TemporaryDirectory() as folder:
            asked = words.format(out=folder).split()
            done = subprocess.run([sys.executable, "-c", MAIN, *asked], capture_output=True, check=False)
        codes.add(done.returncode)

    (took,) = in_turns(Stopwatch("cpu"), run_it, repeats=repeats)
    seconds = statistics.median(took) / 1e3
    return [
        {"command": name, "words": words, "code": max(codes), "seconds": seconds, "ok": codes == {expected}}
    ]


def main(arguments: list[str] | None = None) -> list[Row]:
    args = options(__doc__, device="cpu").parse_args(arguments)
    if not any(args.only in name for name in COMMANDS):
        raise SystemExit(f"error: no command has {args.only!r} in its name; they are {', '.join(COMMANDS)}.")
    return run("commands", {name: partial(measure, name) for name in COMMANDS}, args, LINE)


if __name__ == "__main__":
    main()
