"""Choice of blocks and rectification: against the published rule, hand-made cases, invariants."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from diffusers_ext.kernels.block_sparse import api, reference
from diffusers_ext.kernels.block_sparse import select as module
from diffusers_ext.kernels.block_sparse.select import (
    block_means,
    block_spreads,
    compact,
    critical,
    estimate,
    select,
)
from diffusers_ext.kernels.geometry import PAD
from diffusers_ext.kernels.plan.dynamic import DynamicPlanSpec

from ...close import close
from .rectified import attend, constant_in_blocks, dense, oracle, tensors, with_text_at

FACTS = DynamicPlanSpec((3, 5, 7), 9, (2, 2, 4), (1, 2, 4), 0.25, touching=False)  # 105 tokens, text apart
MASS = 0.4


@st.composite
def cases(draw):
    grid = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 7))
    tiles = st.sampled_from([(1, 2, 2), (1, 4, 2), (2, 2, 2), (1, 1, 16)])
    keep, mass = draw(st.sampled_from([0.0, 0.2, 0.5, 1.0])), draw(st.sampled_from([None, 0.1, 0.5, 0.9]))
    text, near, first = draw(st.integers(0, 9)), draw(st.booleans()), draw(st.booleans())
    return (
        DynamicPlanSpec(grid, text, draw(tiles), draw(tiles), keep, near, first),
        mass,
        draw(st.integers(0, 99)),
    )


TEXT_AT = st.sampled_from([-20.0, -2.0, 0.0, 1.0, 3.0, 20.0])  # logits of the text over those of the grid


@settings(max_examples=30, deadline=None)
@given(cases(), TEXT_AT)
def test_any_size_against_the_published_rule_token_by_token(case, logit):
    facts, mass, seed = case
    candidates = facts.build()
    q, k, v = tensors(candidates, B=1, seed=seed)
    q, k = with_text_at(q, k, facts.text, logit)
    out, found = attend(q, k, v, candidates, mass)
    wanted, kept = oracle(q, k, v, facts, mass)
    assert torch.equal(found.kept[..., : kept.shape[-1]], kept)
    close(out, wanted)


@settings(max_examples=20, deadline=None)
@given(cases())
def test_blocks_of_equal_tokens_give_dense_attention_whatever_is_kept(case):
    facts, mass, seed = case
    candidates = facts.build()
    q, k, v = tensors(candidates, B=1, seed=seed)
    q = constant_in_blocks(q, facts.block_q, facts.grid_tokens)
    k = constant_in_blocks(k, facts.block_k, facts.grid_tokens)
    out, _ = attend(q, k, v, candidates, mass)
    close(out, dense(q, k, v, candidates))


LAYOUTS = {  # grid, text, whether it comes first, how much of it a mask hides
    "text behind": ((3, 4, 5), 9, False, 0),
    "text behind a ragged block": ((3, 5, 7), 9, False, 0),
    "text in front": ((3, 4, 5), 16, True, 0),
    "text in front of a ragged block": ((3, 5, 7), 16, True, 0),
    "no text": ((3, 5, 7), 0, False, 0),
    "masked text": ((3, 5, 7), 9, False, 5),
    "masked text in front": ((3, 5, 7), 16, True, 11),
    "hidden text": ((3, 5, 7), 9, False, 9),
}


LOGITS = [-3.0, 1.0, 4.0]  # the text holds a hundredth to nearly all
SHARES = [(0.25, None), (0.0, 0.3), (0.25, 0.5)]
# Each layout meets each logit and each way to choose, and each of these meet on some layouts.
RANKED = [
    (layout, *share, LOGITS[(i + j) % 3])
    for i, layout in enumerate(LAYOUTS)
    for j, share in enumerate(SHARES)
]


@pytest.mark.parametrize("layout, keep, mass, logit", RANKED)
def test_text_is_ranked_among_the_blocks(layout, keep, mass, logit):
    grid, text, front, hidden = LAYOUTS[layout]
    facts = DynamicPlanSpec(grid, text, (2, 2, 2), (2, 2, 2), keep, False, False, False, hidden > 0)
    behind = facts.build()
    q, k, v = tensors(behind, H=1)
    q, k = with_text_at(q, k, text, logit)
    seen = torch.arange(text).expand(2, -1) >= torch.tensor([[hidden], [0]])
    wanted, kept = oracle(q, k, v, facts, mass, seen)
    candidates = facts.leading().build() if front else behind
    if front:
        k, v = (torch.cat([x[:, x.shape[1] - text :], x[:, : facts.grid_tokens]], 1) for x in (k, v))
    every = torch.ones(2, candidates.s_kv, dtype=torch.bool)
    every[:, candidates.text_keys] = seen
    candidates = replace(candidates, k_coord=candidates.k_coord.masked_fill(~every, PAD))
    out, found = attend(q, k, v, candidates, mass)
    assert torch.equal(found.kept[..., candidates.grid_blocks], kept) and not kept.all()
    close(out, wanted)


@pytest.mark.parametrize("share", [0.1, 0.46, 0.7, 0.95])
def test_text_that_holds_much_leaves_fewer_blocks_and_never_more(share):
    """HunyuanVideo's preset on a small grid of 40 blocks, 8 columns a row: at most one less for the text."""
    facts = DynamicPlanSpec((2, 20, 32), 64, (2, 4, 4), (2, 4, 4), 0.2, touching=False, text_rows=False)
    candidates = facts.build()
    q, k, v = (torch.randn(1, n, 1, 16, generator=torch.Generator().manual_seed(0)).double() / 4
               for n in (candidates.s_q, candidates.s_kv, candidates.s_kv))  # fmt: skip
    q, k = with_text_at(q, k, 64, math.log(share / (1 - share) * facts.grid_tokens / 64))
    found = select(q, k, v, candidates, 0.3)
    _, kept = oracle(q, k, v, facts, 0.3)
    ran = found.kept[..., candidates.grid_blocks]
    assert torch.equal(ran, kept)
    assert set(ran.sum(-1).flatten().tolist()) == {7} if share > 0.2 else min(ran.sum(-1).flatten()) >= 7


