"""Run tests and benches on a GPU, in order of value, for a machine that is lent for minutes.

    python3 -m bench.gpu --quick --out DIR                  eight minutes for what no one has measured yet
    python3 -m bench.gpu --minutes 40 --out DIR             everything; no index, no .venv, no make
    python3 -m bench.gpu --quick --device cpu --out DIR     the same parts, tiny: what a CPU can check before
    python3 -m bench.gpu --only kernels growth --out DIR
    python3 -m bench.gpu --fit DIR                          constants from what was measured, in seconds

Nothing has to be installed but torch. Packages that the machine lacks (diffusers) are carried as wheels in
`.whl/` of the checkout. pip unpacks them from there, without an index, for this run alone.

Each part is a process of its own and is killed at its deadline. Later parts get the time that a part leaves
unused. If a part fails, one sentence is recorded and the next one begins. Benches write after every row.
After every part, `summary.json` and `summary.md` say what ran, what failed and what was left out. All is in
one flat folder: a record for each part, the summaries, and `log.txt` with what the parts printed. The exit
code is 0 if this script ran to its end, whatever failed in the parts; with `--strict` it is then 1.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path

from diffusers_ext.outputs.stop import StopRequest

from .gpu_fit import report, write_fit
from .gpu_part import ROOT, Part, run
from .gpu_summary import Outcome, facts, write
from .runner import parser_of
from .timing.stopwatch import machine

QUIET = {"HF_HUB_OFFLINE": "1", "DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"}
PIP = (
    "-m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check --target"
)
LEAST = 10.0  # seconds that a part is worth starting for; half of them go into starting it
# In order of value: times of wrong kernels mean nothing; kernels decide about all the rest.
PARTS = (
    Part("gpu_tests", "tests", 0.25),
    Part("rates", "kernels", 0.07),
    Part("sparse_kernels", "kernels", 0.2),
    Part("variants", "kernels", 0.05),
    Part("blocks", "blocks", 0.3),
    Part("growth", "kernels", 0.08, cpu=("--largest", "4096", "--only", "reference")),
    Part("guidance_cost", "kernels", 0.05, cpu=("--repeats", "1", "--seconds", "0")),
)
# What settles every constant in eight minutes. Shares are seconds, with the start of a process of about 5 s.
CHECKED = "tests/gpu/test_block_sparse.py", "tests/gpu/test_rectified.py"
QUICK = (
    Part("ceilings", "quick", 20, ("--only", "ceiling"), ("--only", "ceiling"), of="rates"),
    Part("gpu_tests", "quick", 80, ("tests/gpu/test_pooled.py",), CHECKED),
    Part("rates of blocks", "quick", 60, ("--only", "blocks"), ("--only", "blocks"), of="rates"),
    Part("sparse_kernels", "quick", 95, ("--only", "tiny clear"), ("--quick",)),
    Part("variants", "quick", 60, ("--only", "clear")),
    Part("rates beside blocks", "quick", 20, of="rates"),
    Part("blocks", "quick", 90, ("--only", "tiny radial"), ("--quick", "--modes", "eager")),
    Part(
        "compiled blocks", "quick", 55, ("--only", "tiny clear radius=2 d", "--modes", "compiled"),
        ("--quick", "--modes", "compiled", "--only", "flux.1 1024x1024 clear"), of="blocks",
    ),
)  # fmt: skip
GROUPS = tuple(dict.fromkeys(part.group for part in PARTS))


def chosen(names: Sequence[str], quick: bool = False) -> list[Part]:
    """Return the parts of some names or groups, in order of value; without names, all parts."""
    every = QUICK if quick else PARTS
    return [part for part in every if not names or part.name in names or part.group in names]


def deadline(parts: Sequence[Part], left_s: float) -> float:
    """Return the seconds for the first of the remaining parts: its share of the time that is left."""
    return left_s * parts[0].share / sum(part.share for part in parts)


def affordable(parts: Sequence[Part], left_s: float) -> Sequence[Part]:
    """Return the first of the remaining parts, as many as have `LEAST` seconds each; at least one."""
    while len(parts) > 1 and left_s * min(p.share for p in parts) < LEAST * sum(p.share for p in parts):
        parts = parts[:-1]
    return parts


def environment(folders: Sequence[Path]) -> dict[str, str]:
    """Return the environment of a part, with folders of packages and the checkout first on its path."""
    paths = [str(folder) for folder in (*folders, ROOT)]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return QUIET | os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def unpack(wheels: Path, folder: Path) -> str | None:
    """Unpack carried wheels into a folder; return `None`, or one sentence if that failed."""
    files = sorted(map(str, wheels.glob("*.whl")))
    words = [sys.executable, *PIP.split(), str(folder), *files]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("ERROR")), (lines or ["no reason"])[-1])
    return f"the wheels in {wheels} could not be unpacked: {said}"


def go(parts: Sequence[Part], args: argparse.Namespace, folder: Path, stop: StopRequest) -> list[Outcome]:
    """Run the parts one after another, with the carried packages in `folder`; return their outcomes.

    After a request to stop, the running part ends, and the summary is written.
    """
    began, about = time.monotonic(), facts(args.device)
    carried = [folder] if any(args.wheels.glob("*.whl")) else []
    if carried and (failure := unpack(args.wheels, folder)) is not None:
        about["wheels"] = failure
        print(failure, flush=True)
    outcomes: list[Outcome] = []
    for i, part in enumerate(parts):
        left = 60 * args.minutes - (time.monotonic() - began)
        if stop.asked:
            outcome = Outcome(part.name, "left out", "the run was asked to end")
        elif left < LEAST:
            outcome = Outcome(part.name, "left out", f"no time was left of {args.minutes:g} minutes")
        else:
            limit = deadline(affordable(parts[i:], left), left)
            print(f"{part.name}: up to {limit:.0f} s", flush=True)
            outcome = run(part, args.device, args.out, environment(carried), limit, stop)
            print(f"{part.name}: {outcome.state} after {outcome.seconds:.0f} s", flush=True)
        outcomes.append(outcome)
        text = write(args.out, about, outcomes, constants(args.out, outcomes))
    print("\n" + text, flush=True)
    return outcomes


def constants(folder: Path, outcomes: Sequence[Outcome]) -> str:
    """Return the constants that follow from what was measured, or a sentence why none do."""
    if not any(outcome.rows and outcome.part.startswith("rates") for outcome in outcomes):
        return ""
    try:
        return report(folder)
    except SystemExit as none:
        return f"No constants: {str(none).removeprefix('error: ')}\n"


def made(folder: Path) -> Path:
    """Make a folder for results, and return it; raises `SystemExit` with a sentence if it takes no files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise SystemExit(
            f"error: results need a folder that can be written, got {folder} ({error.strerror}); name "
            "another one with --out, or OUT= of make."
        ) from error


