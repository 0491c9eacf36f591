"""Compare what two checkouts draw, byte by byte, for a change that must not move a pixel.

    python -m bench.same_outputs ../other-checkout

Each checkout runs `demo` and a `generate` of every model of the zoo, plain and with each method that has
settings for it. Pictures and clips must be the same bytes, records inside PNG files included. In the JSON
files beside them, wall times and the wording of the report may differ.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE, CLIP = "a red circle and a blue square", "a red circle moves left"


def generate(prompt: str, model: str, *words: str) -> list[str]:
    """Return the words of a command that makes pictures or clips."""
    return ["generate", prompt, "--model", model, *words]


RUNS = {
    "demo": ["demo"],
    "shapes-sd": generate(PICTURE, "shapes-sd", "--num-images", "2"),
    "shapes-sd-softpag": generate(PICTURE, "shapes-sd", "--method", "softpag"),
    "shapes-sd-turbo": generate(PICTURE, "shapes-sd-turbo"),
    "shapes-sd3": generate(PICTURE, "shapes-sd3", "--batch", "2", "--num-images", "2"),
    "shapes-sd3-clear": generate(PICTURE, "shapes-sd3", "--method", "clear"),
    "shapes-sd3-256": generate(PICTURE, "shapes-sd3-256"),
    "shapes-sd3-256-rectified": generate(PICTURE, "shapes-sd3-256", "--method", "rectified"),
    "shapes-wan": generate(CLIP, "shapes-wan"),
    "shapes-wan-radial": generate(CLIP, "shapes-wan", "--method", "radial"),
    "shapes-wan-gna": generate(CLIP, "shapes-wan", "--method", "gna", "--set", "window=[3,3,3]"),
}
MEDIA = {".png", ".mp4", ".gif"}
MOVING = "seconds", "report"  # prefixes of JSON keys that hold times and sentences


def run(checkout: Path, name: str, out: Path) -> None:
    """Run one command of a checkout in a process of its own; raises `RuntimeError` if it fails."""
    seed = [] if name == "demo" else ["--seed", "7"]
    command = [sys.executable, "-m", "diffusers_ext", *RUNS[name], *seed, "--out", str(out)]
    done = subprocess.run(
        command,
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{name} failed in {checkout}: {done.stderr.strip().splitlines()[-1:]}")


def differences(ours: Path, theirs: Path) -> Iterator[str]:
    """List what differs between two output folders, a sentence each."""
    files = [{f.relative_to(home) for f in home.rglob("*") if f.is_file()} for home in (ours, theirs)]
    for path in sorted(files[0] ^ files[1]):
        yield f"{path} is in one folder only"
    for path in sorted(files[0] & files[1]):
        one, other = ours / path, theirs / path
        if path.suffix in MEDIA and one.read_bytes() != other.read_bytes():
            yield f"{path} has other bytes"
        if path.suffix == ".json" and _steady(one) != _steady(other):
            yield f"{path} holds other facts"


def _steady(path: Path) -> object:
    """Return a JSON file without the entries that differ from run to run."""

    def cut(value: object) -> object:
        if isinstance(value, dict):
            return {key: cut(entry) for key, entry in value.items() if not key.startswith(MOVING)}
        return [cut(entry) for entry in value] if isinstance(value, list) else value

    return cut(json.loads(path.read_text(encoding="utf-8")))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("other", type=Path, help="the checkout to compare this one with")
    parser.add_argument("--only", nargs="*", choices=list(RUNS), default=list(RUNS), help="names of runs")
    asked = parser.parse_args(arguments)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.only:
            outs = Path(folder, "ours", name), Path(folder, "theirs", name)
            for checkout, out in zip((ROOT, asked.other.resolve()), outs, strict=True):
                run(checkout, name, out)
            found = list(differences(*outs))
            wrong += len(found)
            media = [f for f in outs[0].rglob("*") if f.suffix in MEDIA]
            verdict = "; ".join(found) or "the same bytes"
            print(f"{name}: {len(media)} pictures and clips, {verdict}", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