def test_estimate_by_hand():
    """Equal logits: shares go by tokens, 4 + 4 + 2 in blocks and 2 of text."""
    share = estimate(torch.zeros(3), torch.zeros(2), torch.tensor([4, 4, 2]))
    torch.testing.assert_close(share, torch.tensor([4.0, 4.0, 2.0, 2.0]) / 12)
    share = estimate(torch.tensor([2.0]).log(), torch.tensor([3.0]).log(), torch.tensor([5]))
    torch.testing.assert_close(share, torch.tensor([10 / 13, 3 / 13]))
    for none in (torch.empty(0), torch.tensor([-torch.inf])):
        share = estimate(torch.zeros(2), none, torch.tensor([3, 1]))
        torch.testing.assert_close(share[:2], torch.tensor([0.75, 0.25]))
        assert share[2] == 0


@pytest.mark.parametrize(
    "least, mass, kept",
    [
        (1, None, [1]), (2, None, [0, 1]), (3, None, [0, 1, 3]), (9, None, [0, 1, 2, 3]),
        (1, 0.25, [1]),  # the first passes it alone
        (1, 0.5, [0, 1]),  # what holds exactly the share is still followed by one more, as in the release
        (1, 0.75, [0, 1, 3]), (1, 0.7, [0, 1]), (3, 0.25, [0, 1, 3]), (1, 1.0, [0, 1, 2, 3]),
    ],
)  # fmt: skip
def test_critical_by_hand(least, mass, kept):
    found = critical(torch.tensor([0.25, 0.5, 0.0625, 0.125]), least, mass)
    assert found.nonzero().flatten().tolist() == kept


