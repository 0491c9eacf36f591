"""One layer of IR-Diffusion on random tensors: who sees which tokens, and where."""

import math
from dataclasses import replace

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxPosEmbed
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_ext.core import Rotary, Site
from diffusers_ext.processors.ir_diffusion import IRDiffusion

from ..close import close
from . import ir_oracles
from .ir_runs import EXACT, RING, TWO, dense, layer


def drawn(rows, tokens, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, tokens, 2, 4, generator=draw, dtype=torch.float64) for _ in range(3)]


def free(*masks):
    return [m.int().tolist() for m in masks]


@settings(max_examples=20)
@given(
    st.integers(2, 6), st.integers(2, 7), st.sampled_from(["none", "ahead", "behind"]), st.integers(0, 999)
)
def test_groups_of_tokens_are_one_attention_with_a_mask_of_all_pairs(h, w, text, seed):
    """Any masks, on grids of any shape, with text tokens beside the grid or none."""
    draw = torch.Generator().manual_seed(seed)
    source = torch.rand(2, h, w, generator=draw) > 0.4
    source[:, 0, 0] = True
    target = torch.rand(h, w, generator=draw)
    target = torch.stack([target < 0.4, target > 0.5])
    if not target.any((1, 2)).all():
        return
    method = IRDiffusion(free(*source), free(*target), start_layer=0, ref_bias=0.3, seed=seed)
    count = 0 if text == "none" else 3
    words = slice(0, count) if text != "behind" else slice(h * w, h * w + count)
    core = layer(method, (h, w), "joint" if count else "self", words, text == "ahead", branches=2)
    q, k, v = drawn(6, h * w + count)
    ours = core(q, k, v, None, None)
    start = core.run.layout.vision.start
    wanted = dense(q, k, v, None, None)
    size = h * w + count
    bias = torch.full((size, 2 * h * w + size), -math.inf, dtype=torch.float64)
    bias[:, 2 * h * w :] = 0
    where = [m.flatten().nonzero().flatten() + start for m in target]
    for i, s in enumerate(core.subjects):
        assert sorted([*s.looking.tolist(), *s.resting.tolist()]) == where[i].tolist()
        copied, there = ir_oracles.pasted(torch.arange(h * w)[:, None].double(), source[i], target[i])
        counts = torch.bincount(copied[there, 0].long(), minlength=h * w)
        bias[s.looking[:, None], i * h * w + torch.arange(h * w)] = counts.double().log() + 0.3
        bias[where[i][:, None], 2 * h * w + where[1 - i]] = -math.inf
    for first in (0, 3):
        grid = slice(start, start + h * w)
        keys = torch.cat([k[first, grid], k[first + 1, grid], k[first + 2]])[None]
        values = torch.cat([v[first, grid], v[first + 1, grid], v[first + 2]])[None]
        wanted[first + 2] = dense(q[first + 2][None], keys, values, bias, None)[0]
    close(ours, wanted)
    others = torch.ones(size, dtype=torch.bool)
    others[torch.cat(where)] = False
    assert torch.equal(ours[:, others], dense(q, k, v, None, None)[:, others])
    assert torch.equal(ours[[0, 1, 3, 4]], dense(q, k, v, None, None)[[0, 1, 3, 4]])


def test_isolation_hides_the_values_of_other_subjects():
    core = layer(IRDiffusion(**TWO, start_layer=0), (8, 8))
    q, k, v = drawn(3, 64)
    first, second = (s.scene for s in core.subjects)
    before = core(q, k, v, None, None)
    v[2, second] += 1
    after = core(q, k, v, None, None)
    assert torch.equal(before[2, first], after[2, first])
    assert not torch.equal(before[2, second], after[2, second])
    v[0] += 1  # the reference of the first
    assert torch.equal(core(q, k, v, None, None)[2, second], after[2, second])
    assert not torch.equal(core(q, k, v, None, None)[2, first], after[2, first])


