"""Change the singular values of noise and keep its singular vectors: one branch of NPNet.

Paper: Zhou et al., "Golden Noise for Diffusion Models" (arXiv 2411.09502), singular value predictor.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIGNS = ("raw", "canonical")


class SingularValues(nn.Module):
    """Predict new singular values `s + f(U, s, V)` of folded noise.

    Noise `[B, (a c), h, w]` is folded to one matrix `[(a h), (c w)]`. U, s and V are data, so no gradient
    goes through the decomposition. It runs in float32. `attention` False leaves the attention out, which is
    how the published trainer for SDXL calls it. `sign` "canonical" makes the largest entry of each left
    vector positive. Libraries return either sign, so "raw" results depend on the device.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        fold: tuple[int, int],
        hidden: int,
        last_hidden: int,
        heads: int,
        attention: bool,
        sign: str,
    ):
        super().__init__()
        channels, height, width = shape
        if fold[0] * fold[1] != channels:
            raise ValueError(
                f"the fold of an NPNet must multiply to its {channels} channels, got {tuple(fold)}; choose "
                "two numbers that do"
            )
        if sign not in SIGNS:
            raise ValueError(f"svd_sign is one of {', '.join(SIGNS)}, got {sign!r}; choose one of them")
        self.fold, self.use_attention, self.sign = tuple(fold), attention, sign
        rows, columns = fold[0] * height, fold[1] * width
        rank = min(rows, columns)
        self.mlp1 = perceptron(rows, hidden, rank)
        self.mlp2 = perceptron(columns, hidden, rank)
        self.mlp3 = nn.Sequential(nn.Linear(rank, rank))
        self.mlp4 = perceptron(rank, last_hidden, rank)
        self.attention = SelfAttention(rank, heads)
        for parameter in self.mlp4[2].parameters():  # a new network returns its input
            nn.init.zeros_(parameter)

    def forward(self, noise: Tensor) -> Tensor:
        """Return noise `[B, C, h, w]` with new singular values, in float32."""
        u, s, vh = self.decompose(noise)
        dtype = self.mlp3[0].weight.dtype
        z = self.mlp1(u.mT.to(dtype)) + self.mlp2(vh.to(dtype)) + self.mlp3(s.to(dtype))[:, None]
        z = self.mlp4(self.attention(z).mean(1)) if self.use_attention else self.mlp4(z).mean(1)
        return self.unfolded((u * (s + z.float())[:, None]) @ vh, noise.shape)

    @torch.no_grad()
    def decompose(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return U `[B, rows, rank]`, s `[B, rank]` and Vh `[B, rank, columns]` of folded noise."""
        u, s, vh = torch.linalg.svd(self.folded(noise.float()), full_matrices=False)
        if self.sign == "canonical":
            largest = u.abs().argmax(1, keepdim=True)
            flip = torch.where(u.gather(1, largest) < 0, -1.0, 1.0)
            u, vh = u * flip, vh * flip.mT
        return u, s, vh

    def folded(self, noise: Tensor) -> Tensor:
        """Fold `[B, (a c), h, w]` to `[B, (a h), (c w)]`."""
        return noise.unflatten(1, self.fold).permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)

    def unfolded(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Undo `folded` for noise of `shape`."""
        b, _, h, w = shape
        a, c = self.fold
        return matrix.view(b, a, h, c, w).transpose(2, 3).reshape(shape)


class SelfAttention(nn.Module):
    """Apply self-attention to `[B, N, width]`, without norm and without a residual connection."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(
                f"the {width} singular values of an NPNet must split into its heads, got {heads}; choose "
                "another svd_heads"
            )
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[B, N, width]`."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def perceptron(width: int, hidden: int, out: int) -> nn.Sequential:
    """Build two layers with a ReLU between them."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))
