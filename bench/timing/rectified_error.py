"""Measure the error of sparse attention over chosen blocks, with and without rectification.

    python -m bench.timing.rectified_error

Queries and keys share a smooth random field on a grid of tokens, as neighbouring places of a picture look
alike. `noise` is the share of variance that is independent in every token, `logits` the standard deviation of
the logits. Both outputs attend to the same blocks, so they cost the same except for the correction. The error
is the RMS of the difference to dense attention, over the RMS of the dense output. Every row is checked: with
all blocks kept the same code must give dense attention. It takes less than a minute on a CPU.
"""

import itertools
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from diffusers_ext.kernels import geometry
from diffusers_ext.kernels.block_sparse import api
from diffusers_ext.kernels.block_sparse.select import select
from diffusers_ext.kernels.plan.dynamic import DynamicPlanSpec

from ..ledger import Row
from ..runner import options, run

# Tokens of the grid and of a block.
GRIDS = {"image": ((1, 45, 45), (1, 8, 8)), "video": ((7, 15, 20), (2, 4, 8))}
KEEP = (0.1, 0.2, 0.4)
NOISE = (0.0, 0.3, 0.6)
LOGITS = (1.0, 3.0)
HEADS, HEAD_DIM, REACH = 4, 64, 3.0  # REACH in tokens: standard deviation of the blur that makes a field
LINE = (
    "{grid} {logits:.1f} {noise:.1f} {keep:.2f} {density:.3f} {sparse_error:.3f} {rectified_error:.3f} "
    "{gain:.2f}"
)


def field(grid: tuple[int, int, int], channels: int, seed: int) -> Tensor:
    """Return white noise `[1, tokens, channels]`, blurred along every axis, with unit variance."""
    x = torch.randn(*grid, channels, generator=torch.Generator().manual_seed(seed))
    for axis, size in enumerate(grid):
        apart = torch.arange(size)[:, None] - torch.arange(size)
        x = torch.tensordot((-(apart / REACH).square() / 2).exp(), x, dims=([1], [axis])).movedim(0, axis)
    return (x / x.std()).flatten(0, 2)[None]


def operands(grid: tuple[int, int, int], noise: float, logits: float) -> list[Tensor]:
    """Return `q, k, v [1, tokens, HEADS, HEAD_DIM]`; every head mixes the field into q and k differently."""
    g = torch.Generator().manual_seed(0)
    shared = field(grid, HEAD_DIM, 1)
    out = []
    for seed in range(3):
        mix = torch.eye(HEAD_DIM) + torch.randn(HEADS, HEAD_DIM, HEAD_DIM, generator=g) / HEAD_DIM**0.5
        smooth = torch.einsum("bnc,hcd->bnhd", shared if seed < 2 else field(grid, HEAD_DIM, 2), mix)
        own = torch.randn(smooth.shape, generator=g)
        out.append((1 - noise) ** 0.5 * smooth / smooth.std() + noise**0.5 * own)
    scores = torch.einsum("bqhd,bkhd->bhqk", *out[:2]) / HEAD_DIM**0.5
    sharper = (logits / scores.std()) ** 0.5
    return [out[0] * sharper, out[1] * sharper, out[2]]


def measure(name: str, noise: float, logits: float) -> list[Row]:
    """Return rows for one field, block by block in the order of tiles.

    `density` is the share of pairs of tokens that are visited. Errors are relative to the dense output.
    `gain` is the mean weight that attention to the chosen blocks gets; pooled blocks get the rest.
    """
    grid, tile = GRIDS[name]
    order = geometry.tile_major(grid, tile)
    q, k, v = (x[:, order] for x in operands(grid, noise, logits))
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    dense = torch.nn.functional.scaled_dot_product_attention(*heads_first).transpose(1, 2)

    def error(out: Tensor) -> float:
        return float((out - dense).square().mean().sqrt() / dense.square().mean().sqrt())

    rows = []
    for keep in (*KEEP, 1.0):
        candidates = DynamicPlanSpec(grid, 0, tile, tile, keep, touching=False).build()
        found = select(q, k, v, candidates)
        plan = replace(candidates, row_ptr=found.row_ptr, col=found.col)
        plain, _ = api.attention(q, k, v, plan)
        mended, _ = api.attention(q, k, v, plan, gain=found.gain, bias=found.bias)
        if keep < 1:
            pairs, every, *_ = found.count(candidates).tolist()
            row = {"grid": name, "logits": logits, "noise": noise, "keep": keep, "density": pairs / every}
            row |= {"sparse_error": error(plain), "rectified_error": error(mended)}
            rows.append(row | {"gain": float(found.gain.mean())})
    check = "all kept = dense" if error(mended) < 1e-5 else "FAILED"
    return [row | {"check": check} for row in rows]


def main(arguments: list[str] | None = None) -> list[Row]:
    args = options(__doc__, device="cpu").parse_args(arguments)
    cases = {
        f"{name} logits={logits} noise={noise}": partial(measure, name, noise, logits)
        for name, logits, noise in itertools.product(GRIDS, LOGITS, NOISE)
    }
    path = args.out / "rectified_error.json"
    return run("rectified_error", cases, args, LINE, path=path, heads=HEADS, head_dim=HEAD_DIM)


if __name__ == "__main__":
    main()
