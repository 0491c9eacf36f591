"""Problems for the choice of blocks and its rectification, and how package and oracle are run on them."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusers_ext.kernels.block_sparse import api
from diffusers_ext.kernels.block_sparse.select import Selection, select
from diffusers_ext.kernels.plan.dynamic import DynamicPlan, DynamicPlanSpec

from . import published


def attend(q, k, v, candidates: DynamicPlan, mass=None, run=api.attention) -> tuple[Tensor, Selection]:
    """Output and selection, for tensors in the order of the candidates."""
    found = select(q, k, v, candidates, mass)
    plan = replace(candidates, row_ptr=found.row_ptr, col=found.col)
    return run(q, k, v, plan, gain=found.gain, bias=found.bias)[0], found


def tensors(candidates: DynamicPlan, B=2, H=2, D=8, dtype=torch.float64, seed=0) -> list[Tensor]:
    """Smooth along the sequence, so that neighbours are alike and pooling is worth something."""
    g = torch.Generator().manual_seed(seed)
    out = []
    for S in (candidates.s_q, candidates.s_kv, candidates.s_kv):
        steps = torch.randn(B, S, H, D, generator=g, dtype=torch.float64).cumsum(1)
        out.append((steps / steps.std() * 1.5).to(dtype))
    return out


def with_text_at(q: Tensor, k: Tensor, text: int, logit: float) -> tuple[Tensor, Tensor]:
    """Queries and keys whose last channel adds `logit` to all `text` keys behind, hence moves their share."""
    q, k = q.clone(), k.clone()
    q[..., -1] = q.shape[-1] ** 0.5
    k[..., -1] = 0.0
    k[:, k.shape[1] - text :, :, -1] = logit
    return q, k


def rule_of(facts: DynamicPlanSpec, mass: float | None) -> published.Rule:
    """The published rule for the same settings; nothing that is derived from them is taken over."""
    return published.Rule(
        facts.grid, facts.q_tile, facts.k_tile, facts.keep, mass, facts.touching, facts.first_frame
    )


def oracle(
    q, k, v, facts: DynamicPlanSpec, mass: float | None, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Output and kept blocks of grid tokens, for tensors in the order of the candidates with text behind."""
    n, words = q.shape[1], k.shape[1] - facts.text
    return published.attend(rule_of(facts, mass), q, k[:, :n], v[:, :n], k[:, words:], v[:, words:], seen)


def constant_in_blocks(x: Tensor, block: int, tokens: int) -> Tensor:
    """The first token of every block in all places of the block, for the first `tokens` tokens."""
    place = torch.arange(x.shape[1])
    return x[:, torch.where(place < tokens, place // block * block, place)]


def dense(q: Tensor, k: Tensor, v: Tensor, candidates: DynamicPlan) -> Tensor:
    """Attention over all keys but the padding."""
    real = candidates.k_coord != -2
    q, k, v = (x.transpose(1, 2) for x in (q, k[:, real], v[:, real]))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
