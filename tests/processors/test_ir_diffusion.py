"""IR-Diffusion against its paper written out, its limits, and what each of its parts may change."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxPosEmbed
from hypothesis import given, settings
from hypothesis import strategies as st

import diffusers_ext as dx
from diffusers_ext.core import Layout, Rotary, RunContext, Site
from diffusers_ext.families.denoisers import denoisers
from diffusers_ext.processors.ir_cores import link
from diffusers_ext.processors.ir_diffusion import IRDiffusion
from diffusers_ext.processors.reference_bank import ReferenceBank

from .. import faults
from ..close import MODEL, alike, close
from ..hosts import HOSTS, host, nothing_changed, processors
from . import ir_oracles

PROMPTS = ["a red circle", "a blue star", "a red circle and a blue star"]
ONE = [[0.25, 0.25, 0.75, 0.75]]
LEFT, RIGHT = [0.0, 0.25, 0.5, 1.0], [0.5, 0.0, 1.0, 0.5]
RING = [[0, 0, 1, 1, 1, 0, 0, 0], [0, 1, 1, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 0, 0]] + [[0] * 8] * 5
TWO = dict(reference_masks=[RING, [0.25, 0.25, 0.75, 1.0]], scene_masks=[LEFT, RIGHT])
BOXES = dict(reference_masks=[[0.25, 0.25, 0.75, 0.75]] * 2, scene_masks=[LEFT, RIGHT])
EXACT = dict(mask_dropout=0.0, start=0.0)
both = pytest.mark.parametrize("name", ["sd", "sdxl"])
guided = pytest.mark.parametrize("cfg", [False, True])


def pictures(tiny, pipe, prompts=PROMPTS, cfg=True, **run):
    return tiny.run(pipe, cfg=cfg, prompt=prompts, **dict(steps=2) | run)


def masks(areas, size=8):
    """Areas as masks of a grid on which all of them are exact, without our rasteriser."""
    found = []
    for area in areas:
        mask = torch.zeros(size, size, dtype=torch.bool)
        if isinstance(area[0], list):
            mask = torch.tensor(area) > 0
        else:
            left, top, right, bottom = (round(x * size) for x in area)
            mask[top:bottom, left:right] = True
        found.append(mask)
    return found


def paper(tiny, pipe, facts, mutual, cfg=True, **run):
    """Pictures of the oracle; `mutual` names the self-attention that sees references."""
    stock = processors(pipe.unet)
    ours = {
        f"{name}.processor": ir_oracles.Paper(facts, any(m in name for m in mutual), cfg) for name in stock
    }
    pipe.unet.set_attn_processor(ours)
    out = pictures(tiny, pipe, cfg=cfg, **run)
    pipe.unet.set_attn_processor({f"{name}.processor": p for name, p in stock.items()})
    return out


@pytest.mark.parametrize(
    "name, cfg, reposition",  # each way with both models, and with guidance and without
    [
        ("sd", True, "multiplicity"),
        ("sd", False, "warp"),
        ("sd", True, "none"),
        ("sdxl", False, "multiplicity"),
        ("sdxl", True, "warp"),
        ("sdxl", False, "none"),
    ],
)
def test_it_is_the_paper_written_out(name, cfg, reposition):
    tiny = host(name)
    pipe = tiny.build()
    facts = {kind.split("_")[0]: masks(TWO[kind]) for kind in TWO} | dict(cross_lambda=0.7, ref_bias=0.5)
    wanted = paper(tiny, pipe, facts | dict(reposition=reposition), ["up_blocks"], cfg)
    plain = pictures(tiny, pipe, cfg=cfg)
    method = dx.IRDiffusion(
        **TWO | EXACT, layers=["up_blocks"], cross_lambda=0.7, ref_bias=0.5, reposition=reposition
    )
    with dx.apply(pipe, method):
        ours = pictures(tiny, pipe, cfg=cfg)
    alike(ours, wanted)
    assert torch.equal(ours[:2], plain[:2]) and (ours[2] - plain[2]).abs().max() > 1e-3
    assert torch.equal(pictures(tiny, pipe, cfg=cfg), plain)


class Shared(AttnProcessor2_0):
    """The second of two pictures sees the tokens of both."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        out = super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)
        if encoder_hidden_states is None:
            out = out.clone()
            for row in range(1, len(out), 2):
                both = hidden_states[row - 1 : row + 1].reshape(1, -1, hidden_states.shape[-1])
                out[row] = ir_oracles.explicit(attn, hidden_states[row : row + 1], both)[0]
        return out


