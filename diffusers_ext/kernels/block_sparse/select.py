"""Select the key blocks that a block of queries keeps, by pooled blocks, and compensate for the others.

Paper: Liu et al., "Rectified SpaAttn" (arXiv 2511.19835). Attention over the kept blocks alone gives them too
much weight and the others none. Pooled queries and keys estimate the full map `P`. The output of row i
becomes `gain_i * out_i + bias_i`. `bias_i` adds the mean values of the dropped blocks whose estimate can be
trusted, with their estimated weight. `gain_i` removes that weight from the rest.

All text together is one column of `P`. It is ranked among the blocks. As in the published code, it counts in
the number of columns that a row keeps and in their share of attention. Its keys are visited wherever it
ranks.

All shapes are static and nothing waits for the GPU.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import PAD
from ..plan.dynamic import DynamicPlan
from .autocast import follows_autocast

BUDGET = 1 << 28  # bytes that the choice may take; if not all heads fit, they take turns
BYTES_A_PAIR = 34  # for a pair of blocks, a head and a row of the batch, at the peak of `select`


class Selection(NamedTuple):
    """Lists for `BlockPlan` with a plan for each batch row and head, and the rectification of each block.

    Shapes: `row_ptr int32 [B * H, NQ + 1]`, `col int32 [B * H, NQ * NK]` of which the end is unused, `gain
    [B, H, NQ]`, `bias [B, H, NQ, D]`, `kept bool [B, H, NQ, NK]`.
    """

    row_ptr: Tensor
    col: Tensor
    gain: Tensor
    bias: Tensor
    kept: Tensor

    def count(self, plan: DynamicPlan) -> Tensor:
        """Count over batch rows and heads, int64 `[4]`.

        The numbers are pairs of tokens that see each other, all pairs, kept blocks without checks, all kept
        blocks.
        """
        tokens, plans = plan.s_q, self.row_ptr.shape[0]
        times = self.kept.sum((0, 1))  # [NQ, NK]
        full = times * (plan.entries & 1)
        seen = (times[:, plan.grid_blocks] * plan.counts).sum(1)  # keys of a query
        first = torch.arange(len(seen), device=seen.device) * plan.block_q
        pairs = (seen * (tokens - first).clamp(max=plan.block_q)).sum() + plans * tokens * plan.text
        every = torch.full_like(pairs, plans * tokens * (tokens + plan.text))
        return torch.stack([pairs, every, full.sum(), times.sum()])


@follows_autocast
def select(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: DynamicPlan,
    mass: float | None = None,
    scale: float | None = None,
) -> Selection:
    """Select blocks for `q [B, S_q, H, D]`, `k, v [B, S_kv, H, D]` in plan order.

    A row keeps what `plan` always keeps. With `mass` it also keeps columns until they hold that share of the
    estimated attention. A column is a block of the grid, or the text. `scale` is that of attention.
    """
    B, _, H, D = q.shape
    scale = D**-0.5 if scale is None else scale
    heads = max(1, BUDGET // (BYTES_A_PAIR * B * plan.always.numel()))
    parts = [
        _select(*(x[:, :, h : h + heads] for x in (q, k, v)), plan, mass, scale) for h in range(0, H, heads)
    ]
    row_ptr, col, gain, bias, kept = (torch.cat(x, 1) for x in zip(*parts, strict=True))
    return Selection(row_ptr.flatten(0, 1), col.flatten(0, 1), gain, bias, kept)


def _select(
    q: Tensor, k: Tensor, v: Tensor, plan: DynamicPlan, mass: float | None, scale: float
) -> Selection:
    places = plan.grid_keys
    k, v, text = k[:, places], v[:, places], k[:, plan.text_keys]
    q_mean, k_mean = block_means(q, plan.block_q), block_means(k, plan.block_k)
    dots = q_mean @ k_mean.mT
    text_logits = q_mean @ text.permute(0, 2, 3, 1).to(dots.dtype) * scale
    text_logits = text_logits.masked_fill(_hidden_text(plan), -torch.inf)
    share = estimate(dots * scale, text_logits, plan.counts)
    kept = critical(share, plan.least, mass)[..., :-1] | plan.always
    noise = (block_spreads(q, q_mean, plan.block_q) @ k_mean.mT).abs_()
    noise += (q_mean @ block_spreads(k, k_mean, plan.block_k).mT).abs_()
    # Scale and number of pairs are in signal and noise alike, so they cancel.
    share = share[..., :-1].masked_fill(kept | (dots.abs_() <= noise), 0.0)
    del dots, noise  # the lists need the memory
    texts = kept.new_ones(1).expand(*kept.shape[:3], _text_blocks(plan))
    kept = torch.cat([texts, kept] if plan.text_first else [kept, texts], -1)
    row_ptr, col = compact(kept, plan.entries)
    return Selection(row_ptr, col, 1 - share.sum(-1), share @ block_means(v, plan.block_k), kept)


def estimate(logits: Tensor, text_logits: Tensor, counts: Tensor) -> Tensor:
    """Estimate shares of attention, `[..., NV + 1]`: of each block of grid tokens, then of the text.

    `logits [..., NV]` are those of pooled keys. Each stands for `counts [NV]` tokens, hence the logarithm.
    `text_logits [..., T]` are those of single text keys ("isolated": averaged, they would lose their peaks).
    Without text, or if a mask hides all of it, its share is 0.
    """
    weighted = logits + counts.to(logits.dtype).log()
    text = text_logits.logsumexp(-1, keepdim=True)
    return torch.cat([weighted, text], -1).softmax(-1)


def critical(share: Tensor, least: int, mass: float | None = None) -> Tensor:
    """Mark the `least` largest columns of each row of `share [..., C]`, and more until they pass `mass`.

    The column that passes it is kept too. Among equal columns the first come first.
    """
    order = share.argsort(dim=-1, descending=True, stable=True)
    rank = torch.arange(share.shape[-1], device=share.device)
    wanted = rank < least
    if mass is not None:
        below = (share.gather(-1, order).cumsum(-1) <= mass).sum(-1, keepdim=True)
        wanted = wanted | (rank <= below)
    return torch.zeros_like(share, dtype=torch.bool).scatter(-1, order, wanted.expand_as(order))


def compact(kept: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """List the kept blocks, bool `[..., NQ, NK]`, as `row_ptr` and `col` of a `BlockPlan`.

    `entries` are the list entries of the columns. `col` has room for every block; dropped blocks go to its
    end, which no kernel reads.
    """
    ends = kept.sum(-1).cumsum(-1).int()
    flat = kept.flatten(-2)
    before = flat.cumsum(-1, dtype=torch.int32)
    number = torch.arange(flat.shape[-1], dtype=torch.int32, device=kept.device)
    behind = (number - before).add_(ends[..., -1:])
    place = torch.where(flat, before.sub_(1), behind).long()
    names = entries.repeat(kept.shape[-2]).expand_as(place)
    row_ptr = torch.nn.functional.pad(ends, (1, 0))
    return row_ptr, torch.zeros_like(place, dtype=torch.int32).scatter_(-1, place, names)


def block_means(x: Tensor, block: int) -> Tensor:
    """Average every `block` tokens of `x [B, S, H, D]`: `[B, H, ceil(S/block), D]`, fp32 (fp64 for fp64)."""
    return _over_blocks([part.mean(2, dtype=_exact(x)) for part in _blocks(x, block)])


def block_spreads(x: Tensor, mean: Tensor, block: int) -> Tensor:
    """Average `|x - mean|` over every block, by channel; `mean` and the result are as in `block_means`.

    Differences are taken in the dtype of `x`, so that half precision needs no copy of twice its size.
    """
    centres = mean.to(x.dtype).transpose(1, 2).unsqueeze(2)
    parts, first = [], 0
    for part in _blocks(x, block):
        centre = centres[:, first : first + part.shape[1]]
        parts.append((part - centre).abs().mean(2, dtype=_exact(x)))
        first += part.shape[1]
    return _over_blocks(parts)


def _blocks(x: Tensor, block: int) -> list[Tensor]:
    """Cut `x` into full blocks `[B, S // block, block, H, D]`, then the rest as a block of its own."""
    count, rest = divmod(x.shape[1], block)
    parts = [x[:, : count * block].unflatten(1, (count, block))] if count else []
    return parts + ([x[:, count * block :].unsqueeze(1)] if rest else [])


def _over_blocks(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts, 1).transpose(1, 2)


def _exact(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _hidden_text(plan: DynamicPlan) -> Tensor:
    """Mark text tokens that a mask hides: bool `[B or 1, 1, 1, T]`."""
    coords = plan.k_coord if plan.k_coord.ndim == 2 else plan.k_coord[None]
    return (coords[:, plan.text_keys] == PAD)[:, None, None]


def _text_blocks(plan: DynamicPlan) -> int:
    return -(-plan.text // plan.block_k)