def test_text_that_holds_enough_adds_no_block():
    """The last column, the text, holds 0.72: it passes 0.3 alone, and with one of eight blocks it is two."""
    share = torch.tensor([0.05, 0.05, 0.04, 0.04, 0.03, 0.03, 0.02, 0.02, 0.72])
    assert critical(share, 2, 0.3).nonzero().flatten().tolist() == [0, 8]


def test_of_equal_blocks_the_first_are_kept():
    assert critical(torch.full((2, 5), 0.2), 2).tolist() == [[True, True, False, False, False]] * 2


def test_compact_by_hand():
    kept = torch.tensor([[[1, 0, 1], [0, 0, 1]], [[1, 1, 1], [0, 1, 0]]]).bool()
    row_ptr, col = compact(kept, torch.tensor([1, 3, 4], dtype=torch.int32))
    assert row_ptr.tolist() == [[0, 2, 3], [0, 3, 4]]
    assert [x[:n].tolist() for x, n in zip(col, (3, 4), strict=True)] == [[1, 4, 4], [1, 3, 4, 3]]
    assert row_ptr.dtype == col.dtype == torch.int32 and col.shape == (2, 6) and col.is_contiguous()


def test_shares_of_grid_and_text_are_one():
    counts = FACTS.build().counts
    logits = torch.randn(2, 3, 14, dtype=torch.float64)
    for text in (torch.randn(2, 3, 5, dtype=torch.float64), logits.new_empty(2, 3, 0)):
        close(estimate(logits, text, counts).sum(-1), torch.ones(2, 3, dtype=torch.float64))
        # single keys in place of blocks are their own means, so the estimate is the map itself
        exact = torch.cat([logits, text], -1).softmax(-1)
        exact = torch.cat([exact[..., :14], exact[..., 14:].sum(-1, keepdim=True)], -1)
        close(estimate(logits, text, torch.ones(14)), exact)


@pytest.mark.parametrize("facts, mass", [
    (DynamicPlanSpec((3, 5, 7), 9, (2, 2, 4), (1, 2, 4), 1.0), None),
    (DynamicPlanSpec((3, 5, 7), 0, (2, 2, 4), (1, 2, 4), 0.0), 1.0),
    (DynamicPlanSpec((1, 2, 3), 4, (1, 2, 4), (1, 2, 4), 0.1), None),  # a single block
])  # fmt: skip
def test_keeping_all_is_dense_attention_without_rectification(facts, mass):
    """Equal lists without gain and bias give equal bits; one list for all heads adds in another order."""
    candidates = facts.build()
    q, k, v = tensors(candidates, dtype=torch.float32)
    out, found = attend(q, k, v, candidates, mass)
    assert bool(found.kept.all()) and bool((found.gain == 1).all()) and not found.bias.any()
    lists = replace(candidates, row_ptr=found.row_ptr, col=found.col)
    assert torch.equal(out, api.attention(q, k, v, lists)[0])
    close(out, reference.attention(q, k, v, candidates)[0])
    close(out, dense(q, k, v, candidates))


def test_scaled_values_scale_the_output():
    candidates = FACTS.build()
    q, k, v = tensors(candidates)
    assert torch.equal(attend(q, k, -4 * v, candidates, MASS)[0], -4 * attend(q, k, v, candidates, MASS)[0])


def test_gain_is_between_the_share_of_text_and_one():
    candidates = FACTS.build()
    for seed in range(5):
        q, k, v = tensors(candidates, seed=seed)
        gain = select(q, k, v, candidates).gain
        text_share = estimate_of(q, k, candidates)[..., -1]
        assert bool((gain > 0).all()) and bool((gain <= 1).all()) and bool((gain < 0.9).any())
        assert bool((gain >= text_share - 1e-15).all())


def estimate_of(q, k, candidates):
    """The estimate that `select` starts from."""
    q, text = block_means(q, candidates.block_q), k[:, -candidates.text :].permute(0, 2, 3, 1)
    k = block_means(k[:, : candidates.s_q], candidates.block_k)
    scale = q.shape[-1] ** -0.5
    return estimate(q @ k.mT * scale, q @ text * scale, candidates.counts)


