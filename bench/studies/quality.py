"""Measure what sparse attention costs in quality, against dense pictures and against the ground truth.

    python -m bench.studies.quality --model shapes-sd3 --n 20

Every method runs at several densities, from the first step on and after a dense warm-up. Prompts and seeds
are those of the dense pictures. Models of the zoo are much too small to become faster. `diffusers-ext plan`
and `python -m bench.timing.growth` show what the same density saves on a large model.

`--method rectified` makes the rows of that method again and takes the others from the existing file.

Density is the share of computed pairs among all pairs of a grid query and a key. It covers all heads and all
calls of self- and joint attention. Modules count by their pairs, not equally. In joint attention text is
among the keys. Queries of text see all keys and are left out, and so is cross-attention, which stays dense.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from math import ceil, log10
from pathlib import Path
from typing import Any

import numpy as np

import diffusers_ext as dx
from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.compare import Comparison, run
from diffusers_ext.evaluate.report.plot import save
from diffusers_ext.evaluate.score import compare, summarise
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.models.presets import tokens_of
from diffusers_ext.outputs.files import output_folder, slug, write_json
from diffusers_ext.outputs.record import versions
from diffusers_ext.processors.sparse.method import SparseMethod
from diffusers_ext.sampling.generate import generate
from diffusers_ext.sampling.items import Item
from diffusers_ext.settings.methods import as_dict

from ..runner import suite_parser
from ..timing.block_checks import RecordCalls
from .quality_chart import chart

SUITE = "held-out"
SHARES = (0.25, 0.375, 0.5, 0.75)  # of the longer side of the grid
KEEPS = (0.25, 0.5, 0.75)  # of the blocks
WARM_UPS = (0.0, 0.2)  # share of the steps with dense attention
BLOCK = 16  # tokens; the published 128 would cover the complete grid here


def ladder(grid: tuple[int, int, int]) -> list[SparseMethod]:
    """Return every method that makes sense on a grid `(t, h, w)` of tokens, from sparse to nearly dense."""
    t, h, w = grid
    forced: dict[str, Any] = {"backend": "reference", "dense_steps": 0}  # auto might stay dense
    windows = [tuple(ceil(share * n) for n in grid) for share in SHARES]
    if t > 1:
        windows += [(frames, h, w) for frames, *_ in windows[:-1]]
    found: list[SparseMethod] = [dx.GNA(window=window, **forced) for window in dict.fromkeys(windows)]
    if t == 1:
        radii = sorted({max(2, round(share * max(h, w))) for share in SHARES})
        found += [dx.CLEAR(radius=r, **forced) for r in radii]
    else:
        # On so few frames the decay changes nothing: the published code counts in blocks of 128 tokens.
        rules = [(mode, sinks) for mode in ("release", "paper") for sinks in (0, 1)]
        found += [dx.Radial(mode=mode, sink_frames=sinks, block=BLOCK, **forced) for mode, sinks in rules]
    return found + [
        # Blocks that touch are most of so small a grid.
        dx.RectifiedSparse(keep=keep, p_remaining=None, touching=False, block=BLOCK, **forced)
        for keep in KEEPS
    ]


def psnr(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return the peak signal-to-noise ratio in dB over all pictures in 0..1; `None` if they are equal."""
    mse = float(np.square(a - b).mean())
    return -10 * log10(mse) if mse else None


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean structural similarity of pictures [B, H, W, 3] in 0..1.

    It has Gaussian windows of 1.5 px and constants 0.01 and 0.03 (Wang et al., IEEE TIP 13(4), 2004, equation
    13).
    """
    from scipy.ndimage import gaussian_filter

    def blur(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, (0, 1.5, 1.5, 0), truncate=3.5)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    both = blur(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + 0.01**2) * (2 * both + 0.03**2)
    return float((top / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2))).mean())


def pixels(made: Comparison) -> np.ndarray:
    """Return pictures [B, H, W, 3] of a single variant in 0..1; the frames of a clip are side by side."""
    return np.stack([np.asarray(c.image, np.float64) / 255 for c in made.cells[0]])


def pairs(pipe: Any, item: Item, call: Mapping[str, Any]) -> dict[str, int]:
    """Count pairs of a grid query and a key by module path, over all heads, in one call of each module."""
    recorder = RecordCalls()
    with dx.apply(pipe, recorder) as session:
        list(generate(pipe, [item], call))
        found = {}
        for site in session.report().sites:
            last = recorder.kept[site.path.partition(".")[2]]  # names without the pipeline's component
            found[site.path] = site.heads * last.layout.tokens * last.k.shape[1]
        return found


def overall_density(sites: Sequence[Mapping[str, Any]], pairs: Mapping[str, int]) -> float:
    """Return the share of computed pairs among all pairs, from a session's report."""
    weights = [pairs[site["path"]] * site["calls"] for site in sites]
    return float(np.average([site["density"] for site in sites], weights=weights))


