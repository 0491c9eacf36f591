"""The hook: steps from timestep values, which pass is which, rows taken and put back."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionUpscalePipeline,
)
from PIL import Image

import diffusers_ext as dx
from diffusers_ext.core import Method, Slot, step_window
from diffusers_ext.families.base import take_rows

from ..hosts import built, every_call, host
from ..tiny_models import flux, sd3, unet, wan


class Recorder(Method):
    """A method that only watches: notes the run context at each call of its sites."""

    name = "recorder"
    slots = frozenset({Slot.OBSERVE})

    def __init__(self):
        self.seen = []

    def select(self, sites):
        return [
            next(s for s in sites if s.kind != "cross" and s.component == c)
            for c in {s.component for s in sites}
        ]

    def note(self, site, run, q):
        return site.component, run.pass_, run.step, run.steps, run.sigma, q.shape[0]

    def bind(self, site, run, inner):
        def core(q, k, v, mask, layout):
            self.seen.append(self.note(site, run, q))
            return inner(q, k, v, mask, layout)

        return core


def watch(pipe, run):
    recorder = Recorder()
    with dx.apply(pipe, recorder):
        run()
    return recorder.seen


@every_call
def test_steps_and_passes(host):
    pipe = host.build()
    seen = watch(pipe, lambda: host.run(pipe, cfg=True, steps=4))
    assert [s[1] for s in seen] == (["both"] * 4 if host.one_batch else ["cond", "uncond"] * 4)
    assert [s[2] for s in seen] == [i for i in range(4) for _ in range(1 if host.one_batch else 2)]
    assert {s[3] for s in seen} == {4}
    assert [s[5] for s in seen] == [2 if host.one_batch else 1] * len(seen)
    plain = watch(pipe, lambda: host.run(pipe, cfg=False, steps=4))
    assert [s[1] for s in plain] == ["cond"] * 4


def test_sigma_is_that_of_the_scheduler():
    h, pipe = built("flux")
    seen = watch(pipe, lambda: h.run(pipe, steps=4))
    assert [s[4] for s in seen] == pytest.approx(pipe.scheduler.sigmas[:4].tolist())


def test_second_order_schedulers_count_steps_not_calls():
    h, pipe = built("sd")
    pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    seen = watch(pipe, lambda: h.run(pipe, cfg=True, steps=4))
    assert [s[2] for s in seen] == [0, 0, 1, 1, 2, 2, 3]
    assert {s[3] for s in seen} == {4}


@pytest.mark.parametrize(
    ("scheduler", "steps"),
    # PNDM lists its second timestep twice, so that half of eight steps are five
    [(EulerDiscreteScheduler, 4), (DDIMScheduler, 4), (DPMSolverMultistepScheduler, 4), (PNDMScheduler, 5)],
)
def test_image_to_image_counts_executed_steps(scheduler, steps):
    h = host("sd")
    pipe = StableDiffusionImg2ImgPipeline(**h.build().components, requires_safety_checker=False)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, skip_prk_steps=True)
    pipe.set_progress_bar_config(disable=True)
    run = dict(num_inference_steps=8, strength=0.5, guidance_scale=4.0, output_type="latent")
    seen = watch(pipe, lambda: pipe("a star", image=Image.new("RGB", (32, 32), "grey"), **run))
    assert list(dict.fromkeys(s[2] for s in seen)) == list(range(steps)) and {s[3] for s in seen} == {steps}


def test_both_experts_share_the_run():
    h, pipe = built("wan2.2")
    seen = watch(pipe, lambda: h.run(pipe, cfg=False, steps=4))
    assert [s[2] for s in seen] == [0, 1, 2, 3]
    assert list(dict.fromkeys(s[0] for s in seen)) == ["transformer", "transformer_2"]


@pytest.mark.parametrize("name", ["wan", "flux", "flux image-to-image"])
def test_an_interrupted_run_does_not_shift_the_next(name):
    """Flux image-to-image names no pass, so only the order of calls shows which it is."""
    h = host(name.split()[0])
    pipe, extra = h.build(), {}
    if name.endswith("image"):
        pipe = FluxImg2ImgPipeline(**pipe.components)
        pipe.set_progress_bar_config(disable=True)
        extra = {"image": Image.new("RGB", (48, 32), "grey"), "strength": 1.0}
    with dx.apply(pipe, dx.SoftPAG(heads={h.layer: None})):
        whole = h.run(pipe, cfg=not extra, **extra)
        with pytest.raises(KeyboardInterrupt):
            h.run(pipe, cfg=not extra, callback_on_step_end=_interrupt, **extra)
        assert torch.equal(whole, h.run(pipe, cfg=not extra, **extra))


def _interrupt(*_):
    raise KeyboardInterrupt


def test_two_calls_of_a_bare_denoiser_are_distinguished_by_order():
    model, call = flux.transformer(), flux.inputs(1)
    other = call | {"encoder_hidden_states": -call["encoder_hidden_states"]}
    c, u = model(**call)[0], model(**other)[0]
    with dx.apply(model, dx.SoftPAG(), cfg="two_calls") as session:
        cond, uncond = model(**call)[0], model(**other)[0]
    assert session.report().extra_passes == 1
    torch.testing.assert_close(cond - c, uncond - u)


def test_named_calls_of_a_bare_denoiser_are_distinguished_by_name():
    model, call = wan.transformer(), wan.inputs(1)
    other = call | {"encoder_hidden_states": -call["encoder_hidden_states"]}
    c, u = model(**call)[0], model(**other)[0]
    with dx.apply(model, dx.SoftPAG()) as session:
        with model.cache_context("cond"):
            cond = model(**call)[0]
        with model.cache_context("uncond"):
            uncond = model(**other)[0]
    assert session.report().extra_passes == 1
    torch.testing.assert_close(cond - c, uncond - u)


def test_a_pipeline_that_shares_the_denoiser_is_refused():
    h, pipe = built("sd3")
    other = StableDiffusion3Img2ImgPipeline(**pipe.components)
    with (
        dx.apply(pipe, dx.SoftPAG()),
        pytest.raises(
            dx.UnsupportedError,
            match="applied to StableDiffusion3Pipeline, but StableDiffusion3Img2ImgPipeline runs",
        ),
    ):
        other("a star", image=Image.new("RGB", (32, 32), "grey"), num_inference_steps=2)
    with (
        dx.apply(pipe.transformer, dx.SoftPAG()),
        pytest.raises(
            dx.UnsupportedError, match="applied to the bare denoiser, but StableDiffusion3Pipeline runs"
        ),
    ):
        h.run(pipe)


def test_pipelines_of_three_branches_are_refused_before_they_run():
    parts = host("sd").build().components
    pipe = StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False)
    with pytest.raises(dx.UnsupportedError, match="combines three predictions"):
        dx.apply(pipe, dx.SoftPAG())


def test_pipelines_that_do_not_state_their_guidance_need_cfg():
    parts = {
        k: v for k, v in host("sd").build().components.items() if k in ("vae", "text_encoder", "tokenizer")
    }
    scheduler = DDIMScheduler()
    pipe = StableDiffusionUpscalePipeline(
        **parts, unet=unet.unet(in_channels=7), low_res_scheduler=DDPMScheduler(), scheduler=scheduler
    )
    with pytest.raises(dx.UnsupportedError, match="does not tell whether it uses classifier-free guidance"):
        dx.apply(pipe, dx.SoftPAG())
    dx.apply(pipe, dx.SoftPAG(), cfg="batch").close()


def test_skip_layer_guidance_of_sd3_is_left_as_it_is():
    """diffusers subtracts a skip-layer prediction from the conditional one; delta must cancel there."""
    h, pipe = built("sd3")
    # diffusers skips from the first step after `start` on, which 0 is not.
    skip = dict(skip_guidance_layers=[0], skip_layer_guidance_start=-1.0, skip_layer_guidance_stop=1.0)
    method = dx.SoftPAG(heads={h.layer: None}, strength=1.0, scale=2.0)
    added, skipped = [], []
    pipe.transformer.register_forward_pre_hook(
        lambda model, args, call: skipped.append(call.get("skip_layers")), with_kwargs=True
    )
    for kind in ({}, skip):
        stock = h.run(pipe, cfg=True, steps=1, **kind)
        skipped.clear()
        with dx.apply(pipe, method) as session:
            added.append(h.run(pipe, cfg=True, steps=1, **kind) - stock)
        assert skipped == ([None, [0]] if kind else [None])
        assert session.report().extra_passes == 1
    assert added[0].abs().max() > 1e-4
    torch.testing.assert_close(added[0], added[1], rtol=1e-3, atol=1e-4)


def test_positional_arguments_and_output_objects():
    model, call = sd3.transformer(), sd3.inputs(1)
    call.pop("return_dict", None)
    with dx.apply(model, dx.SoftPAG()):
        named = model(**call, return_dict=True)
        listed = model(
            call["hidden_states"], call["encoder_hidden_states"], call["pooled_projections"], call["timestep"]
        )
        pair = model(**call, return_dict=False)
    assert type(named).__name__ == "Transformer2DModelOutput" and torch.equal(named.sample, listed.sample)
    assert isinstance(pair, tuple) and torch.equal(pair[0], named.sample)


def test_arguments_of_the_pipeline_are_not_changed():
    rows = {
        "a": torch.arange(8).view(4, 2),
        "ids": torch.arange(4),
        "n": 3,
        "d": {"x": [torch.ones(4), torch.ones(3)]},
    }
    cut = take_rows(rows, 4, slice(2, 4), frozenset({"ids"}))
    assert cut["a"].shape == (2, 2) and cut["ids"].shape == (4,) and cut["n"] == 3
    assert [t.shape[0] for t in cut["d"]["x"]] == [2, 3]
    assert cut["d"] is not rows["d"] and rows["a"].shape == (4, 2)


@pytest.mark.parametrize(
    ("start", "stop", "steps", "expected"),
    [
        (0, 1, 4, [0, 1, 2, 3]),
        (0, 0, 4, []),
        (1, 1, 4, []),
        (0.01, 0.2, 50, list(range(10))),
        (0.5, 0.5, 10, []),
        (0.5, 0.6, 4, [2]),
        (0, 0.75, 1, [0]),
        (0.9, 1, 1, [0]),
        (0.29, 1, 100, list(range(29, 100))),
        (0.9, 1, 20, [18, 19]),
    ],
)
def test_steps_of_a_window(start, stop, steps, expected):
    assert list(step_window(start, stop, steps)) == expected
