"""How far the judge of clips can be trusted, frame by frame and track by track, on clips of known content.

    python -m bench.clip_detector                       # as drawn
    python -m bench.clip_detector --model shapes-wan    # through that model's autoencoder

Half of the clips are of the training stream, under a seed that no training uses, half show held-out objects
and motions. Objects drawn and found are matched by place; the tables count what became of each.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from diffusers_ext.evaluate.statistics import accuracy
from diffusers_ext.metadata import write_json
from diffusers_ext.zoo.clips import FRAMES, Take, render_clip, sample_script, sample_take
from diffusers_ext.zoo.motion import Script, parse
from diffusers_ext.zoo.suites import VIDEO_TASKS, suite
from diffusers_ext.zoo.track import Track, follow, observe, verify_clip

from .autoencoders import load_vae

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

RESULTS = Path(__file__).parent / "results"
SEED = 10_009  # trainings use small seeds, their checks others again
CLIPS = 2_000
BATCH = 50
NOTHING = "nothing"
Pair = tuple[str, str]  # drawn, found


@dataclass(frozen=True, slots=True)
class Reading:
    """One clip read by the judge; pairs hold what was drawn and what was found there."""

    script: Script
    correct: bool
    exact_frames: int  # with exactly the objects that can be seen in them
    frames: tuple[Pair, ...]  # objects of all frames, as 'red circle'
    tracks: tuple[Pair, ...]  # objects of the whole clip
    motions: tuple[Pair, ...]  # of tracks whose object was found
    error: float  # mean squared error against the clip as drawn, of values in 0..1


def takes(count: int, seed: int = SEED) -> Iterator[Take]:
    """Trained and held-out scripts in turn, tasks of the latter in turn."""
    each = count // (2 * len(VIDEO_TASKS)) + 1
    held_out = {task: [parse(s.caption) for s in suite("held-out", task, each)] for task in VIDEO_TASKS}
    for index in range(count):
        rng, half = np.random.default_rng((seed, index)), index // 2
        task = VIDEO_TASKS[half % len(VIDEO_TASKS)]
        script = held_out[task][half // len(VIDEO_TASKS)] if index % 2 else sample_script(rng)
        yield sample_take(script, rng)


def read(take: Take, drawn: np.ndarray, shown: np.ndarray) -> Reading:
    """What the judge says about `shown`, uint8 [T, 32, 32, 3]; `drawn` is the same take as rendered."""
    seen = observe(shown)
    frames: list[Pair] = []
    exact = 0
    for frame, found in enumerate(seen):
        visible = [p for p in take.paths if frame >= p.since]
        places = [p.places[frame] for p in visible]
        names = [f"{f.colour} {f.shape}" for f in found]
        cost = np.array([[np.hypot(x - f.centre[0], y - f.centre[1]) for f in found] for x, y, _ in places])
        pairs = _matched([_name(p.actor.object) for p in visible], names, cost, [r for *_, r in places])
        exact += all(a == b for a, b in pairs)
        frames += pairs
    tracks = follow(seen)
    cost = np.array([[_apart(path.places, track) for track in tracks] for path in take.paths])
    reach = [float(path.places[:, 2].max()) for path in take.paths]
    things = _matched(
        [_name(p.actor.object) for p in take.paths], [_name(t.object) for t in tracks], cost, reach
    )
    motions = _matched(
        [p.actor.motion or "rests" for p in take.paths],
        [t.motion(FRAMES) or "rests" for t in tracks],
        cost,
        reach,
    )
    return Reading(
        take.script,
        verify_clip(shown, take.script).correct,
        exact,
        tuple(frames),
        tuple(things),
        tuple(p for p in motions if NOTHING not in p),
        float(np.mean((drawn / 255.0 - shown / 255.0) ** 2)),
    )


def readings(count: int, vae: AutoencoderKLWan | None = None) -> Iterator[Reading]:
    """All clips in order, as drawn or through `vae`."""
    batch: list[tuple[Take, np.ndarray]] = []
    for index, take in enumerate(takes(count), start=1):
        batch.append((take, render_clip(take)[0]))
        if len(batch) == BATCH or index == count:
            drawn = np.stack([movie for _, movie in batch])
            shown = drawn if vae is None else reconstruct(vae, drawn)
            yield from (read(own, a, b) for (own, a), b in zip(batch, shown, strict=True))
            batch = []


def reconstruct(vae: AutoencoderKLWan, movies: np.ndarray) -> np.ndarray:
    """uint8 [B, T, 32, 32, 3] through the autoencoder."""
    import torch

    from diffusers_ext.zoo.train.wan_vae import reconstruct

    out = reconstruct(vae, torch.from_numpy(movies).permute(0, 4, 1, 2, 3).float() / 127.5 - 1)
    return ((out + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy()


def summary(read: Sequence[Reading]) -> dict[str, Any]:
    """Exactness of clips, frames and tracks, whole and in parts, and the tables; plain data."""

    def share(right: Iterable[bool]) -> dict[str, Any] | None:
        known = list(right)
        return asdict(accuracy(known)) if known else None

    pairs = [p for r in read for p in r.frames]
    names = [tuple(zip(*(_words(a), _words(b)), strict=True)) for a, b in pairs]
    return {
        "clips": len(read),
        "seed": SEED,
        "exact": share(r.correct for r in read),
        "held_out": share(r.correct for r in read if r.script.held_out),
        "crossing": share(r.correct for r in read if r.script.crossing),
        "tasks": {t: share(r.correct for r in read if r.script.task == t) for t in VIDEO_TASKS},
        "frames": {"exact": sum(r.exact_frames for r in read), "n": FRAMES * len(read)},
        "tracks": share(a == b for r in read for a, b in r.tracks),
        "motions": table(p for r in read for p in r.motions),
        "shapes": table(shape for _, shape in names),
        "colours": table(colour for colour, _ in names),
    }


def table(pairs: Iterable[Pair]) -> dict[str, dict[str, int]]:
    """Counts by what was drawn, then by what was found."""
    counts: dict[str, dict[str, int]] = {}
    for (drawn, found), count in sorted(Counter(pairs).items()):
        counts.setdefault(drawn, {})[found] = count
    return counts


def _matched(drawn: list[str], found: list[str], cost: np.ndarray, reach: Sequence[float]) -> list[Pair]:
    """Pairs by least distance [drawn, found] in px within `reach`; NOTHING where there is no partner."""
    rows, columns = linear_sum_assignment(cost) if drawn and found else ((), ())
    partner = {r: c for r, c in zip(rows, columns, strict=True) if cost[r, c] <= reach[r]}
    pairs = [(name, found[partner[i]] if i in partner else NOTHING) for i, name in enumerate(drawn)]
    return pairs + [(NOTHING, name) for i, name in enumerate(found) if i not in partner.values()]


def _apart(places: np.ndarray, track: Track) -> float:
    """Mean distance in px between a path and a track, over the frames of the track."""
    centres = np.array([f.centre for f in track.found])
    return float(np.hypot(*(places[list(track.frames), :2] - centres).T).mean())


def _name(thing: Any) -> str:
    return f"{thing.colour} {thing.shape}"


def _words(name: str) -> tuple[str, str]:
    colour, _, shape = name.partition(" ")
    return (colour, shape) if shape else (NOTHING, NOTHING)


def main() -> None:
    from tqdm import tqdm

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="read reconstructions of its autoencoder instead of renders")
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    vae, source = load_vae(args.model, "AutoencoderKLWan") if args.model else (None, {})
    found = list(tqdm(readings(args.clips, vae), total=args.clips, unit="clip", disable=None))
    what = f"reconstructions of {args.model}" if args.model else "renders"
    facts: dict[str, Any] = {"what": what, **source, **summary(found)}
    if vae is not None:
        facts["psnr_db"] = float(np.mean([-10 * np.log10(r.error) for r in found]))
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"clip_detector-{args.model or 'renders'}.json"
    write_json(path, facts)
    print(f"{what}: {facts['exact']}, frames {facts['frames']}, tracks {facts['tracks']}, wrote {path}")


if __name__ == "__main__":
    main()
