"""Measure what a session costs: stock model, our dense processors, and SoftPAG in its scopes.

    python -m bench.timing.guidance_cost --device cpu

Each row is timed in turn with the stock model (A B A B ...), so that the ratio survives a busy machine. It is
printed beside the check that it computes the right thing. The denoisers are real diffusers classes with
random weights, since time does not depend on what they have learned. Results are written after each row.
"""

import math
import statistics
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn

import diffusers_ext as dx
from diffusers_ext.models.sizes import Grid

from ..ledger import Row
from ..runner import Latest, options, run
from .slices import SLICES, Inputs, Slice, sharing_weights
from .stopwatch import Stopwatch, in_turns

# Settings of SoftPAG, and the expected time in calls of the stock model.
CASES = {
    "dense processors": (None, 1.0),
    "SoftPAG u=0": ({"strength": 0.0}, 1.0),
    "SoftPAG image_rows": ({"strength": 0.5}, 2.0),
    "SoftPAG image_block": ({"strength": 0.5, "scope": "image_block"}, 2.0),
}
LINE = "{model:6} {tokens:6} {case:20} {ratio:.2f} {expected:.1f} {error:.2e}"


def models(
    device: str,
) -> dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, int], Inputs], list[int]]]:
    """Return by name what builds a denoiser, its inputs for a side of n tokens, and sides."""
    big = device != "cpu"
    dtype = torch.bfloat16 if big else torch.float32
    width = {"num_attention_heads": 24 if big else 6, "attention_head_dim": 64}
    shared = width | {"joint_attention_dim": 256, "pooled_projection_dim": 256}
    dim = math.prod(width.values())
    sd3 = {"num_layers": 8, "caption_projection_dim": dim, "qk_norm": "rms_norm", "pos_embed_max_size": 96}
    flux = {"num_layers": 2, "num_single_layers": 4, "axes_dims_rope": (16, 24, 24), "guidance_embeds": True}
    found = {}
    for name, like, config in (("SD3", "sd3.5", sd3), ("FLUX", "flux.1", flux)):
        part = replace(SLICES[like], config=shared | config)

        def inputs(model: nn.Module, n: int, part: Slice = part) -> Inputs:
            return part.call(model, Grid(1, n, n, 77), device, dtype)

        found[name] = partial(part.build, False, device, dtype), inputs, [32, 64] if big else [8, 16]
    return found


@torch.no_grad()
def measure(name: str, model: nn.Module, call: Inputs, tokens: int, case: str, args: Namespace) -> list[Row]:
    """Return the row of one case on one denoiser at one size.

    `ratio` is time over the time of the stock model, `expected` its theoretical value, and `error` the
    largest difference.
    """
    joint = [site.name for site in dx.summary(model).denoisers[0][3] if site.kind == "joint"]
    settings, expected = CASES[case]
    middle = {joint[len(list(model.children())) // 2]: None}
    methods = () if settings is None else (dx.SoftPAG(heads=middle, scale=1.0, **settings),)
    ours = sharing_weights(model)
    stock = model(**call)[0]
    with dx.apply(ours, *methods):
        changed = ours(**call)[0]
        calls = [partial(part, **call) for part in (model, ours)]
        times = in_turns(Stopwatch(args.device), *calls, repeats=args.repeats)
    ratios = [ms / alone for alone, ms in zip(*times, strict=True)]
    error = float((changed - stock).abs().max())
    same = expected == 1.0
    ok = (error == 0.0) if same else (error > 0 and bool(changed.isfinite().all()))
    check = ("bit-equal to the host" if same else "finite and different") if ok else "FAILED"
    row = {"model": name, "tokens": tokens, "case": case, "ratio": statistics.median(ratios)}
    return [row | {"expected": expected, "error": error, "check": check}]


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=7)
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