def test_queries_without_a_mean_trust_no_pooled_block():
    """Opposite tokens cancel: the estimate says nothing, so the output is plain sparse attention."""
    candidates = FACTS.build()
    q, k, v = tensors(candidates)
    q = q[:, :1] * (-1.0) ** torch.arange(candidates.s_q)[:, None, None]
    q[:, 96:] = 0.0  # the last block has an odd number of tokens
    _, found = attend(q, k, v, candidates)
    assert bool((found.gain == 1).all()) and not found.bias.any() and not found.kept.all()


def test_order_inside_a_block_does_not_matter():
    candidates = FACTS.build()
    q, k, v = tensors(candidates)
    turned_q = torch.cat([x.flip(0) for x in torch.arange(105).split(FACTS.block_q)])
    turned_k = torch.cat([x.flip(0) for x in torch.arange(105).split(FACTS.block_k)])
    turned_k = torch.cat([turned_k, torch.arange(105, k.shape[1])])
    wanted, _ = attend(q, k, v, candidates, MASS)
    close(attend(q[:, turned_q], k[:, turned_k], v[:, turned_k], candidates, MASS)[0], wanted[:, turned_q])


def test_text_that_a_mask_hides_counts_for_nothing():
    """Row 0 of the batch has four text tokens, row 1 none: each equals a run of its own with as many."""
    hidden = DynamicPlanSpec((3, 5, 7), 9, (2, 2, 4), (1, 2, 4), 0.25, masked_text=True).build()
    q, k, v = tensors(hidden)
    seen = torch.ones(2, hidden.s_kv, dtype=torch.bool)
    seen[0, -5:] = False
    seen[1, -9:] = False
    found = select(q, k, v, replace(hidden, k_coord=hidden.k_coord.masked_fill(~seen, PAD)), MASS)
    for row, text in ((0, 4), (1, 0)):
        own = DynamicPlanSpec((3, 5, 7), text, (2, 2, 4), (1, 2, 4), 0.25).build()
        alone = select(*(x[row : row + 1, : own.s_kv] for x in (q, k, v)), own, MASS)
        close(found.gain[row], alone.gain[0])
        assert torch.equal(found.kept[row, ..., :14], alone.kept[0, ..., :14])


@pytest.mark.parametrize("grid", [(1, 8, 8), (1, 9, 7)])
def test_text_in_front_chooses_the_same_blocks(grid):
    """Also where the last block is ragged, which is filled up with padding before text behind."""
    facts = DynamicPlanSpec(grid, 16, (1, 2, 4), (1, 2, 4), 0.3, touching=False, text_rows=False)
    behind, front = facts.build(), facts.leading().build()
    q, k, v = tensors(behind)
    words, places = slice(behind.s_kv - 16, None), slice(0, facts.grid_tokens)
    k_, v_ = (torch.cat([x[:, words], x[:, places]], 1) for x in (k, v))
    wanted, chosen = attend(q, k, v, behind, MASS)
    out, found = attend(q, k_, v_, front, MASS)
    assert torch.equal(found.kept, chosen.kept.roll(2, -1)) and not found.kept.all()
    assert torch.equal(found.count(front), chosen.count(behind))
    close(out, wanted)
    seen = torch.ones(2, front.s_kv, dtype=torch.bool)
    seen[1, :5] = False
    hidden = replace(facts, masked_text=True).leading().build()
    one, other = (
        attend(q, k_, v_, replace(plan, k_coord=plan.k_coord.masked_fill(~seen, PAD)), MASS)[0]
        for plan in (hidden, replace(hidden, k_coord=hidden.k_coord))
    )
    close(one, other)
    assert not torch.equal(one[1], out[1]) and torch.equal(one[0], attend(q, k_, v_, hidden, MASS)[0][0])


