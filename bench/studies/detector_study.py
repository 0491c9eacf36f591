"""Share what both detector studies need: scenes of known content, pairs of drawn and found, results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from diffusers_ext.evaluate.statistics import accuracy
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.models.fingerprint import fingerprint
from diffusers_ext.outputs.files import output_folder, slug, write_json
from diffusers_ext.zoo.world.captions import Object
from diffusers_ext.zoo.world.detect import Found

from ..ledger import RESULTS
from ..pages.markdown import markdown
from ..runner import parser_of

NOTHING = "nothing"
BATCH = 50
MOST = 6  # kinds of mistakes that are named
Pair = tuple[str, str]  # drawn, found


def scenes(
    count: int,
    seed: int,
    held_out: Mapping[str, Sequence[Any]],
    sample: Callable[[np.random.Generator], Any],
    place: Callable[[Any, np.random.Generator], Any],
) -> Iterator[Any]:
    """Return trained and held-out content in turn; held-out content goes through the tasks."""
    tasks = list(held_out)
    for index in range(count):
        rng, half = np.random.default_rng((seed, index)), index // 2
        asked = held_out[tasks[half % len(tasks)]][half // len(tasks)] if index % 2 else sample(rng)
        yield place(asked, rng)


def readings(
    scenes: Iterable[Any],
    draw: Callable[[Any], np.ndarray],
    read: Callable[[Any, np.ndarray, np.ndarray], Any],
    vae: Any = None,
) -> Iterator[Any]:
    """Read each scene in order, as drawn or through `vae`."""
    left = iter(scenes)
    while batch := list(islice(left, BATCH)):
        drawn = np.stack([draw(scene) for scene in batch])
        yield from map(read, batch, drawn, drawn if vae is None else reconstruct(vae, drawn))


def reconstruct(vae: Any, drawn: np.ndarray) -> np.ndarray:
    """Pass uint8 [B, H, W, 3] or [B, T, H, W, 3] through the autoencoder, with the mean of the latent."""
    import torch

    with torch.no_grad():
        pixels = torch.from_numpy(drawn).movedim(-1, 1).float() / 127.5 - 1
        decoded: torch.Tensor = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    return ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).numpy()


def squared_error(drawn: np.ndarray, shown: np.ndarray) -> float:
    """Return the mean squared error of uint8 values, in units of 0..1."""
    return float(np.mean((drawn / 255.0 - shown / 255.0) ** 2))


def matched(
    drawn: Sequence[str], found: Sequence[str], cost: np.ndarray, reach: Sequence[float]
) -> list[Pair]:
    """Pair objects by least distance `cost` [drawn, found] in px within `reach`, else with NOTHING."""
    rows, columns = linear_sum_assignment(cost) if drawn and found else ((), ())
    partner = {r: c for r, c in zip(rows, columns, strict=True) if cost[r, c] <= reach[r]}
    pairs = [(name, found[partner[i]] if i in partner else NOTHING) for i, name in enumerate(drawn)]
    return pairs + [(NOTHING, name) for i, name in enumerate(found) if i not in partner.values()]


def nearby(
    drawn: Sequence[Object], found: Sequence[Found], places: Iterable[tuple[float, float, float]]
) -> list[Pair]:
    """Pair the objects drawn at `places` (x, y, radius in px) with those found within the radius."""
    x, y, radius = np.array(list(places)).reshape(-1, 3).T
    centres = np.array([f.centre for f in found]).reshape(-1, 2).T
    cost = np.hypot(x[:, None] - centres[0], y[:, None] - centres[1])
    return matched([name(thing) for thing in drawn], [name(thing) for thing in found], cost, radius)


def name(thing: Object | Found) -> str:
    """Write an object as 'red circle'."""
    return f"{thing.colour} {thing.shape}"


def by_word(pairs: Iterable[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Split pairs of objects into pairs of their colours and pairs of their shapes."""
    words = [tuple((w.split() * 2)[:2] for w in pair) for pair in pairs]  # NOTHING stands for both
    return [(d[0], f[0]) for d, f in words], [(d[1], f[1]) for d, f in words]


def table(
    pairs: Iterable[Pair], drawn: Sequence[str] = (), found: Sequence[str] = ()
) -> dict[str, dict[str, int]]:
    """Count pairs by what was drawn, then by what was found; names passed in start with zero."""
    counts = {d: {f: 0 for f in found if {d, f} != {NOTHING}} for d in drawn}
    for (d, f), number in sorted(Counter(pairs).items()):
        counts.setdefault(d, {})[f] = number
    return counts


