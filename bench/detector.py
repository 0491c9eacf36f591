"""How far the judge can be trusted: 10 000 pictures of known content, as drawn and through an autoencoder.

    python -m bench.detector                      # as drawn
    python -m bench.detector --model shapes-sd3   # after encoding and decoding by that model's autoencoder

Half of the pictures are of the training stream, under a seed that no training uses, half show held-out
combinations. Objects drawn and objects found are matched by place; the tables count what became of each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from diffusers_ext.evaluate.plot import blank, save
from diffusers_ext.evaluate.statistics import accuracy
from diffusers_ext.metadata import write_json
from diffusers_ext.zoo.captions import COLOURS, SHAPES, Spec
from diffusers_ext.zoo.detect import Found, verify
from diffusers_ext.zoo.render import distance, render
from diffusers_ext.zoo.scenes import EXTENT, GAP, SIZE, Scene, sample_scene, sample_spec
from diffusers_ext.zoo.suites import IMAGE_TASKS, suite

from .autoencoders import load_vae

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
SEED = 10_007  # trainings use small seeds, their checks others again
PICTURES = 10_000
BATCH = 100
NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Reading:
    """One picture read by the detector."""

    spec: Spec
    correct: bool
    crowded: bool
    pairs: tuple[tuple[str, str, str, str], ...]  # shape drawn and found, colour drawn and found
    hidden: tuple[float, ...]  # share of each object that another one hides, where the scene is crowded
    error: float  # mean squared error against the picture as drawn, of values in 0..1


def scenes(count: int, seed: int = SEED) -> Iterator[Scene]:
    """The pictures' scenes: trained and held-out combinations in turn, tasks of the latter in turn."""
    held_out = {task: suite("held-out", task, count // (2 * len(IMAGE_TASKS)) + 1) for task in IMAGE_TASKS}
    for index in range(count):
        rng, half = np.random.default_rng((seed, index)), index // 2
        if index % 2:
            yield sample_scene(held_out[IMAGE_TASKS[half % len(IMAGE_TASKS)]][half // len(IMAGE_TASKS)], rng)
        else:
            yield sample_scene(sample_spec(rng), rng)


def read(scene: Scene, drawn: np.ndarray, shown: np.ndarray) -> Reading:
    """What the detector says about `shown`, uint8 [64, 64, 3]; `drawn` is the same scene as rendered."""
    verdict, crowded = verify(shown, scene.spec), is_crowded(scene)
    error = float(np.mean((drawn / 255.0 - shown / 255.0) ** 2))
    return Reading(
        scene.spec,
        verdict.correct,
        crowded,
        matched(scene, verdict.objects),
        hidden(scene) if crowded else (),
        error,
    )


def matched(scene: Scene, found: tuple[Found, ...]) -> tuple[tuple[str, str, str, str], ...]:
    """Pairs of what was drawn and what was found within its radius; NOTHING where there is no partner."""
    drawn = list(zip(scene.spec.objects, scene.places, strict=True))
    cost = np.array([[np.hypot(x - f.centre[0], y - f.centre[1]) for f in found] for _, (x, y, _) in drawn])
    pairs, taken = [], set()
    rows, columns = linear_sum_assignment(cost) if found else ((), ())
    partner = {r: c for r, c in zip(rows, columns, strict=True) if cost[r, c] <= drawn[r][1][2]}
    for row, (thing, _) in enumerate(drawn):
        seen = found[partner[row]] if row in partner else None
        taken |= {partner[row]} if seen else set()
        pairs.append(
            (thing.shape, seen.shape if seen else NOTHING, thing.colour, seen.colour if seen else NOTHING)
        )
    extra = [f for i, f in enumerate(found) if i not in taken]
    return (*pairs, *((NOTHING, f.shape, NOTHING, f.colour) for f in extra))


def is_crowded(scene: Scene) -> bool:
    """Whether any two objects lie nearer to each other than GAP."""
    places = scene.places
    return any(
        np.hypot(x0 - x1, y0 - y1) < EXTENT * (r0 + r1) + GAP - 1e-9
        for i, (x0, y0, r0) in enumerate(places)
        for x1, y1, r1 in places[:i]
    )


def hidden(scene: Scene) -> tuple[float, ...]:
    """Share of each object's area under later ones, at a quarter of a pixel."""
    at = (np.arange(4 * SIZE) + 0.5) / 4
    masks = [
        distance(thing.shape, at[None] - x, at[:, None] - y, radius) < 0
        for thing, (x, y, radius) in zip(scene.spec.objects, scene.places, strict=True)
    ]
    return tuple(
        float((mask & np.any(masks[i + 1 :], axis=0)).sum() / mask.sum()) if masks[i + 1 :] else 0.0
        for i, mask in enumerate(masks)
    )


def reconstruct(vae: Any, images: list[np.ndarray]) -> list[np.ndarray]:
    """uint8 [64, 64, 3] pictures through the autoencoder, with the mean of the latent."""
    import torch

    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        decoded: torch.Tensor = vae.decode(vae.encode(pixels).latent_dist.mean).sample
    out = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte()
    return list(out.permute(0, 2, 3, 1).numpy())


def readings(count: int, vae: Any = None) -> Iterator[Reading]:
    """All pictures in order, as drawn or through `vae`."""
    batch: list[tuple[Scene, np.ndarray]] = []
    for index, scene in enumerate(scenes(count), start=1):
        batch.append((scene, render(scene)[0]))
        if len(batch) == BATCH or index == count:
            drawn = [image for _, image in batch]
            shown = drawn if vae is None else reconstruct(vae, drawn)
            for (own, image), view in zip(batch, shown, strict=True):
                yield read(own, image, view)
            batch = []


def summary(read: list[Reading]) -> dict[str, Any]:
    """Exactness, whole and in parts, and both tables; plain data."""

    def exact(chosen: list[Reading]) -> dict[str, Any]:
        return asdict(accuracy([r.correct for r in chosen]))

    shares = [h for r in read for h in r.hidden]
    pairs = [p for r in read for p in r.pairs]
    return {
        "pictures": len(read),
        "seed": SEED,
        "exact": exact(read),
        "held_out": exact([r for r in read if r.spec.held_out]),
        "crowded": exact([r for r in read if r.crowded]),
        "tasks": {t: exact([r for r in read if r.spec.task == t]) for t in {r.spec.task: 0 for r in read}},
        "shapes": table([(p[0], p[1]) for p in pairs], SHAPES, (*SHAPES, "blob")),
        "colours": table([(p[2], p[3]) for p in pairs], COLOURS, COLOURS),
        "hidden": {
            "objects": int(np.count_nonzero(shares)),
            "over_an_eighth": int(np.sum(np.array(shares) > 0.125)),
            "most": max(shares, default=0.0),
        },
    }


def table(
    pairs: list[tuple[str, str]], drawn: tuple[str, ...], found: tuple[str, ...]
) -> dict[str, dict[str, int]]:
    """Counts by what was drawn, then by what was found."""
    counts = {d: dict.fromkeys((*found, NOTHING), 0) for d in (*drawn, NOTHING)}
    del counts[NOTHING][NOTHING]
    for d, f in pairs:
        counts[d][f] += 1
    return counts


def chart(found: dict[str, Any]) -> Figure:
    """Both tables: shares of each row in colour, counts in figures."""
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
    shares[-1] = 0  # what was found where nothing is has no row total worth a share
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


def main() -> None:
    from tqdm import tqdm

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="read reconstructions of its autoencoder instead of renders")
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    vae, source = load_vae(args.model, "AutoencoderKL") if args.model else (None, {})
    found = list(tqdm(readings(args.pictures, vae), total=args.pictures, unit="picture", disable=None))
    what = f"reconstructions of {args.model}" if args.model else "renders"
    facts: dict[str, Any] = {"what": what, **source, **summary(found)}
    if vae is not None:
        facts["psnr_db"] = float(np.mean([-10 * np.log10(r.error) for r in found]))
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"detector-{args.model or 'renders'}.json"
    write_json(path, facts)
    save(chart(facts), path.with_suffix(""))
    print(f"{what}: {facts['exact']}, wrote {path}")


if __name__ == "__main__":
    main()
