"""Plans of the queries of one strip, against the rows of the plan of the full picture."""

import pytest
import torch

from diffusers_ext.kernels import geometry
from diffusers_ext.kernels.block_sparse import reference
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.parallel.strips import StripPlanSpec, cut

from ..kernels import oracles


@pytest.mark.parametrize(("rows", "strips"), [(6, 2), (7, 3), (5, 5), (1, 1), (64, 8)])
def test_strips_follow_each_other_and_are_alike(rows, strips):
    found = cut(rows, strips)
    assert [row for first, last in found for row in range(first, last)] == list(range(rows))
    heights = {last - first for first, last in found}
    assert len(found) == strips and max(heights) - min(heights) <= 1


@pytest.mark.parametrize("strips", [0, 6])
def test_as_many_strips_as_rows_at_most(strips):
    with pytest.raises(ValueError, match=f"5 rows of tokens is cut into 1 to 5 strips, got {strips}"):
        cut(5, strips)


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize(("rows", "width", "first", "last"), [(9, 11, 2, 7), (23, 17, 0, 12), (5, 40, 4, 5)])
@pytest.mark.parametrize(("text", "text_keys"), [(0, True), (3, True), (3, False)])
def test_queries_of_a_strip_see_what_they_see_in_the_picture(rows, width, first, last, pad, text, text_keys):
    grid, tile = (1, rows, width), (1, 8, 16)
    recipe = StripPlanSpec(
        Disk(4), grid, text, q_tile=tile, k_tile=tile, pad=pad, text_rows=False,
        first=first, last=last, text_keys=text_keys,
    )  # fmt: skip
    plan, n, extra = recipe.build(), rows * width, text if text_keys else 0
    q, k, v = torch.randn(3, 1, n + text, 2, 8, generator=torch.Generator().manual_seed(0))
    keys = torch.cat([recipe.k_order.clamp(min=0), torch.arange(n, n + extra)])
    out, _ = reference.attention(q[:, recipe.q_order.clamp(min=0)], k[:, keys], v[:, keys], plan)
    order = torch.where(recipe.q_order < 0, -1, recipe.q_order - first * width)
    got = out[:, geometry.inverse(order)]
    seen = torch.ones(n, n + extra, dtype=torch.bool)
    seen[:, :n] = oracles.disk(grid, 4)
    mine = seen[first * width : last * width]
    logits = torch.einsum("bnhd,bmhd->bhnm", q[:, first * width : last * width], k[:, : n + extra]) * 8**-0.5
    weights = logits.masked_fill(~mine, -torch.inf).softmax(-1)
    torch.testing.assert_close(got, torch.einsum("bhnm,bmhd->bnhd", weights, v[:, : n + extra]))
    assert plan.pairs == int(mine.sum())


def test_text_queries_alone():
    recipe = StripPlanSpec(Disk(2), (1, 3, 5), 4, text_rows=True, text_keys=False)
    plan = recipe.build()
    assert (plan.s_q, plan.s_kv, plan.pairs) == (4, 15, 60)
    q, k, v = torch.randn(1, 4, 1, 8), torch.randn(1, 15, 1, 8), torch.randn(1, 15, 1, 8)
    weights = (torch.einsum("bnhd,bmhd->bhnm", q, k) * 8**-0.5).softmax(-1)
    torch.testing.assert_close(
        reference.attention(q, k, v, plan)[0], torch.einsum("bhnm,bmhd->bnhd", weights, v)
    )
