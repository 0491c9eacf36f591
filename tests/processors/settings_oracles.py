"""Compute what settings of methods mean, without the package: attention by explicit masks and maps."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import oracles
from .masked import Instead
from .sparse.test_pooled import cell_sums

Grid = tuple[int, int, int]
IMAGE_TILE, VIDEO_TILE = (1, 8, 16), (2, 8, 8)


def joint(text: int, grid: Grid, mask: Tensor, cells: int = 0) -> Callable[..., Instead]:
    """Attention of `text` tokens in front of a grid, with a mask among the tokens of the grid."""
    tokens = math.prod(grid)
    whole = torch.ones(text + tokens, text + tokens + cells, dtype=torch.bool)
    whole[text:, text : text + tokens] = mask
    whole[:text, text + tokens :] = False

    def attend(q: Tensor, k: Tensor, v: Tensor, more: Callable[[Tensor], Tensor], scale: float) -> Tensor:
        assert q.shape[1] == text + tokens, "the size of the call is not that of the oracle"
        k, v = (torch.cat([x, more(x[:, text:])], 1) if cells else x for x in (k, v))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=whole, scale=scale).transpose(1, 2)

    return attend


def clear(grid: Grid, text: int, weight: Tensor | None, settings: dict[str, Any]) -> Instead:
    """CLEAR; `weight [edge, edge]` is what the file of weights holds for every module."""
    mask, edge = oracles.disk(grid, settings["radius"]), settings.get("downsample", 0)
    if settings.get("reduce") == "block":
        mask = oracles.whole_tiles(mask, grid, IMAGE_TILE)
    sums = torch.full((edge, edge), 1 / edge**2) if edge and not settings.get("weights") else weight
    attend = joint(text, grid, mask, math.prod(grid) // edge**2 if edge else 0)
    sequence, train = math.prod(grid) + text, settings.get("train_tokens")
    longer = math.log(sequence) / math.log(train) if train and train < sequence else 1.0
    return Instead(
        lambda q, k, v, mask, layout: attend(
            q, k, v, lambda x: cell_sums(x, grid, edge, sums), math.sqrt(longer / q.shape[-1])
        )
    )


def gna(grid: Grid, text: int, weight: None, settings: dict[str, Any]) -> Instead:
    """GNA."""
    axes = ((1, *settings.get(name, (1, 1))) for name in ("window", "stride", "dilation"))
    mask = oracles.box(grid, *axes)
    if settings.get("reduce") == "block":
        mask = oracles.whole_tiles(mask, grid, IMAGE_TILE)
    attend = joint(text, grid, mask)
    return Instead(lambda q, k, v, mask, layout: attend(q, k, v, None, q.shape[-1] ** -0.5))


def radial(grid: Grid, text: int, weight: None, settings: dict[str, Any]) -> Instead:
    """Radial."""
    sink, block = settings["sink_frames"], settings["block"]
    if settings.get("mode") == "paper":
        mask = oracles.radial_paper(grid, sink)
    else:
        mask = oracles.radial_release(grid, settings.get("decay", 1.0), sink, block)
    if settings.get("reduce") == "block":
        kept = oracles.strict(mask, grid[0], grid[1] * grid[2], block)
        mask = kept.repeat_interleave(block, 0).repeat_interleave(block, 1)[: len(mask), : len(mask)]
    attend = joint(text, grid, mask)
    return Instead(lambda q, k, v, mask, layout: attend(q, k, v, None, q.shape[-1] ** -0.5))


def perturbed_map(a: Tensor, image: slice, heads: list[int], strength: float, scope: str) -> Tensor:
    """`A [B, H, S, S]` of a joint sequence -> that of the perturbed pass of SoftPAG."""
    size = a.shape[-1]
    own = torch.eye(size, dtype=a.dtype)
    if scope == "image_block":
        seen = torch.ones(size, size, dtype=torch.bool)
        seen[image, image] = own[image, image].bool()
        own = a.log().masked_fill(~seen, -math.inf).softmax(-1)
    else:
        own = own.expand_as(a)
    rows = slice(None) if scope == "all" else image
    out = a.clone()
    out[:, heads, rows] = (1 - strength) * a[:, heads, rows] + strength * own[:, heads, rows]
    return out


def other_map(
    a: Tensor, image: slice, mode: str, temperature: float | None = None, places: Tensor | None = None
) -> Tensor:
    """`A [B, H, S, S]` -> the map of a perturbation on the rows `image`, of strength 1.

    It uses nothing but A: logits are known up to a number for each row, which no softmax needs.
    """
    size = a.shape[-1]
    seen = a.sum(-2, keepdim=True) > 0  # a key that no query sees is padding
    if mode == "identity":
        other = torch.eye(size, dtype=a.dtype).expand_as(a)
    elif mode == "uniform":
        other = (seen / seen.sum(-1, keepdim=True)).to(a.dtype).expand_as(a)
    elif mode == "segment_mean":
        some = torch.zeros_like(seen[..., 0, :])
        some[..., image] = seen[..., 0, image]
        logits = torch.where(some[..., None], a.log(), 0).sum(-2, keepdim=True)
        other = (logits / some.sum(-1)[..., None, None]).softmax(-1).expand_as(a)
    elif mode == "max":
        other = F.one_hot(a.argmax(-1), size).to(a.dtype)
    elif mode == "temperature":
        other = (a.log() / temperature).softmax(-1)
    else:
        other = a[:, :, places[:size]]
    out = a.clone()
    out[:, :, image] = other[:, :, image]
    return out
