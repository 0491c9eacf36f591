"""What IR-Diffusion refuses, in a sentence and with the pipeline as it was."""

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.families.denoisers import denoisers

from ..hosts import HOSTS, host, processors
from .ir_runs import LEFT, ONE, PROMPTS, TWO, pictures

REFUSED = [h for h in HOSTS if h.video]


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


def test_two_owners_of_attention():
    pipe = host("sd").build()
    with pytest.raises(dx.ConflictError, match="both decide how attention is computed"):
        dx.apply(pipe, dx.IRDiffusion(**TWO), dx.GNA((3, 3), backend="reference"))
