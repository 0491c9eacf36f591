"""Swin transformer without its classifier, with the names of parameters that published NPNet files use.

Paper: Liu et al., "Swin Transformer" (arXiv 2103.14030), equations 3 and 4. Parameters are named as in timm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKED = -100.0  # added to the scores of tokens that a shift put side by side


class Swin(nn.Module):
    """Turn pictures `[B, 3, size, size]` into a map of features `[B, side, side, last width]`, channels last.

    `side` is `size / patch`, halved between stages. Windows are cut down to the map where it is smaller, and
    they are not shifted then. Raises `ValueError` if a map is not divisible.
    """

    def __init__(
        self, size: int, patch: int, window: int, width: int, depths: Sequence[int], heads: Sequence[int]
    ):
        super().__init__()
        if size % (patch << (len(depths) - 1)) or len(heads) != len(depths):
            raise ValueError(
                f"a Swin of {len(depths)} stages needs as many numbers of heads and a size divisible by "
                f"{patch << (len(depths) - 1)}, got {list(heads)} and {size}; change swin_size or swin_depths"
            )
        self.patch_embed = PatchEmbed(patch, width)
        side, stages = size // patch, []
        for i, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            side //= 2 if i else 1
            stages.append(Stage(width << i, side, depth, count, window, merge=i > 0))
        self.layers = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(width << (len(depths) - 1))
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalised features of the last stage."""
        x = self.patch_embed(images)
        for stage in self.layers:
            x = stage(x)
        return self.norm(x)


class PatchEmbed(nn.Module):
    """Embed patches; the result `[B, H, W, C]` has its channels last, as all that follows."""

    def __init__(self, patch: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        """Return `[B, H / patch, W / patch, C]`."""
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class Merge(nn.Module):
    """Merge squares of four tokens `[B, H, W, C]` into one of twice the width."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[B, H / 2, W / 2, 2 C]`."""
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class Stage(nn.Module):
    """Run the blocks of one resolution, after a merge where it is not the first."""

    def __init__(self, width: int, side: int, depth: int, heads: int, window: int, merge: bool):
        super().__init__()
        if side > window and side % window:
            raise ValueError(
                f"a window of a Swin must divide the sides of its maps, got a window of {window} on "
                f"{side} x {side} tokens; change swin_window or swin_size"
            )
        self.downsample = Merge(width // 2) if merge else nn.Identity()
        window = min(window, side)
        shifts = [0 if i % 2 == 0 or window == side else window // 2 for i in range(depth)]
        self.blocks = nn.Sequential(*(Block(width, side, heads, window, shift) for shift in shifts))

    def forward(self, x: Tensor) -> Tensor:
        """Return the map at this resolution."""
        return self.blocks(self.downsample(x))


class Block(nn.Module):
    """Apply attention inside windows, then a multilayer perceptron (equation 3)."""

    def __init__(self, width: int, side: int, heads: int, window: int, shift: int):
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        mask = shift_mask(side, window, shift) if shift else None
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[B, H, W, C]` of the same shape."""
        inside = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
        windows = split(inside, self.window)
        made = join(self.attn(windows, self.mask), self.window, x.shape)
        x = x + torch.roll(made, (self.shift, self.shift), (1, 2))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class WindowAttention(nn.Module):
    """Compute attention in windows with a learned bias for each offset of two tokens (equation 4)."""

    def __init__(self, width: int, heads: int, window: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("offsets", offsets(window), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows `[B, windows, tokens, C]`; `mask [windows, tokens, tokens]` is added."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.offsets].permute(2, 0, 1)
        if mask is not None:
            bias = bias + mask[:, None].to(bias.dtype)
        bias = bias.expand(x.shape[1], -1, -1, -1).to(q.dtype)
        return self.proj(F.scaled_dot_product_attention(q, k, v, bias).transpose(2, 3).flatten(3))


def split(x: Tensor, window: int) -> Tensor:
    """Cut `[B, H, W, C]` into windows `[B, windows, tokens, C]`, both in raster order."""
    b, h, w, c = x.shape
    cells = x.view(b, h // window, window, w // window, window, c).transpose(2, 3)
    return cells.reshape(b, -1, window * window, c)


def join(windows: Tensor, window: int, shape: Sequence[int]) -> Tensor:
    """Put windows back together; the inverse of `split` for maps of `shape`."""
    b, h, w, c = shape
    cells = windows.view(b, h // window, w // window, window, window, c).transpose(2, 3)
    return cells.reshape(b, h, w, c)


def offsets(window: int) -> Tensor:
    """Return the row of the table of biases for each pair of tokens `[tokens, tokens]`."""
    place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    row, column = place[:, :, None] - place[:, None] + window - 1
    return row * (2 * window - 1) + column


def shift_mask(side: int, window: int, shift: int) -> Tensor:
    """Return what is added to scores `[windows, tokens, tokens]`, so that tokens see their neighbours only.

    A shift puts tokens of opposite edges into one window.
    """
    at = torch.arange(side)
    region = (at >= side - window).int() + (at >= side - shift).int()
    regions = split((3 * region[:, None] + region)[None, :, :, None], window)[0, :, :, 0]
    return (regions[:, None] != regions[:, :, None]) * BLOCKED
