"""Measure how reliable the detector of clips is, by frame and by track, on clips of known content.

    python -m bench.studies.clip_detector                       # as drawn
    python -m bench.studies.clip_detector --model shapes-wan    # through that model's autoencoder

Half of the clips are from the training stream, with a seed that no training uses. The other half show
held-out objects and motions. Objects drawn and found are matched by place; the tables count what became of
each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusers_ext.zoo.world.clips import FRAMES, Take, render_clip, sample_script, sample_take
from diffusers_ext.zoo.world.motion import Script, parse
from diffusers_ext.zoo.world.suites import VIDEO_TASKS, suite
from diffusers_ext.zoo.world.track import Track, follow, observe, verify_clip

from . import detector_study
from .detector_study import NOTHING, Pair, by_word, matched, name, nearby, share, table

SEED = 10_009  # differs from the seeds of trainings (small) and of their checks
CLIPS = 2_000


@dataclass(frozen=True, slots=True)
class Reading:
    """One clip was read by the detector; pairs hold what was drawn and what was found there."""

    script: Script
    correct: bool
    exact_frames: int  # with exactly the objects that can be seen in them
    frames: tuple[Pair, ...]  # objects of all frames, as 'red circle'
    tracks: tuple[Pair, ...]  # objects followed through the clip
    motions: tuple[Pair, ...]  # of tracks whose object was found
    error: float  # mean squared error against the clip as drawn, of values in 0..1


def takes(count: int) -> Iterator[Take]:
    """Return trained and held-out scripts in turn; held-out ones go through the tasks."""
    each = count // (2 * len(VIDEO_TASKS)) + 1
    held_out = {task: [parse(s.caption) for s in suite("held-out", task, each)] for task in VIDEO_TASKS}
    return detector_study.scenes(count, SEED, held_out, sample_script, sample_take)


def read(take: Take, drawn: np.ndarray, shown: np.ndarray) -> Reading:
    """Return what the detector finds in `shown`, uint8 [T, 32, 32, 3]; `drawn` is the rendered take."""
    seen = observe(shown)
    frames: list[Pair] = []
    exact = 0
    for frame, found in enumerate(seen):
        visible = [p for p in take.paths if frame >= p.since]
        pairs = nearby([p.actor.object for p in visible], found, [p.places[frame] for p in visible])
        exact += all(a == b for a, b in pairs)
        frames += pairs
    tracks = follow(seen)
    cost = np.array([[_apart(path.places, track) for track in tracks] for path in take.paths])
    reach = [float(path.places[:, 2].max()) for path in take.paths]
    things = matched(
        [name(p.actor.object) for p in take.paths], [name(t.object) for t in tracks], cost, reach
    )
    motions = matched(
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
        detector_study.squared_error(drawn, shown),
    )


def readings(count: int, vae: Any = None) -> Iterator[Reading]:
    """Read all clips in order, as drawn or through `vae`."""
    return detector_study.readings(takes(count), lambda take: render_clip(take)[0], read, vae)


def summary(read: Sequence[Reading]) -> dict[str, Any]:
    """Return the exactness of clips, frames and tracks, in total and in parts, and the tables."""
    colours, shapes = by_word(p for r in read for p in r.frames)
    track_colours, track_shapes = by_word(p for r in read for p in r.tracks)
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
        "shapes": table(shapes),
        "colours": table(colours),
        "track_shapes": table(track_shapes),
        "track_colours": table(track_colours),
    }


def to_markdown() -> str:
    """Return how exactly clips are read, by clip, track and frame, from the committed results."""
    shares = {"exact": "read exactly", "held_out": "held-out ones", "crossing": "crossing ones"}
    shares |= {"tracks": "tracks", "frames": "frames"}
    confused = {
        prefix + key: f"{key} {by}"
        for by, prefix in (("frame by frame", ""), ("track by track", "track_"))
        for key in ("shapes", "colours")
    }
    return detector_study.report("clip_detector", "clips", shares, {**confused, "motions": "motions"})


def _apart(places: np.ndarray, track: Track) -> float:
    """Return the mean distance in px between a path and a track, over the frames of the track."""
    centres = np.array([f.centre for f in track.found])
    return float(np.hypot(*(places[list(track.frames), :2] - centres).T).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    detector_study.measured(
        "clip_detector", __doc__, "clip", CLIPS, "AutoencoderKLWan", readings, summary, arguments
    )


if __name__ == "__main__":
    main()