def main(arguments: list[str] | None = None) -> list[Outcome]:
    parser = parser_of(__doc__, Path("out/gpu"))
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--quick", action="store_true", help="eight minutes, for the constants of forecasts")
    parser.add_argument("--fit", type=Path, metavar="DIR", help="compute constants from the rows in a folder")
    parser.add_argument("--minutes", type=float, help="for all parts together, 30 or for --quick 8")
    names = dict.fromkeys((*GROUPS, *(part.name for part in (*PARTS, *QUICK))))
    parser.add_argument("--only", nargs="+", default=[], choices=[*names], help="some parts")
    parser.add_argument("--wheels", type=Path, default=ROOT / ".whl", help="folder of carried wheels")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a part failed")
    args = parser.parse_args(arguments)
    if args.fit is not None:
        try:
            write_fit(args.fit)
        except OSError as error:
            raise SystemExit(f"error: {error}") from error
        return []
    args.minutes = (8.0 if args.quick else 30.0) if args.minutes is None else args.minutes
    if not 0 < args.minutes < inf:
        parser.error(f"--minutes must be a number above 0, got {args.minutes:g}")
    parts = chosen(args.only, args.quick)
    if not parts:
        which = "without --quick" if args.quick else "with --quick"
        parser.error(f"{', '.join(args.only)} runs only {which}")
    machine(args.device)
    args.out = made(args.out.resolve())
    try:
        with StopRequest() as stop, tempfile.TemporaryDirectory() as folder:
            outcomes = go(parts, args, Path(folder), stop)
    except OSError as error:  # the disk is full, or the folder was removed
        raise SystemExit(f"error: {error}") from error
    if stop.asked:
        raise SystemExit(130)
    if args.strict and any(outcome.state == "failed" for outcome in outcomes):
        raise SystemExit("error: a part failed; its sentence stands above and in summary.md.")
    return outcomes


if __name__ == "__main__":
    main()