@both
def test_full_masks_are_shared_attention(name):
    tiny, full = host(name), [[0, 0, 1, 1]]
    pipe, two = tiny.build(), PROMPTS[::2]
    stock = processors(pipe.unet)
    pipe.unet.set_attn_processor({f"{n}.processor": Shared() for n in stock})
    wanted = pictures(tiny, pipe, two)
    pipe.unet.set_attn_processor({f"{n}.processor": p for n, p in stock.items()})
    method = dx.IRDiffusion(reference_masks=full, scene_masks=full, start_layer=0, cross_lambda=0, **EXACT)
    with dx.apply(pipe, method):
        alike(pictures(tiny, pipe, two), wanted)


@both
@guided
@pytest.mark.parametrize(
    "off, reason",
    [
        (dict(scene_masks=[None, None]), "none of its subjects is in the scene"),
        (dict(start=0.0, stop=0.0), "none of its 2 steps"),
        (dict(isolation=False, start_layer=1.0, cross_lambda=0.0), None),
    ],
)
def test_without_its_parts_it_is_the_plain_model(name, cfg, off, reason):
    tiny = host(name)
    pipe = tiny.build()
    plain = pictures(tiny, pipe, cfg=cfg)
    method = dx.IRDiffusion(**TWO | off)
    if reason is None:
        with dx.apply(pipe, method):
            assert torch.equal(pictures(tiny, pipe, cfg=cfg), plain)
    else:
        with dx.apply(pipe, method), nothing_changed(reason):
            assert torch.equal(pictures(tiny, pipe, cfg=cfg), plain)


@both
def test_the_order_of_subjects_does_not_matter(name):
    tiny = host(name)
    pipe, outs = tiny.build(), []
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).repeat(3, 1, 1, 1)
    for first in (0, 1):
        order = [first, 1 - first]
        mine = {kind: [areas[i] for i in order] for kind, areas in TWO.items()}
        with dx.apply(pipe, dx.IRDiffusion(**mine, start_layer=0)):
            prompts = [PROMPTS[i] for i in order] + PROMPTS[2:]
            outs.append(pictures(tiny, pipe, prompts, latents=noise, generator=None)[2])
    alike(*outs)


# One layer on random tensors ------------------------------------------------------------------------------


def dense(q, k, v, mask, layout):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def layer(method, grid, kind="self", text=slice(0, 0), ahead=False, branches=1, step=0, rotary=None, dim=4):
    """The core of one layer, in a call that has begun; text is `ahead` of the grid or behind it."""
    h, w = grid
    run = RunContext()
    vision = slice(text.stop, text.stop + h * w) if ahead else slice(0, h * w)
    run.layout, run.step, run.steps = Layout((1, h, w), text, vision), step, 4
    run.pass_ = "both" if branches == 2 else "cond"
    method = replace(method, start=0.0)
    core = method.bind(Site("a", 0, 2, dim, kind, "unet", rotary=rotary), run, dense)
    core.begin_call(torch.zeros(branches * (method.subjects + 1), 4, h, w))
    return core


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


# A bank of references ------------------------------------------------------------------------------------


SLOWLY = [pytest.param(name, marks=pytest.mark.slow) for name in ("sdxl", "flux-dev")]


@pytest.mark.parametrize("name", ["sd", "sd3", "sd3.5", "flux", *SLOWLY])
@guided
def test_a_bank_gives_the_scene_of_one_call(name, cfg):
    """References run alone, then a scene with both of them, and one with the second alone."""
    tiny = host(name)
    pipe = tiny.build()
    draw = torch.Generator().manual_seed(1)
    noise = torch.randn(1, *tiny.run(pipe, steps=1).shape[1:], generator=draw)

    def run(method, prompts, bank=None):
        with dx.apply(pipe, method) as session:
            if bank is not None:
                link(session.cores(method), bank)
            start = noise.repeat(len(prompts), *[1] * (noise.ndim - 1))
            return pictures(tiny, pipe, prompts, cfg, latents=start, generator=None)

    settings = dict(start_layer=0.0, ref_bias=1.0, start=0.0)
    both = dx.IRDiffusion(**BOXES, **settings)
    bank = ReferenceBank(numbers=(0, 1))
    nobody = dx.IRDiffusion(BOXES["reference_masks"], [None, None], **settings)
    references = run(nobody, PROMPTS[:2], bank)
    assert torch.equal(references, run(nobody, PROMPTS[:2], ReferenceBank(numbers=(0, 1))))
    wanted = run(both, PROMPTS)
    alike(references, wanted[:2])
    got = run(both, PROMPTS[2:], bank.reader([0, 1]))
    alike(got, wanted[2:])
    one = dx.IRDiffusion(BOXES["reference_masks"][1:], BOXES["scene_masks"][1:], **settings)
    alone = run(one, PROMPTS[2:], bank.reader([1]))
    alike(alone, run(one, PROMPTS[1:])[1:])
    assert far(got, alone) and far(got, run(both, PROMPTS[2:], bank.reader([1, 0])))


