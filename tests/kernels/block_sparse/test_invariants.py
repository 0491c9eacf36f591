"""Some facts hold for all rules and numbers: symmetry, order of tokens, independent parts."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from diffusers_ext.kernels import geometry
from diffusers_ext.kernels.block_sparse.reference import attention
from diffusers_ext.kernels.masks.band import Band, release_reach
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.masks.window import Window
from diffusers_ext.kernels.plan.spec import RulePlanSpec

from ...close import close


def tensors(tokens, dtype=torch.float64):
    generator = torch.Generator().manual_seed(tokens)
    return [
        torch.randn(2, tokens, 2, 16, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)
    ]


def sdpa(q, k, v):
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


@pytest.mark.parametrize(
    "rule, grid",
    [
        (Disk(4), (1, 13, 18)),
        (Window((3, 7, 10), (2, 4, 5), (1, 2, 3)), (3, 7, 10)),
        (Band(release_reach(6, 35, 0.3, 8), 7, 1), (6, 5, 7)),
    ],
)
@pytest.mark.parametrize("pad", [False, True])
def test_tile_major_order_gives_what_raster_order_gives(rule, grid, pad):
    tokens = grid[0] * grid[1] * grid[2]
    q, k, v = tensors(tokens, torch.float32)
    wanted, _ = attention(q, k, v, RulePlanSpec(rule, grid, block_q=16, block_k=16).build())
    spec = RulePlanSpec(rule, grid, 0, 16, 8, (1, 4, 4), (1, 2, 4), pad)
    order, keys = spec.q_order.clamp(min=0), spec.k_order.clamp(min=0)
    out, _ = attention(q[:, order], k[:, keys], v[:, keys], spec.build())
    close(out[:, geometry.inverse(spec.q_order)], wanted)


def test_a_transposed_image_gives_the_transposed_output():
    h, w = 9, 14
    q, k, v = tensors(h * w)
    turned = torch.arange(h * w).view(h, w).T.flatten()
    wanted, _ = attention(q, k, v, RulePlanSpec(Disk(4), (1, h, w), block_q=16, block_k=16).build())
    plan = RulePlanSpec(Disk(4), (1, w, h), block_q=16, block_k=16).build()
    close(attention(*(x[:, turned] for x in (q, k, v)), plan)[0], wanted[:, turned])


def test_a_stride_of_the_window_is_attention_in_blocks():
    grid, window = (2, 6, 8), (2, 3, 4)
    q, k, v = tensors(96)
    out, _ = attention(
        q, k, v, RulePlanSpec(Window(grid, window, window), grid, block_q=16, block_k=16).build()
    )
    number = torch.arange(96).view(grid)
    for i, j in itertools.product(range(2), range(2)):
        part = number[:, 3 * i : 3 * i + 3, 4 * j : 4 * j + 4].flatten()
        close(out[:, part], sdpa(q[:, part], k[:, part], v[:, part]))


def test_dilation_is_independent_attention_in_every_group():
    grid, window, stride, dilation = (1, 7, 10), (1, 3, 3), (1, 2, 1), (1, 2, 3)
    q, k, v = tensors(70)
    spec = RulePlanSpec(Window(grid, window, stride, dilation), grid, block_q=16, block_k=16)
    out, _ = attention(q, k, v, spec.build())
    number = torch.arange(70).view(7, 10)
    for i, j in itertools.product(range(2), range(3)):
        part = number[i::2, j::3]
        inside = (1, *part.shape)
        plan = RulePlanSpec(Window(inside, window, stride), inside, block_q=16, block_k=16).build()
        part = part.flatten()
        close(out[:, part], attention(q[:, part], k[:, part], v[:, part], plan)[0])
