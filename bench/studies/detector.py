"""Measure how reliable the detector is, on 10 000 pictures of known content, also through an autoencoder.

    python -m bench.studies.detector                      # as drawn
    python -m bench.studies.detector --model shapes-sd3   # after that model's autoencoder

Half of the pictures are from the training stream, with a seed that no training uses. The other half show
held-out combinations. Objects drawn and objects found are matched by place; the tables count what became of
each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from diffusers_ext.evaluate.report.plot import blank, save
from diffusers_ext.zoo.world.captions import COLOURS, SHAPES, Spec
from diffusers_ext.zoo.world.detect import verify
from diffusers_ext.zoo.world.render import distance, render
from diffusers_ext.zoo.world.scenes import EXTENT, GAP, SIZE, Scene, sample_scene, sample_spec
from diffusers_ext.zoo.world.suites import IMAGE_TASKS, suite

from ..ledger import committed
from . import detector_study
from .detector_study import NOTHING, Pair, by_word, nearby, share, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEED = 10_007  # differs from the seeds of trainings (small) and of their checks
PICTURES = 10_000


@dataclass(frozen=True, slots=True)
class Reading:
    """One picture was read by the detector."""

    spec: Spec
    correct: bool
    crowded: bool
    pairs: tuple[Pair, ...]  # objects drawn and found, as 'red circle'
    hidden: tuple[float, ...]  # share of each object that another one hides, if the scene is crowded
    error: float  # mean squared error against the picture as drawn, of values in 0..1


def scenes(count: int) -> Iterator[Scene]:
    """Return scenes with trained and held-out combinations in turn; held-out ones go through the tasks."""
    each = count // (2 * len(IMAGE_TASKS)) + 1
    held_out = {task: suite("held-out", task, each) for task in IMAGE_TASKS}
    return detector_study.scenes(count, SEED, held_out, sample_spec, sample_scene)


def read(scene: Scene, drawn: np.ndarray, shown: np.ndarray) -> Reading:
    """Return what the detector finds in `shown`, uint8 [64, 64, 3]; `drawn` is the same scene as rendered."""
    verdict, crowded = verify(shown, scene.spec), is_crowded(scene)
    return Reading(
        scene.spec,
        verdict.correct,
        crowded,
        tuple(nearby(scene.spec.objects, verdict.objects, scene.places)),
        hidden(scene) if crowded else (),
        detector_study.squared_error(drawn, shown),
    )


def is_crowded(scene: Scene) -> bool:
    """Return whether any two objects are closer to each other than GAP."""
    places = scene.places
    return any(
        np.hypot(x0 - x1, y0 - y1) < EXTENT * (r0 + r1) + GAP - 1e-9
        for i, (x0, y0, r0) in enumerate(places)
        for x1, y1, r1 in places[:i]
    )


def hidden(scene: Scene) -> tuple[float, ...]:
    """Return the share of each object's area that later ones hide, at a quarter of a pixel."""
    at = (np.arange(4 * SIZE) + 0.5) / 4
    masks = [
        distance(thing.shape, at[None] - x, at[:, None] - y, radius) < 0
        for thing, (x, y, radius) in zip(scene.spec.objects, scene.places, strict=True)
    ]
    return tuple(
        float((mask & np.any(masks[i + 1 :], axis=0)).sum() / mask.sum()) if masks[i + 1 :] else 0.0
        for i, mask in enumerate(masks)
    )


def readings(count: int, vae: Any = None) -> Iterator[Reading]:
    """Read all pictures in order, as drawn or through `vae`."""
    return detector_study.readings(scenes(count), lambda scene: render(scene)[0], read, vae)


def summary(read: Sequence[Reading]) -> dict[str, Any]:
    """Return exactness in total and in parts, and both tables, as plain data."""
    colours, shapes = by_word(p for r in read for p in r.pairs)
    shares = [h for r in read for h in r.hidden]
    return {
        "pictures": len(read),
        "seed": SEED,
        "exact": share(r.correct for r in read),
        "held_out": share(r.correct for r in read if r.spec.held_out),
        "crowded": share(r.correct for r in read if r.crowded),
        "tasks": {
            t: share(r.correct for r in read if r.spec.task == t) for t in {r.spec.task: 0 for r in read}
        },
        "shapes": table(shapes, (*SHAPES, NOTHING), (*SHAPES, "blob", NOTHING)),
        "colours": table(colours, (*COLOURS, NOTHING), (*COLOURS, NOTHING)),
        "hidden": {
            "objects": int(np.count_nonzero(shares)),
            "over_an_eighth": int(np.sum(np.array(shares) > 0.125)),
            "most": max(shares, default=0.0),
        },
    }


def to_markdown() -> str:
    """Return how exactly pictures are read, and the mistakes, from the committed results."""
    shares = {"exact": "read exactly", "held_out": "held-out ones", "crowded": "overlapping ones"}
    return detector_study.report("detector", "pictures", shares, {key: key for key in ("shapes", "colours")})


def hidden_to_markdown() -> str:
    """Return how much overlapping objects hide, from the committed evidence."""
    found = committed("detector-renders")
    h, crowded = found["hidden"], found["crowded"]["n"]
    return (
        f"Of {found['pictures']} pictures {crowded} are crowded. {h['objects']} objects are partly hidden, "
        f"{h['over_an_eighth']} of them by more than an eighth, the most by {100 * h['most']:.0f} %."
    )


def chart(found: dict[str, Any]) -> Figure:
    """Draw both tables: shares of each row in colour, counts in figures."""
    figure = blank(12, 5)
    for axes, key in zip(figure.subplots(1, 2), ("shapes", "colours"), strict=True):
        _heat(axes, found[key], key)
    exact = found["exact"]
    figure.suptitle(
        f"{found['what']}: {100 * exact['accuracy']:.2f} % of {exact['n']} pictures read exactly", fontsize=12
    )
    return figure


def _heat(axes: Axes, counts: dict[str, dict[str, int]], title: str) -> None:
    rows, columns = list(counts), list(next(iter(counts.values())))
    grid = np.array([[counts[r].get(c, 0) for c in columns] for r in rows])
    shares = grid / np.maximum(grid.sum(1, keepdims=True), 1)
    shares[-1] = 0  # a share of the objects found in empty places would mean nothing
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
    for r, c in np.ndindex(grid.shape):
        if grid[r, c]:
            ink = "white" if shares[r, c] > 0.5 else "black"
            axes.text(c, r, str(grid[r, c]), ha="center", va="center", fontsize=9, color=ink)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set(title=title, ylabel="drawn", xlabel="found")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def main(arguments: Sequence[str] | None = None) -> None:
    facts, path = detector_study.measured(
        "detector", __doc__, "picture", PICTURES, "AutoencoderKL", readings, summary, arguments
    )
    save(chart(facts), path.with_suffix(""))


if __name__ == "__main__":
    main()