def test_a_bank_of_steps_that_begin_late():
    tiny = host("sd")
    pipe, bank = tiny.build(), ReferenceBank(numbers=(0, 1))
    method = dx.IRDiffusion(**BOXES, start_layer=0.0, start=0.5)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))

    def run(prompts, bank=None):
        with dx.apply(pipe, method) as session:
            if bank is not None:
                link(session.cores(method), bank)
            start = noise.repeat(len(prompts), 1, 1, 1)
            return pictures(tiny, pipe, prompts, steps=4, latents=start, generator=None)

    run(PROMPTS[:2], bank)
    assert {place for _, place, _ in bank.kept} == {"text", 2, 3}
    alike(run(PROMPTS[2:], bank.reader([0, 1])), run(PROMPTS)[2:])


def far(one, two):
    return (one - two).abs().max() > 10 * MODEL * torch.finfo(one.dtype).eps * two.abs().max()


@torch.no_grad()
def test_compiled_blocks_cost_few_graphs_and_none_for_more_steps():
    """The number of tokens that look at references differs from step to step."""
    tiny = host("sd")
    pipe, method, graphs = tiny.build(), dx.IRDiffusion(**TWO), []
    with dx.apply(pipe, method):
        eager = pictures(tiny, pipe, steps=5)

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    for block in (m for m in pipe.unet.modules() if type(m).__name__ == "BasicTransformerBlock"):
        block.compile(backend=counting, fullgraph=True)
    with dx.apply(pipe, method):
        alike(pictures(tiny, pipe, steps=5), eager)
        assert len(graphs) <= 8
        before = len(graphs)
        pictures(tiny, pipe, steps=9)
    assert len(graphs) == before
    torch._dynamo.reset()


# Beside others, and what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd3", "sd3.5", "flux", "flux-dev"])
@guided
def test_joint_attention(name, cfg):
    """References keep their bits, and so does the scene without subjects."""
    tiny = host(name)
    pipe = tiny.build()
    plain = pictures(tiny, pipe, cfg=cfg)
    with dx.apply(pipe, dx.IRDiffusion(**BOXES, start_layer=0)):
        ours = pictures(tiny, pipe, cfg=cfg)
    assert torch.equal(ours[:2], plain[:2]) and (ours[2] - plain[2]).abs().max() > 1e-3
    with dx.apply(pipe, dx.IRDiffusion(**BOXES | dict(scene_masks=[None] * 2))), nothing_changed():
        assert torch.equal(pictures(tiny, pipe, cfg=cfg), plain)


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


def test_beside_guidance_and_a_second_text():
    tiny = host("sd")
    pipe = tiny.build()
    method, pag = dx.IRDiffusion(**TWO), dx.SoftPAG(scale=2.0)
    with dx.apply(pipe, pag):
        plain = pictures(tiny, pipe)
    with dx.apply(pipe, method, pag) as session:
        ours = pictures(tiny, pipe)
    assert session.report().extra_passes == 2
    assert torch.equal(ours[:2], plain[:2]) and not torch.equal(ours[2], plain[2])
    with dx.apply(pipe, dx.NAG("green")):
        plain = pictures(tiny, pipe)
    with dx.apply(pipe, method, dx.NAG("green")):
        ours = pictures(tiny, pipe)
    alike(ours[:2], plain[:2])
    assert not torch.allclose(ours[2], plain[2], atol=1e-3)


@pytest.mark.parametrize("cfg", [False, True])
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS[:2], PROMPTS + PROMPTS[:1], PROMPTS * 2])
def test_calls_with_other_rows_are_refused(prompts, cfg):
    tiny = host("sd")
    pipe = tiny.build()
    plain = pictures(tiny, pipe)
    words = f"prompts of its 2 references and then of one scene .* so 3 rows.* got {len(prompts)};"
    with dx.apply(pipe, dx.IRDiffusion(**TWO)), pytest.raises(dx.MethodError, match=words):
        pictures(tiny, pipe, prompts, cfg=cfg)
    assert torch.equal(pictures(tiny, pipe), plain)


