"""Rectified sparse attention told as the paper tells it, block by block over lists of tokens, in fp64. Shares
no arithmetic with the package.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusers_ext.kernels.block_sparse import ops
from diffusers_ext.kernels.block_sparse.select import Selection, select
from diffusers_ext.kernels.candidates import Candidates, Shortlist


def attend(q, k, v, shortlist: Shortlist, mass=None, run=ops.attention) -> tuple[Tensor, Selection]:
    """Output and selection, for tensors in the order of the shortlist."""
    found = select(q, k, v, shortlist, mass)
    plan = replace(shortlist, row_ptr=found.row_ptr, col=found.col)
    return run(q, k, v, plan, gain=found.gain, bias=found.bias)[0], found


def tensors(shortlist: Shortlist, B=2, H=2, D=8, dtype=torch.float64, seed=0) -> list[Tensor]:
    """Smooth along the sequence, so that neighbours are alike and pooling is worth something."""
    g = torch.Generator().manual_seed(seed)
    out = []
    for S in (shortlist.s_q, shortlist.s_kv, shortlist.s_kv):
        steps = torch.randn(B, S, H, D, generator=g, dtype=torch.float64).cumsum(1)
        out.append((steps / steps.std() * 1.5).to(dtype))
    return out


def constant_in_blocks(x: Tensor, block: int, tokens: int) -> Tensor:
    """The first token of every block in all places of the block, for the first `tokens` tokens."""
    place = torch.arange(x.shape[1])
    return x[:, torch.where(place < tokens, place // block * block, place)]


def dense(q: Tensor, k: Tensor, v: Tensor, shortlist: Shortlist) -> Tensor:
    """Attention over all keys but the padding."""
    real = shortlist.k_coord != -2
    q, k, v = (x.transpose(1, 2) for x in (q, k[:, real], v[:, real]))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def oracle(q, k, v, facts: Candidates, mass: float | None) -> tuple[Tensor, Tensor]:
    """Output `[B, S_q, H, D]` and kept blocks of grid tokens `[B, H, NQ, NV]`."""
    n, text = facts.tokens, facts.text
    q_blocks = torch.arange(n).split(facts.block_q)
    k_blocks = torch.arange(n).split(facts.block_k)
    words = torch.arange(k.shape[1] - text, k.shape[1])
    out = torch.empty_like(q)
    kept = torch.zeros(q.shape[0], q.shape[2], len(q_blocks), len(k_blocks), dtype=torch.bool)
    for b, h in torch.cartesian_prod(torch.arange(q.shape[0]), torch.arange(q.shape[2])).tolist():
        for i, rows in enumerate(q_blocks):
            always = facts.always[i].nonzero().flatten().tolist()
            out[b, rows, h], chosen = _row(
                q[b, rows, h], k[b, :, h], v[b, :, h], k_blocks, words, facts.least, mass, always
            )
            kept[b, h, i, sorted(chosen)] = True
    return out, kept


def _row(q, k, v, k_blocks, words, least, mass, always):
    """One block of queries `[n, D]` against keys and values `[S, D]`."""
    scale = 1 / math.sqrt(q.shape[1])
    centre = q.mean(0)
    centres = [k[block].mean(0) for block in k_blocks]
    weights = [len(block) * math.exp(centre @ c * scale) for block, c in zip(k_blocks, centres, strict=True)]
    whole = sum(weights) + sum(math.exp(centre @ k[word] * scale) for word in words)
    share = [w / whole for w in weights]

    best = sorted(range(len(share)), key=lambda j: -share[j])
    count, total = 0, 0.0
    while mass is not None and count < len(best) and total + share[best[count]] <= mass:
        total += share[best[count]]
        count += 1
    chosen = set(best[: max(count + 1 if mass is not None else 0, least)]) | set(always)

    off = (q - centre).abs().mean(0)
    pooled = []
    for j in set(best) - chosen:
        error = abs(off @ centres[j]) + abs(centre @ (k[k_blocks[j]] - centres[j]).abs().mean(0))
        if abs(centre @ centres[j]) > error:
            pooled.append(j)
    keys = torch.cat([k_blocks[j] for j in sorted(chosen)] + [words])
    sparse = (q @ k[keys].T * scale).softmax(-1) @ v[keys]
    rest = sum((share[j] * v[k_blocks[j]].mean(0) for j in pooled), torch.zeros_like(centre))
    return (1 - sum(share[j] for j in pooled)) * sparse + rest, chosen
