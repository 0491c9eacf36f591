"""Test staged image-to-image: it equals diffusers' pipelines called by hand, and restores everything."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.transformers.transformer_flux import FluxPosEmbed
from PIL import Image

import diffusers_ext as dx
from diffusers_ext.sampling.staged import ntk, staged

from ..hosts import host, processors

SECOND = {
    "flux": FluxImg2ImgPipeline,
    "sd3": StableDiffusion3Img2ImgPipeline,
    "sd": StableDiffusionImg2ImgPipeline,
    "sdxl": StableDiffusionXLImg2ImgPipeline,
}
CLEAR = dx.CLEAR(radius=2, downsample=2, train_tokens=60, backend="reference")


def call(name, steps=2, **rest):
    settings = host(name).extra | {
        "num_inference_steps": steps,
        "generator": torch.Generator().manual_seed(0),
    }
    return settings | rest


def pixels(pictures):
    return np.stack([np.asarray(x) for x in pictures])


def denoiser(pipe):
    return getattr(pipe, "transformer", None) or pipe.unet


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_one_stage_is_the_plain_pipeline(name):
    pipe = host(name).build()
    plain = pipe("a red circle", height=32, width=48, **call(name)).images
    found = staged(pipe, "a red circle", [(32, 48)], **call(name))
    assert np.array_equal(pixels(found.images), pixels(plain)) and found.reports == ()


@pytest.mark.parametrize("name", SECOND)
def test_stages_are_the_pipelines_of_the_host_called_by_hand(name):
    pipe = host(name).build()
    prompts = ["a red circle", "a blue star"]
    found = staged(
        pipe, prompts, [(32, 48), (48, 64)], strength=0.7, later={"guidance_scale": 3.0}, **call(name)
    )
    settings = call(name)
    first = pipe(prompts, height=32, width=48, **settings).images
    second = SECOND[name](**{k: v for k, v in pipe.components.items() if v is not None or name == "sd"})
    resized = [x.resize((64, 48), Image.Resampling.BICUBIC) for x in first]
    sides = {} if name.startswith("sd") and name != "sd3" else {"height": 48, "width": 64}
    settings["guidance_scale"] = 3.0
    wanted = second(prompts, image=resized, strength=0.7, **sides, **settings).images
    assert np.array_equal(pixels(found.stages[0]), pixels(first))
    assert np.array_equal(pixels(found.images), pixels(wanted))
    assert found.images[0].size == (64, 48)


def test_an_ntk_factor_is_a_larger_base_of_the_rotary_positions():
    pipe = host("flux").build()
    ids = torch.tensor([[0, 0, 0], [0, 3, 5], [0, 31, 7]])
    embed = pipe.transformer.pos_embed
    plain = embed(ids)
    with ntk(pipe, 10):
        cos, sin = embed(ids)
    parts = [
        get_1d_rotary_pos_embed(
            dim, ids[:, i].float(), theta=10000, ntk_factor=10, use_real=True, freqs_dtype=torch.float64
        )
        for i, dim in enumerate(embed.axes_dim)
    ]
    assert torch.equal(cos, torch.cat([c for c, _ in parts], -1))
    assert torch.equal(sin, torch.cat([s for _, s in parts], -1))
    assert not torch.equal(cos, plain[0]) and torch.equal(embed(ids)[0], plain[0])
    with pytest.raises(RuntimeError, match="stop"), ntk(pipe.transformer, 10):
        raise RuntimeError("stop")
    assert torch.equal(embed(ids)[0], plain[0])


def test_the_factor_acts_after_the_first_stage():
    pipe, sizes = host("flux").build(), [(32, 32), (48, 48)]
    found = staged(pipe, "a red circle", sizes, ntk_factor=10.0, **call("flux"))
    plain = staged(pipe, "a red circle", sizes, **call("flux"))
    assert found.stages[0] == plain.stages[0] and found.stages[1] != plain.stages[1]
    settings = call("flux")
    first = pipe("a red circle", height=32, width=32, **settings).images
    second = FluxImg2ImgPipeline(**pipe.components)
    second.transformer.pos_embed = FluxPosEmbed(theta=100000.0, axes_dim=pipe.transformer.pos_embed.axes_dim)
    resized = first[0].resize((48, 48), Image.Resampling.BICUBIC)
    wanted = second("a red circle", image=resized, strength=0.7, height=48, width=48, **settings).images
    assert np.array_equal(pixels(found.images), pixels(wanted))


@pytest.mark.parametrize("name", ["flux", "sd3"])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_different_afterwards(name, fails):
    """SD3's own pipeline would begin where image-to-image began if the two shared a scheduler."""
    pipe = host(name).build().to(torch.bfloat16)
    tiny = replace(host(name), size=dict(height=32, width=32))
    plain = tiny.run(pipe)
    before, scheduler = processors(denoiser(pipe)), pipe.scheduler
    factor = 10.0 if name == "flux" else 1.0
    steps = []

    def stop(pipeline, step, timestep, tensors):
        steps.append(type(pipeline).__name__)
        if fails and "Img2Img" in steps[-1]:
            raise RuntimeError("stop")
        return tensors

    settings = call(name, callback_on_step_end=stop)
    try:
        staged(
            pipe,
            "a red circle",
            [(32, 32), (48, 48)],
            methods=[CLEAR],
            ntk_factor=factor,
            shift=2.0,
            **settings,
        )
        assert not fails
    except RuntimeError as error:
        assert fails and str(error) == "stop"
    assert len(steps) == (3 if fails else 4)
    assert processors(denoiser(pipe)) == before and pipe.scheduler is scheduler
    assert {p.dtype for m in (pipe.vae, denoiser(pipe)) for p in m.parameters()} == {torch.bfloat16}
    assert torch.equal(tiny.run(pipe), plain)


