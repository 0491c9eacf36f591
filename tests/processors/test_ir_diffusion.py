"""IR-Diffusion against its paper written out, and its limits, on complete pipelines."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

import diffusers_ext as dx

from .. import faults
from ..close import alike
from ..hosts import host, nothing_changed, processors
from . import ir_oracles
from .ir_runs import BOXES, EXACT, PROMPTS, TWO, guided, masks, paper, pictures

both = pytest.mark.parametrize("name", ["sd", "sdxl"])


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


def test_the_report_says_when_it_ran_and_shows_no_masks():
    tiny = host("sd")
    pipe = tiny.build()
    with dx.apply(pipe, dx.IRDiffusion(**TWO, start=0.4)) as session:
        pictures(tiny, pipe, steps=5)
    said = str(session.report())
    assert "ir-diffusion ran in 8 of 8 attention modules at steps 3 to 5 of 5.\n" in said
    assert "[[" not in said and "dense attention" not in said


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