def test_a_subject_that_moves_without_growing_reads_the_same_reference():
    """Only the number of copies counts, so the place does not."""
    taken = []
    for area in ([0.0, 0.0, 0.5, 0.5], [0.5, 0.25, 1.0, 0.75]):
        core = layer(IRDiffusion([RING], [area], start_layer=0), (8, 8))
        taken.append(core.subjects[0])
    assert torch.equal(taken[0].taken, taken[1].taken) and torch.equal(taken[0].copies, taken[1].copies)


def test_dropout_is_drawn_for_each_step_and_shared_by_layers_of_a_grid():
    def looking(step=0, **more):
        settings = TWO | dict(start_layer=0, scene_masks=[[0, 0, 0.5, 1], [0.5, 0, 1, 1]]) | more
        core = layer(IRDiffusion(**settings), (32, 32), step=step)
        return [s.looking.tolist() for s in core.subjects]

    assert looking() == looking() != looking(1)
    assert looking() != looking(seed=1)
    for share in (0.25, 0.5, 0.75):
        for tokens in looking(mask_dropout=share):
            assert abs(len(tokens) / 512 - (1 - share)) < 5 * math.sqrt(share * (1 - share) / 512)
    assert [len(t) for t in looking(mask_dropout=0.0)] == [512, 512]
    assert looking(mask_dropout=1.0) == [[], []]
    small = dict(scene_masks=[[0, 0, 1 / 32, 1 / 32], [0.5, 0, 1, 1]], mask_dropout=0.9999)
    assert len(looking(**small)[0]) == 1, "if the draw leaves none, all do"


def test_at_a_dropout_of_one_the_reference_is_not_seen():
    method = IRDiffusion(**TWO | dict(start_layer=0, mask_dropout=1.0))
    q, k, v = drawn(3, 64)
    core = layer(method, (8, 8))
    alone = layer(replace(method, start_layer=1.0), (8, 8))
    assert torch.equal(core(q, k, v, None, None), alone(q, k, v, None, None))


def test_references_are_seen_from_a_fraction_of_the_layers_in_the_order_they_run():
    sites = [Site(f"b{i}", i, 1, 4, kind) for i, kind in enumerate(["self", "cross"] * 70)]
    assert IRDiffusion(**TWO).mutual(sites) == {f"b{2 * i}" for i in range(36, 70)}, "as published for SDXL"
    assert IRDiffusion(**TWO, start_layer=1.0).mutual(sites) == set()
    assert IRDiffusion(**TWO, layers=["b4", "b10"]).mutual(sites) == {"b4", "b10"}


def test_rotary_keys_come_to_the_places_of_the_scene():
    """Keys that diffusers turns to the new places at once, and that moving a box changes what is read."""
    grid, turn = (6, 8), Rotary((2, 4, 2), 100.0)
    y, x = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
    ids = torch.stack([torch.zeros_like(y), y, x], -1).flatten(0, 1)

    def at(tensor, positions):
        return apply_rotary_emb(
            tensor.float(), FluxPosEmbed(100, turn.channels)(positions.float()), sequence_dim=1
        )

    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 48, 2, 8, generator=draw) for _ in range(3))
    outs = []
    for target in ([0, 0, 0.5, 1.0], [0.5, 0, 1.0, 1.0]):
        method = IRDiffusion([[0.25, 0.0, 0.5, 0.5]], [target], start_layer=0, isolation=False, **EXACT)
        core = layer(method, grid, "joint", rotary=turn, dim=8)
        ours = core(at(q, ids), at(k, ids), v, None, None)
        (s,) = core.subjects
        assert len(s.taken) == 24, "six tokens, each twice down and twice across"
        source = torch.zeros(grid, dtype=torch.bool)
        source[:3, 2:4] = True
        scene = torch.zeros(grid, dtype=torch.bool)
        scene.view(-1)[s.scene] = True
        copied, there = ir_oracles.pasted(torch.arange(48.0)[:, None], source, scene)
        tokens = copied[there, 0].long()
        keys = torch.cat([at(k[0, tokens][None], ids[there]), at(k[1][None], ids)], 1)
        wanted = dense(at(q, ids)[1][None], keys, torch.cat([v[0, tokens], v[1]])[None], None, None)[0]
        close(ours[1, s.scene], wanted[s.scene])
        outs.append(ours[1, s.scene])
    assert not torch.allclose(*outs, atol=1e-2)