def test_heads_in_turn_are_all_heads_at_once(monkeypatch):
    candidates = FACTS.build()
    q, k, v = tensors(candidates, H=5)
    whole = select(q, k, v, candidates, MASS)
    monkeypatch.setattr(
        module, "BUDGET", module.BYTES_A_PAIR * 2 * 2 * candidates.always.numel()
    )  # two heads
    in_turn = select(q, k, v, candidates, MASS)
    for name in ("row_ptr", "col", "kept"):
        assert torch.equal(getattr(in_turn, name), getattr(whole, name))
    for name in ("gain", "bias"):  # batches of products of another size
        close(getattr(in_turn, name), getattr(whole, name))


@pytest.mark.parametrize("text", [0, 64])
def test_the_memory_of_a_pair_is_what_heads_are_counted_by(text, tmp_path):
    """Half a million pairs of blocks in place of those of a real size; the tensors themselves are small."""
    tile = 2, 2, 4
    candidates = DynamicPlanSpec((8, 16, 64), text, tile, tile, 0.25, text_rows=False).build()
    q, k, v = (torch.randn(1, n, 2, 4) for n in (candidates.s_q, candidates.s_kv, candidates.s_kv))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        select(q, k, v, candidates, MASS)
    seen.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    peak = max(itertools.accumulate(change for _, change in changes))
    assert 0.8 * module.BYTES_A_PAIR < peak / (2 * candidates.always.numel()) <= module.BYTES_A_PAIR


def test_batch_rows_choose_for_themselves():
    candidates = FACTS.build()
    q, k, v = tensors(candidates)
    before, _ = attend(q, k, v, candidates, MASS)
    q[1], k[1] = q[1].flip(0), -k[1]
    after, _ = attend(q, k, v, candidates, MASS)
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])


def test_counts_by_hand():
    """10 tokens, as queries in blocks of 4 and keys in blocks of 2, and 3 of text in two blocks more."""
    candidates = DynamicPlanSpec((1, 1, 10), 3, (1, 1, 4), (1, 1, 2), 0.5, touching=False).build()
    q, k, v = tensors(candidates, B=1, H=1)
    # 2 of 5 blocks of the grid are kept, all of two tokens, or 1 and the text; of the text only the first
    # block is full
    for logit, blocks in ((-9.0, 2), (9.0, 1)):
        found = select(*with_text_at(q, k, 3, logit), v, candidates)
        pairs, visited = 10 * (2 * blocks + 3), 3 * (blocks + 2)
        assert found.count(candidates).tolist() == [pairs, 10 * 13, 3 * (blocks + 1), visited]


def test_shapes_do_not_depend_on_the_data():
    """Fake tensors hold no data: an .item() or a shape that depends on data would raise."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    candidates = FACTS.build()
    with FakeTensorMode(allow_non_fake_inputs=True):
        q, k, v = (torch.empty(2, s, 3, 8) for s in (candidates.s_q, candidates.s_kv, candidates.s_kv))
        found = select(q, k, v, candidates, MASS)
        assert found.count(candidates).shape == (4,)
    assert found.col.shape == (6, 7 * 16)


@pytest.mark.parametrize("tokens, block", [(24, 8), (29, 8), (5, 8), (8, 8), (9, 1)])
def test_every_block_counts_its_own_tokens(tokens, block):
    x = torch.randn(2, tokens, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = block_means(x, block)
    spread = block_spreads(x, mean, block)
    assert mean.shape == spread.shape == (2, 3, -(-tokens // block), 4)
    for i, part in enumerate(x.split(block, 1)):
        torch.testing.assert_close(mean[:, :, i], part.mean(1))
        torch.testing.assert_close(spread[:, :, i], (part - part.mean(1, keepdim=True)).abs().mean(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype):
    """A thousand tokens of 100: a sum in fp16 overflows, one in bf16 stops growing."""
    x = torch.full((1, 1000, 1, 2), 100.0, dtype=dtype)
    mean = block_means(x, 1000)
    assert mean.dtype == torch.float32 and torch.equal(mean, torch.full((1, 1, 1, 2), 100.0))
    assert torch.equal(block_spreads(x, mean, 1000), torch.zeros(1, 1, 1, 2))