def test_rows_of_a_search_are_refused():
    pipe = host("sd").build()
    sampler = dx.BestOfN(n=3, rewards=lambda x, prompts: x.mean((1, 2, 3)))
    with dx.apply(pipe, dx.IRDiffusion(**TWO)), pytest.raises(dx.MethodError, match="candidates of a search"):
        sampler.sample(pipe, "a cat", num_inference_steps=2, height=32, width=32, guidance_scale=1.0)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({}, "needs reference_masks and scene_masks"),
        (dict(reference_masks=[], scene_masks=[]), "needs reference_masks and scene_masks"),
        (dict(reference_masks=ONE), "needs reference_masks and scene_masks"),
        (dict(reference_masks=ONE, scene_masks=[*ONE, LEFT]), "got 1 and 2"),
        (dict(reference_masks=[[[0, 0], [0, 0]]], scene_masks=ONE), "subject 1 in reference_masks"),
        (dict(reference_masks=ONE, scene_masks=[[0.5, 0.5, 0.5, 1.0]]), "subject 1 in scene_masks"),
        (dict(reference_masks=ONE, scene_masks=ONE, layers=[]), "got none in it"),
        (dict(reference_masks=ONE, scene_masks=ONE, layers=["nowhere"]), "no self-attention in 'nowhere'"),
        (dict(reference_masks=ONE, scene_masks=ONE, start=0.6, stop=0.4), "start <= stop"),
        (dict(reference_masks=ONE, scene_masks=ONE, mask_dropout=1.5), "mask_dropout must be from 0"),
        (dict(reference_masks=ONE, scene_masks=ONE, reposition="x"), "reposition"),
        (dict(reference_masks=[[[0, 1]] * 9], scene_masks=ONE), "9 x 2 places, but the grid .* has 16 x 16"),
        (dict(TWO, scene_masks=[LEFT, LEFT]), "two of scene_masks are the same"),
    ],
)
def test_settings_that_do_not_fit(settings, words):
    tiny = host("sd")
    pipe = tiny.build()
    before = processors(pipe.unet)
    with pytest.raises(dx.MethodError, match=words), dx.apply(pipe, dx.IRDiffusion(**settings)):
        pictures(
            tiny, pipe, PROMPTS if settings.get("reference_masks") == TWO["reference_masks"] else PROMPTS[::2]
        )
    assert processors(pipe.unet) == before


def test_masks_that_overlap_are_reported_once():
    tiny = host("sd")
    pipe = tiny.build()
    areas = [[0.0, 0.0, 0.75, 1.0], [0.5, 0.0, 1.0, 0.5]]
    with (
        dx.apply(pipe, dx.IRDiffusion(TWO["reference_masks"], areas)),
        pytest.warns(UserWarning, match="scene masks overlap; what two subjects share") as seen,
    ):
        pictures(tiny, pipe)
    assert len(seen) == 1


REFUSED = [h for h in HOSTS if h.video]


@pytest.mark.parametrize("tiny", REFUSED, ids=lambda h: h.name)
def test_videos_are_refused(tiny):
    pipe = tiny.build()
    before = [processors(model) for model in denoisers(pipe).values()]
    with pytest.raises(
        dx.UnsupportedError, match="has rotary positions that reposition='rope' does not know"
    ):
        dx.apply(pipe, dx.IRDiffusion(ONE, ONE))
    with (
        dx.apply(pipe, dx.IRDiffusion(ONE, ONE, reposition="none")),
        pytest.raises(dx.UnsupportedError, match="got a call for a video; use an image pipeline"),
    ):
        tiny.run(pipe, prompts=2, steps=tiny.least_steps)
    assert [processors(model) for model in denoisers(pipe).values()] == before


@pytest.mark.parametrize(
    "name, kind, words",
    [
        ("flux", "warp", "would leave references at their old place, .*'warp' does not turn"),
        ("flux", "multiplicity", "'multiplicity' does not turn"),
        ("sd", "rope", "turns rotary positions, which .* does not have"),
        ("sd3", "rope", "turns rotary positions, which .* does not have"),
    ],
)
def test_a_reposition_that_does_not_fit_the_positions(name, kind, words):
    pipe = host(name).build()
    with pytest.raises(dx.UnsupportedError, match=words):
        dx.apply(pipe, dx.IRDiffusion(ONE, ONE, reposition=kind))


def test_the_report_says_when_it_ran_and_shows_no_masks():
    tiny = host("sd")
    pipe = tiny.build()
    with dx.apply(pipe, dx.IRDiffusion(**TWO, start=0.4)) as session:
        pictures(tiny, pipe, steps=5)
    said = str(session.report())
    assert "ir-diffusion ran in 8 of 8 attention modules at steps 3 to 5 of 5.\n" in said
    assert "[[" not in said and "dense attention" not in said


def test_two_owners_of_attention():
    pipe = host("sd").build()
    with pytest.raises(dx.ConflictError, match="both decide how attention is computed"):
        dx.apply(pipe, dx.IRDiffusion(**TWO), dx.GNA((3, 3), backend="reference"))


def test_an_exception_in_a_step_restores_the_pipeline():
    tiny = host("sd")
    pipe = tiny.build()
    plain, before = pictures(tiny, pipe), processors(pipe.unet)
    trap = faults.Trap(3, RuntimeError("trap"))
    with (
        pytest.raises(RuntimeError, match="trap"),
        dx.apply(pipe, dx.IRDiffusion(**TWO)),
        faults.in_modules([pipe.unet.mid_block], trap),
    ):
        pictures(tiny, pipe, steps=5)
    assert trap.sprung and processors(pipe.unet) == before
    assert torch.equal(pictures(tiny, pipe), plain)