def test_methods_act_in_every_stage():
    pipe = host("sd3").build()
    sizes = [(32, 32), (32, 48), (48, 64)]
    found = staged(pipe, "a red circle", sizes, methods=[CLEAR], strength=[0.8, 0.4], **call("sd3", steps=5))
    assert [r.denoiser_calls for r in found.reports] == [5, 4, 2]
    grids = [dx.plan(pipe, CLEAR, height=h, width=w, text=48) for h, w in sizes]
    plain = staged(pipe, "a red circle", sizes, strength=[0.8, 0.4], **call("sd3", steps=5))
    assert all(a != b for a, b in zip(found.stages, plain.stages, strict=True))
    for report, grid in zip(found.reports, grids, strict=True):
        n = grid.tokens - grid.text
        pairs = grid.token_density * grid.tokens**2 - grid.text * grid.tokens  # text rows are dense
        assert [s.density for s in report.sites] == pytest.approx([pairs / (n * grid.tokens)] * 3)
        assert {s.backend for s in report.sites} == {"reference"}


@pytest.mark.parametrize("strength", [np.float32(0.5), np.array([0.5])])
def test_strengths_of_numpy(strength):
    pipe, sizes = host("sd3").build(), [(32, 32), (32, 48)]
    found, wanted = (staged(pipe, "a star", sizes, strength=s, **call("sd3")) for s in (strength, 0.5))
    assert found.stages == wanted.stages


def test_a_single_method_needs_no_list():
    pipe = host("sd3").build()
    found, listed = (
        staged(pipe, "a star", [(32, 32)], methods=m, **call("sd3", 1)) for m in (CLEAR, [CLEAR])
    )
    assert found.stages == listed.stages and found.reports[0].methods == (CLEAR,)


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_a_time_shift_of_the_later_stages(name):
    pipe, seen = host(name).build(), {}

    def note(pipeline, step, timestep, tensors):
        seen.setdefault(type(pipeline), []).append(float(timestep) / 1000)
        return tensors

    settings = call(name, steps=4, callback_on_step_end=note)
    staged(pipe, "a red circle", [(32, 32), (48, 48)], strength=1.0, shift=7.0, **settings)
    first, second = seen.values()
    if name == "flux":
        spacing = np.linspace(1, 1 / 4, 4)
        wanted = 7 * spacing / (1 + 6 * spacing)
    else:  # leaves the spacing to the scheduler
        scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
        scheduler.set_timesteps(4)
        wanted = scheduler.timesteps / 1000
    assert len(first) == len(second) == 4
    assert np.allclose(second, wanted, atol=1e-6)


def test_a_stack_of_pictures_for_each_prompt():
    pipe = host("flux").build()
    found = staged(
        pipe,
        ["a red circle", "a blue star"],
        [(32, 32), (32, 48)],
        num_images_per_prompt=2,
        **call("flux", 1),
    )
    assert [len(x) for x in found.stages] == [4, 4]


