"""Measure what a session costs: our dense processors, a sparse method that stays dense, and SoftPAG.

    python -m bench.timing.guidance_cost --device cpu

Each row is timed in turn with the stock model (A B B A ...), so that the ratio survives a busy machine. It
has a 95 % interval, and beside it is the check that the row computes the right thing. The denoisers are real
diffusers classes with random weights, since time does not depend on what they have learned. "deep" has the 57
blocks of FLUX.1, so narrow that a call takes some 30 ms on a CPU: what a session adds shows there first.
Results are written after each row.
"""

import math
import statistics
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from scipy import stats
from torch import nn

import diffusers_ext as dx
from diffusers_ext.core import Method
from diffusers_ext.models.sizes import Grid

from ..ledger import Row
from ..runner import Latest, options, run
from .slices import SLICES, Inputs, Slice, sharing_weights
from .stopwatch import Stopwatch, in_turns

# The methods that act on some heads of a layer, and the expected time in calls of the stock model.
CASES: dict[str, tuple[Callable[[dict[str, None]], tuple[Method, ...]], float]] = {
    "dense processors": (lambda heads: (), 1.0),
    "CLEAR that hides nothing": (lambda heads: (dx.CLEAR(radius=128),), 1.0),
    "SoftPAG u=0": (lambda heads: (dx.SoftPAG(heads=heads, scale=1.0, strength=0.0),), 1.0),
    "SoftPAG image_rows": (lambda heads: (dx.SoftPAG(heads=heads, scale=1.0, strength=0.5),), 2.0),
    "SoftPAG image_block": (
        lambda heads: (dx.SoftPAG(heads=heads, scale=1.0, strength=0.5, scope="image_block"),),
        2.0,
    ),
}
SECONDS = 4.0  # for each of the two calls of a row, as long as `--repeats` is not more
LINE = "{model:4} {tokens:4} {case:24} {ratio:.3f} {low:.3f} {high:.3f} {expected:.1f} {added_us:7.1f}"


def models(
    device: str,
) -> dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, int], Inputs], list[int]]]:
    """Return by name what builds a denoiser, its inputs for a side of n tokens, and sides."""
    big = device != "cpu"
    dtype = torch.bfloat16 if big else torch.float32
    sides = [32, 64] if big else [8, 16]
    width = {"num_attention_heads": 24 if big else 6, "attention_head_dim": 64}
    shared = width | {"joint_attention_dim": 256, "pooled_projection_dim": 256}
    dim = math.prod(width.values())
    sd3 = {"num_layers": 8, "caption_projection_dim": dim, "qk_norm": "rms_norm", "pos_embed_max_size": 96}
    flux = {"num_layers": 2, "num_single_layers": 4, "axes_dims_rope": (16, 24, 24), "guidance_embeds": True}
    deep = flux | {
        "num_layers": 19,
        "num_single_layers": 38,
        "attention_head_dim": 16,
        "axes_dims_rope": (4, 6, 6),
    }
    wanted = (
        ("SD3", "sd3.5", sd3, sides),
        ("FLUX", "flux.1", flux, sides),
        ("deep", "flux.1", deep, sides[:1]),
    )
    found = {}
    for name, like, config, some in wanted:
        part = replace(SLICES[like], config=shared | config)

        def inputs(model: nn.Module, n: int, part: Slice = part) -> Inputs:
            return part.call(model, Grid(1, n, n, 77), device, dtype)

        found[name] = partial(part.build, False, device, dtype), inputs, some
    return found


@torch.no_grad()
def measure(name: str, model: nn.Module, call: Inputs, tokens: int, case: str, args: Namespace) -> list[Row]:
    """Return the row of one case on one denoiser at one size.

    `ratio` is the median of time over the time of the stock model, from `low` to `high` with 95 %, `expected`
    its theoretical value, and `error` the largest difference. `added_us` is the median of the additional
    microseconds for each attention module.
    """
    joint = [site.name for site in dx.summary(model).denoisers[0][3] if site.kind == "joint"]
    methods, expected = CASES[case]
    middle = {joint[len(list(model.children())) // 2]: None}
    ours = sharing_weights(model)
    stock = model(**call)[0]
    with dx.apply(ours, *methods(middle)):
        changed = ours(**call)[0]
        calls, watch = [partial(part, **call) for part in (model, ours)], Stopwatch(args.device, own=True)
        repeats = max(args.repeats, int(500 * args.seconds / watch(calls[0])))
        rounds = zip(*in_turns(watch, *calls, *reversed(calls), repeats=repeats), strict=True)
    times = [(a + d, b + c) for a, b, c, d in rounds]
    ratios = sorted(ms / alone for alone, ms in times)
    low, high = order_statistics(len(ratios))
    error = float((changed - stock).abs().max())
    same = expected == 1.0
    ok = (error == 0.0) if same else (error > 0 and bool(changed.isfinite().all()))
    check = ("bit-equal to the host" if same else "finite and different") if ok else "FAILED"
    row = {
        "model": name,
        "tokens": tokens,
        "case": case,
        "ratio": statistics.median(ratios),
        "n": len(ratios),
    }
    row |= {
        "low": ratios[low],
        "high": ratios[high],
        "ms": statistics.median(alone / 2 for alone, _ in times),
    }
    row |= {"added_us": 500 * statistics.median(ms - alone for alone, ms in times) / len(joint)}
    return [row | {"expected": expected, "error": error, "check": check}]


def order_statistics(n: int) -> tuple[int, int]:
    """Return the places, among n sorted values, of the 95 % interval of their median."""
    low = max(int(stats.binom.ppf(0.025, n, 0.5)) - 1, 0)
    return low, n - 1 - low


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="rounds of four calls at least")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time for each of the two models")
    args = parser.parse_args(arguments)
    known = models(args.device)
    built = Latest(lambda name: known[name][0]())

    def cell(name: str, side: int, case: str) -> list[Row]:
        model = built(name)
        return measure(name, model, known[name][1](model, side), side * side, case, args)

    cases = {
        f"{name} {side * side} {case}": partial(cell, name, side, case)
        for name, (_, _, sides) in known.items()
        for side in sides
        for case in CASES
    }
    return run("guidance_cost", cases, args, LINE)


if __name__ == "__main__":
    main()