def share(right: Iterable[bool]) -> dict[str, Any] | None:
    """Return accuracy with its interval; `None` if nothing was read."""
    known = list(right)
    return asdict(accuracy(known)) if known else None


def evidence(bench: str) -> list[dict[str, Any]]:
    """Return the committed summaries of a bench, the one of renders first."""
    files = sorted(RESULTS.glob(f"{bench}-*.json"), key=lambda p: p.stem != f"{bench}-renders")
    return [json.loads(file.read_text()) for file in files]


def report(bench: str, unit: str, shares: Mapping[str, str], confused: Mapping[str, str]) -> str:
    """Return a table of the committed `shares` that were read exactly, with the mistakes below it.

    `shares` and `confused` map entries of the results to words.
    """
    found = evidence(bench)
    rows = [[f["what"], str(f[unit]), *(exactly(f[key]) for key in shares), decibels(f)] for f in found]
    table = markdown([unit, "number", *shares.values(), "PSNR"], rows)
    notes = [f"- {f['what']}, {words}: {mistaken(f[key])}." for f in found for key, words in confused.items()]
    return "\n".join([table, "", "Mistakes, drawn -> found:", "", *notes])


def exactly(entry: Mapping[str, float], digits: int = 2) -> str:
    """Return a share in percent, with its interval if there is one."""
    if "low" not in entry:
        return f"{100 * entry['exact'] / entry['n']:.{digits}f} %"
    share, low, high = (f"{100 * entry[key]:.{digits}f}" for key in ("accuracy", "low", "high"))
    return f"{share} % ({low} to {high})"


def decibels(found: Mapping[str, Any]) -> str:
    """Return how close reconstructions are, and nothing for renders."""
    return f"{found['psnr_db']:.1f} dB" if "psnr_db" in found else ""


def mistaken(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return the most frequent mistakes in a table of what was drawn and found."""
    wrong = sorted(
        ((n, d, f) for d, row in counts.items() for f, n in row.items() if n and d != f), reverse=True
    )
    total = sum(sum(row.values()) for row in counts.values())
    named = ", ".join(f"{d} -> {f} {n}" for n, d, f in wrong[:MOST]) or "none"
    if len(wrong) > MOST:
        named += f", others {sum(n for n, _, _ in wrong[MOST:])}"
    return f"{named} (of {total} objects)"


def measured(
    bench: str,
    doc: str | None,
    unit: str,
    count: int,
    kind: str,
    readings: Callable[[int, Any], Iterable[Any]],
    summary: Callable[[list[Any]], dict[str, Any]],
    arguments: Sequence[str] | None,
) -> tuple[dict[str, Any], Path]:
    """Run the command of a bench: read `count` pictures or clips, or the number asked for.

    Writes the summary to `BENCH-renders.json` or `BENCH-MODEL.json`, and returns it with its path.
    """
    from tqdm import tqdm

    parser = parser_of(doc)
    parser.add_argument("--model", help="read reconstructions of its autoencoder instead of renders")
    parser.add_argument(f"--{unit}s", type=int, default=count, dest="count", metavar="N")
    args = parser.parse_args(arguments)
    if args.count < 1:
        parser.error(f"--{unit}s must be 1 or more, got {args.count}")
    vae, source = load_vae(args.model, kind) if args.model else (None, {})
    found = list(tqdm(readings(args.count, vae), total=args.count, unit=unit, disable=None))
    what = f"reconstructions of {args.model}" if args.model else "renders"
    facts: dict[str, Any] = {"what": what, **source, **summary(found)}
    if vae is not None:
        facts["psnr_db"] = float(np.mean([-10 * np.log10(r.error) for r in found]))
    path = output_folder(args.out) / f"{bench}-{slug(args.model or 'renders')}.json"
    write_json(path, facts)
    print(f"{what}: {facts['exact']}, wrote {path}")
    return facts, path


def load_vae(model: str, kind: str) -> tuple[Any, dict[str, Any]]:
    """Load the autoencoder of a zoo model or folder as the diffusers class `kind`, and name its weights."""
    import diffusers

    try:
        folder = Checkpoint.resolve(model).folder
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    if folder is None or not (folder / "vae").is_dir():
        raise SystemExit(f"error: --model needs a zoo model or a folder with a vae, got {model!r}")
    vae = getattr(diffusers, kind).from_pretrained(folder / "vae").eval()
    return vae, {"model": model, "vae": fingerprint(folder / "vae")}
