"""How far sparse attention over chosen blocks is from dense attention, with and without rectification.

    python -m bench.rectified_error

Queries and keys share a smooth random field on a grid of tokens, as neighbouring places of a picture look
alike; `noise` is the share of variance that every token has for itself, `logits` the standard deviation of
the logits. Both outputs attend to the same blocks, so they cost the same but for the correction; the error is
the root mean square of the difference over that of the dense output. Every row is checked: with all blocks
kept the same code must give dense attention. On a CPU, in less than a minute.
"""

import argparse
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from diffusers_ext.kernels import geometry
from diffusers_ext.kernels.block_sparse import ops
from diffusers_ext.kernels.block_sparse.select import select
from diffusers_ext.kernels.candidates import DynamicPlanSpec

from .ledger import Ledger
from .timing import RESULTS, machine

GRIDS = {"image": ((1, 45, 45), (1, 8, 8)), "video": ((7, 15, 20), (2, 4, 8))}  # tokens, and those of a block
KEEP = (0.1, 0.2, 0.4)
NOISE = (0.0, 0.3, 0.6)
LOGITS = (1.0, 3.0)
HEADS, HEAD_DIM, REACH = 4, 64, 3.0  # REACH in tokens: standard deviation of the blur that makes a field


@dataclass(frozen=True)
class Row:
    """`density` is the share of pairs of tokens that are visited; errors are relative to the dense output."""

    grid: str
    logits: float
    noise: float
    keep: float
    density: float
    sparse_error: float
    rectified_error: float
    gain: float  # mean weight that attention to the chosen blocks gets; pooled blocks get the rest
    check: str


def field(grid: tuple[int, int, int], channels: int, seed: int) -> Tensor:
    """White noise `[1, tokens, channels]`, blurred along every axis, with unit variance."""
    x = torch.randn(*grid, channels, generator=torch.Generator().manual_seed(seed))
    for axis, size in enumerate(grid):
        apart = torch.arange(size)[:, None] - torch.arange(size)
        x = torch.tensordot((-(apart / REACH).square() / 2).exp(), x, dims=([1], [axis])).movedim(0, axis)
    return (x / x.std()).flatten(0, 2)[None]


def operands(grid: tuple[int, int, int], noise: float, logits: float) -> list[Tensor]:
    """`q, k, v [1, tokens, HEADS, HEAD_DIM]`; queries and keys mix the field differently in every head."""
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
    """Rows for one field, block by block in the order of tiles."""
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
        plain, _ = ops.attention(q, k, v, plan)
        mended, _ = ops.attention(q, k, v, plan, gain=found.gain, bias=found.bias)
        if keep < 1:
            pairs, every, *_ = found.count(candidates).tolist()
            gain = float(found.gain.mean())
            rows.append(Row(name, logits, noise, keep, pairs / every, error(plain), error(mended), gain, ""))
    check = "all kept = dense" if error(mended) < 1e-5 else "FAILED"
    return [replace(row, check=check) for row in rows]


def main(args: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=GRIDS, help="one of the grids")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args(args)
    fields = itertools.product([chosen.only] if chosen.only else GRIDS, LOGITS, NOISE)
    cases = {f"{name} logits={logits} noise={noise}": (name, noise, logits) for name, logits, noise in fields}
    ledger = Ledger(
        chosen.out / "rectified_error.json", machine("cpu"), cases, heads=HEADS, head_dim=HEAD_DIM
    )
    print("grid   logits  noise  keep  density   sparse  rectified   gain  check")
    for label, case in cases.items():
        with ledger.case(label):
            for r in measure(*case):
                ledger.add(r)
                print(
                    f"{r.grid:5} {r.logits:7.1f} {r.noise:6.1f} {r.keep:5.2f} {r.density:8.3f} "
                    f"{r.sparse_error:8.3f} {r.rectified_error:10.3f} {r.gain:6.2f}  {r.check}"
                )
    return ledger.finish(lambda row: row.check != "FAILED")


if __name__ == "__main__":
    main()