def measured(
    pipe: Any,
    method: SparseMethod,
    items: Sequence[Item],
    call: Mapping[str, Any],
    batch: int,
    dense: Comparison,
    weights: Mapping[str, int],
) -> dict[str, Any]:
    """Return one row: densities, distance to the dense pictures, accuracy and its paired difference.

    Densities are those of a sparse step and of all steps. `call` names `num_inference_steps`; `weights` come
    from `pairs`. If the method refuses the model's grids, the row holds its sentence instead.
    """
    row: dict[str, Any] = {"method": method.name, "settings": as_dict(method)}
    try:
        made = run(pipe, [Variant(method.name, (method,))], items, call, batch)
    except dx.MethodError as error:
        return row | {"refused": str(error)}
    density = overall_density(made.reports[0]["sites"], weights)
    steps = call["num_inference_steps"]
    sparse = 1 - method.first_dense(steps) / steps
    judged, plain = ([c.judged for c in x.cells[0]] for x in (made, dense))
    here, there = pixels(made), pixels(dense)
    return row | {
        "density": density,
        "average_density": 1 - sparse * (1 - density),
        "psnr_db": psnr(here, there),
        "ssim": ssim(here, there),
        **summarise(judged),
        "paired": compare(plain, judged)["overall"],
    }


def sweep(
    pipe: Any,
    items: Sequence[Item],
    call: Mapping[str, Any],
    batch: int,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure the dense model, and a row for every method, setting and warm-up.

    Rows of an earlier sweep, `before`, are taken as they are. Raises `ValueError` if its dense pictures got
    other verdicts, since nothing could then be compared.
    """
    from dataclasses import replace

    from tqdm import tqdm

    size = {k: v for k, v in call.items() if k in ("height", "width", "num_frames")}
    grid = tokens_of(pipe).grid(size).shape
    dense = run(pipe, [Variant("dense")], items, call, batch)
    judged = summarise([c.judged for c in dense.cells[0]])
    if before is not None and before["dense"] != judged:
        raise ValueError(
            "the dense pictures are judged otherwise than in the earlier run (another machine may round "
            "otherwise), so its rows cannot be kept; make all rows again."
        )
    methods = [replace(m, dense_steps=share) for share in WARM_UPS for m in ladder(grid)]
    weights = pairs(pipe, items[0], call)
    there = before["rows"] if before else []
    bar = tqdm(methods, unit="setting", disable=None)
    rows = [
        next((row for row in there if is_of(row, m)), None)
        or measured(pipe, m, items, call, batch, dense, weights)
        for m in bar
    ]
    return {"grid": grid, "dense": judged, "rows": rows}


def is_of(row: Mapping[str, Any], method: SparseMethod) -> bool:
    """Return whether a row was made with this method; settings that are newer had their defaults then."""
    settings = {name: value for name, value in row["settings"].items() if name != "name"}
    return row["method"] == method.name and type(method)(**settings) == method


def without(method: str, file: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of a file without the rows of a method.

    Raises `ValueError` if another run made the file.
    """
    before = json.loads(file.read_text())
    if changed := [name for name, value in facts.items() if before.get(name) != value]:
        raise ValueError(
            f"{file} was made with another {', '.join(changed)}; leave --method out, which makes all rows."
        )
    rows = [row for row in before["rows"] if row["method"] != method]
    if len(rows) == len(before["rows"]):
        names = ", ".join(dict.fromkeys(row["method"] for row in rows))
        raise ValueError(f"{file} has no rows of {method}; it has those of {names}.")
    return before | {"rows": rows}


def call_of(model: Checkpoint, pipe: Any) -> dict[str, Any]:
    """Return the call arguments of a model from its card; if it has no steps, the pipeline's own."""
    usual = inspect.signature(pipe.__call__).parameters["num_inference_steps"].default
    return {"num_inference_steps": usual, **model.call}


def main() -> None:
    parser = suite_parser(__doc__, n=20, batch=20)
    parser.add_argument("--model", default="shapes-sd3")
    parser.add_argument("--device", default=None)
    parser.add_argument("--method", help="make only the rows of this method again")
    args = parser.parse_args()
    try:
        model = Checkpoint.resolve(args.model)
        items = [q.item for q in questions(SUITE, args.n, args.seed, model.tasks)]
        pipe = model.load(args.device)
        call = call_of(model, pipe)
        facts = {"model": args.model, "suite": SUITE, "n": args.n, "seed": args.seed, "call": call}
        facts |= {"weights": model.fingerprint, "dtype": str(pipe.dtype)}
        home = output_folder(args.out) / f"quality-{slug(args.model)}"
        before = without(args.method, home.with_suffix(".json"), facts) if args.method else None
        found = {**facts, **sweep(pipe, items, call, args.batch, before), "versions": versions()}
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    write_json(home.with_suffix(".json"), found)
    save(chart(found), home)
    print(f"wrote {home}.json")


if __name__ == "__main__":
    main()
