"""Kill the workers of a job again and again, and compare what they leave with an undisturbed run.

    python -m tests.jobs.soak --kills 1000

Workers are forked from this process, which has imported everything and has no threads, so a start costs a
fraction of a second. They run the real command on a real model. Two kinds of kill take turns: SIGKILL after
a random time, to one of several workers, and SIGKILL at the n-th call that changes a file, with only half of
the data of a write on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHANGES = ("fsync", "replace", "chmod", "unlink", "write", "mkdir")  # calls of `os` at which a worker may die


def job(folder: Path, seeds: int, prompts: int = 3) -> Path:
    """Write a job of `prompts` times `seeds` pictures of the cheapest model."""
    path = folder / "job.toml"
    texts = ["a red circle and a blue star", "two green squares", "a blue triangle"][:prompts]
    prompts = f'[prompts]\ntexts = {json.dumps(texts)}\nseeds = "0-{seeds - 1}"\n'
    path.write_text(f'[model]\nname = "shapes-sd-turbo"\n{prompts}')
    return path


def start(*words: object, prepare: Callable[[], None] = lambda: None) -> int:
    """Fork a process that runs the command line; returns its number."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        prepare()
        from diffusers_ext.cli import main

        main([str(w) for w in words])
    except SystemExit as end:
        code = end.code or 0
    finally:
        os._exit(code)


def run_here(*words: object) -> None:
    """Run the command line in this process."""
    from diffusers_ext.cli import main

    try:
        main([str(w) for w in words])
    except SystemExit as end:
        assert not end.code, end.code


def dies_at(count: int) -> Callable[[], None]:
    """Return a function that lets its process die at its `count`-th change of a file."""

    def prepare() -> None:
        left = [count]

        def dying(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def changed(*args: Any, **kwargs: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    if name == "write":
                        call(args[0], args[1][: len(args[1]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return changed

        for name in CHANGES:
            setattr(os, name, dying(name, getattr(os, name)))

    return prepare


def ended(pid: int) -> int | None:
    """Return the exit code of a process that has ended, minus the signal if one ended it."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def wait(pid: int) -> int:
    """Return the exit code of a process once it ends."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def at_every_change(path: Path, out: Path, first: int = 1) -> Iterator[int]:
    """Run a job again and again until it is complete; the n-th process dies at its n-th change."""
    count = first
    while (code := wait(start("run", path, "--out", out, prepare=dies_at(count)))) == -signal.SIGKILL:
        yield count
        count += 1
    assert code == 0, f"the job ended with {code}"


def at_random(path: Path, out: Path, workers: int, longest: float, dice: random.Random) -> Iterator[int]:
    """Keep `workers` running until the job is complete, and kill one of them after random times.

    Times grow while kills come before the first picture of a worker, so that slow machines end as well.
    """
    running: list[int] = []
    complete, most, before = False, longest, 0
    while running or not complete:
        while len(running) < workers and not complete:
            running.append(start("run", path, "--out", out))
        deadline = time.monotonic() + dice.uniform(0, most)
        while time.monotonic() < deadline and running:
            for pid in list(running):
                if (code := ended(pid)) is not None:
                    assert code == 0, f"the job ended with {code}"
                    running.remove(pid)
                    complete = True
            time.sleep(0.005)
        if running and not complete:
            victim = dice.choice(running)
            os.kill(victim, signal.SIGKILL)
            if wait(victim) == -signal.SIGKILL:
                yield victim
            else:
                complete = True
            running.remove(victim)
            now = len(files(out))
            most, before = (longest if now > before else 1.3 * most), now


def files(out: Path) -> dict[str, bytes]:
    """Return all files of a folder but the manifest and its page, hidden ones included."""
    found = (p for p in out.rglob("*") if p.is_file() and "manifest" not in p.relative_to(out).parts)
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in found if p.name != "index.html"}


def made(out: Path) -> list[str]:
    """Return the files of finished tasks by the lines of all manifests, those that were made twice too."""
    lines = [line for p in (out / "manifest").glob("*.jsonl") for line in p.read_text().splitlines()]
    found = []
    for line in lines:
        try:
            found.append(json.loads(line)["file"])
        except ValueError:
            continue  # torn
    return found


def soak(kills: int, seeds: int, workers: int, longest: float, seed: int, folder: Path) -> dict[str, int]:
    """Kill workers `kills` times in all, over as many jobs as that takes; returns what was found."""
    dice, path = random.Random(seed), job(folder, seeds)
    run_here("run", path, "--out", folder / "first")  # imports what a run needs, which its children then have
    began = time.monotonic()
    assert wait(start("run", path, "--out", folder / "undisturbed")) == 0
    longest = longest or 0.5 * (time.monotonic() - began)
    print(f"a run takes {time.monotonic() - began:.2f} s", flush=True)
    asked = files(folder / "undisturbed")
    found = {
        "pictures": len(asked),
        "kills": 0,
        "jobs": 0,
        "lost": 0,
        "different": 0,
        "left over": 0,
        "twice": 0,
    }
    while found["kills"] < kills:
        out = folder / "killed"
        several = 1 + found["jobs"] // 2 % workers
        if found["jobs"] % 2:
            deaths = at_every_change(path, out)
        else:
            deaths = at_random(path, out, several, longest, dice)
        found["kills"] += sum(1 for _ in deaths)
        left = files(out)
        found["jobs"] += 1
        found["lost"] += len(asked.keys() - left.keys())
        found["different"] += sum(left[name] != data for name, data in asked.items() if name in left)
        found["left over"] += len(left.keys() - asked.keys())
        found["twice"] += len(made(out)) - len(set(made(out)))
        print(json.dumps(found), flush=True)
        shutil.rmtree(out)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=10, help="seeds of each of 3 prompts")
    parser.add_argument("--workers", type=int, default=3, help="processes that share a job, at most")
    parser.add_argument(
        "--longest",
        type=float,
        default=0.0,
        help="seconds between two kills, at most; by default half of a run",
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(args.kills, args.seeds, args.workers, args.longest, args.seed, Path(folder))
    if found["lost"] or found["different"] or found["left over"]:
        raise SystemExit("error: an interrupted job ended with other files than an undisturbed one")


if __name__ == "__main__":
    main()