def test_shapes_sd3_up_to_the_end_of_its_position_table():
    pipe = dx.load("shapes-sd3")
    pipe.set_progress_bar_config(disable=True)
    found = staged(pipe, "a red circle", [(48, 48), (64, 64)], num_inference_steps=2)
    assert [x[0].size for x in found.stages] == [(48, 48), (64, 64)]
    with pytest.raises(ValueError, match="a height that is a multiple of 8 px up to 64, got 96"):
        staged(pipe, "a red circle", [(64, 64), (96, 96)], num_inference_steps=2)


@pytest.mark.parametrize(
    "name, values, words",
    [
        ("sd3", dict(sizes=[]), r"one \(height, width\) in px for each stage, got \[\]"),
        ("sd3", dict(sizes=[(32, 32, 3)]), "in px for each stage"),
        ("sd3", dict(sizes=(32, 32)), r"in px for each stage, got \(32, 32\)"),
        ("sd3", dict(sizes=[(32, 32), (30, 48)]), "multiple of 4 px up to 64, got 30"),
        ("sd3", dict(strength=0.0), "above 0 and not above 1.*got 0.0"),
        ("sd3", dict(strength=[0.5, 0.5]), "one for all of the 1 later stages"),
        ("sd3", dict(strength=None), "takes a number or a list of numbers, got None; 0.7 is published"),
        ("sd3", dict(strength=[None]), r"takes a number or a list of numbers, got \[None\]"),
        ("sd3", dict(strength="0.7"), "takes a number or a list of numbers, got '0.7'"),
        ("sd3", dict(strength=True), "takes a number or a list of numbers, got True"),
        ("sd3", dict(methods=None), "takes methods such as SoftPAG.*got NoneType"),
        ("sd3", dict(methods=["clear"]), "takes methods such as SoftPAG.*got str"),
        ("sd3", dict(shift=-1.0), "above 0, got -1.0"),
        ("sd3", dict(shift=float("nan")), "above 0, got nan"),
        ("sd", dict(shift=3.0), "belongs to flow matching, but this pipeline has a DDIMScheduler"),
        ("sd3", dict(ntk_factor=0), "a number above 0, got 0"),
        ("sd3", dict(ntk_factor=10), "as in flux, but SD3Transformer2DModel has others"),
        ("sd3", dict(latents=torch.zeros(1)), "itself, got latents"),
        ("sd3", dict(later={"image": None}), "itself, got image"),
        ("sd3", dict(later={"skip_guidance_layers": [1]}), "StableDiffusion3Img2ImgPipeline takes no skip"),
        ("flux", dict(methods=[dx.CLEAR(downsample=5)]), r"\(20 x 20 and 40 x 40 px\)"),
        ("flux", dict(methods=[dx.Radial()]), "CLEAR"),
        ("sd", dict(methods=dx.CLEAR(downsample=4), sizes=[(32, 40)]), "got 8 x 10 tokens"),
        ("flux", dict(methods=dx.Radial()), "CLEAR"),
        ("wan", {}, "from text to image, got WanPipeline"),
        ("wan", dict(sizes=[(32, 32)]), "from text to image, got WanPipeline"),
    ],
)
def test_refused_before_the_first_stage(name, values, words):
    pipe = host(name).build()
    runs = []
    hook = denoiser(pipe).register_forward_pre_hook(lambda *_: runs.append(1))
    values = {"sizes": [(32, 32), (48, 48)], **values}
    with pytest.raises(ValueError, match=words):
        staged(pipe, "a red circle", **values, num_inference_steps=1)
    assert not runs
    hook.remove()


def test_pipelines_that_cannot_begin():
    pipe = host("sd3").build()
    with dx.apply(pipe, CLEAR), pytest.raises(dx.ConflictError, match="close the session and pass methods="):
        staged(pipe, "a red circle", [(32, 32), (48, 48)])
    with pytest.raises(dx.UnsupportedError, match="from text to image, got StableDiffusion3Img2ImgPipeline"):
        staged(StableDiffusion3Img2ImgPipeline(**pipe.components), "a red circle", [(32, 32)])
    with pytest.raises(dx.UnsupportedError, match="got SD3Transformer2DModel"):
        staged(pipe.transformer, "a red circle", [(32, 32)])
