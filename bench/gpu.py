"""Run tests and benches on a GPU, in order of value, for a machine that is lent for minutes.

    python3 -m bench.gpu --minutes 8 --out DIR              on a GPU; no index, no .venv, no make
    python3 -m bench.gpu --device cpu --out DIR             the same parts, tiny: what a CPU can check before
    python3 -m bench.gpu --only kernels growth --out DIR

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
from pathlib import Path

from diffusers_ext.outputs.stop import StopRequest

from .gpu_part import ROOT, Part, run
from .gpu_summary import Outcome, facts, write
from .runner import parser_of
from .timing.stopwatch import machine

QUIET = {"HF_HUB_OFFLINE": "1", "DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"}
PIP = (
    "-m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check --target"
)
# In order of value: times of wrong kernels mean nothing; kernels decide about all the rest.
PARTS = (
    Part("gpu_tests", "tests", 0.25, folder="bench"),
    Part("sparse_kernels", "kernels", 0.25),
    Part("blocks", "blocks", 0.35),
    Part("growth", "kernels", 0.1, cpu=("--largest", "4096", "--only", "reference")),
    Part("guidance_cost", "kernels", 0.05, cpu=("--repeats", "1")),
)
GROUPS = tuple(dict.fromkeys(part.group for part in PARTS))


def chosen(names: Sequence[str]) -> list[Part]:
    """Return the parts of some names or groups, in order of value; without names, all parts."""
    return [part for part in PARTS if not names or part.name in names or part.group in names]


def deadline(parts: Sequence[Part], left_s: float) -> float:
    """Return the seconds for the first of the remaining parts: its share of the time that is left."""
    return left_s * parts[0].share / sum(part.share for part in parts)


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
        elif left < 1:
            outcome = Outcome(part.name, "left out", f"no time was left of {args.minutes:g} minutes")
        else:
            limit = deadline(parts[i:], left)
            print(f"{part.name}: up to {limit:.0f} s", flush=True)
            outcome = run(part, args.device, args.out, environment(carried), limit, stop)
            print(f"{part.name}: {outcome.state} after {outcome.seconds:.0f} s", flush=True)
        outcomes.append(outcome)
        text = write(args.out, about, outcomes)
    print("\n" + text, flush=True)
    return outcomes


def main(arguments: list[str] | None = None) -> list[Outcome]:
    parser = parser_of(__doc__, Path("out/gpu"))
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--minutes", type=float, default=30.0, help="for all parts together")
    parser.add_argument(
        "--only", nargs="+", default=[], choices=(*GROUPS, *(part.name for part in PARTS)), help="some parts"
    )
    parser.add_argument("--wheels", type=Path, default=ROOT / ".whl", help="folder of carried wheels")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a part failed")
    args = parser.parse_args(arguments)
    if args.minutes <= 0:
        parser.error(f"--minutes must be above 0, got {args.minutes:g}")
    machine(args.device)
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    with StopRequest() as stop, tempfile.TemporaryDirectory() as folder:
        outcomes = go(chosen(args.only), args, Path(folder), stop)
    if stop.asked:
        raise SystemExit(130)
    if args.strict and any(outcome.state == "failed" for outcome in outcomes):
        raise SystemExit("error: a part failed; its sentence stands above and in summary.md.")
    return outcomes


if __name__ == "__main__":
    main()
