"""The call of a pipeline for a search: the picture of the plain call, with gradients, and nothing changed."""

import inspect
import math

import numpy as np
import pytest
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
)

import diffusers_ext as dx
from diffusers_ext.errors import MethodError, UnsupportedError
from diffusers_ext.families.denoisers import denoisers
from diffusers_ext.sampling.host_call import HostCall

from ..hosts import HOSTS, every_call
from ..tiny_models import flux, sd3, unet


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def asked(host, cfg=True):
    return host.size | host.extra | (host.guided if cfg else host.unguided) | {"num_inference_steps": 2}


# A pipeline that takes a picture draws from the generator for its latents, before the noise.
of_text = pytest.mark.parametrize("host", [h for h in HOSTS if "image" not in h.extra], ids=lambda h: h.name)


@of_text
@pytest.mark.parametrize("cfg", [False, True], ids=["one branch", "cfg"])
def test_candidates_are_pictures_of_the_plain_call(host, cfg):
    pipe = host.build()
    scheduler = pipe.scheduler
    call = HostCall(pipe, "a red circle", generators(3)[0], **asked(host, cfg))
    drawn = call.draw(3)
    first = call.run(drawn.take([0]))
    other = call.run(drawn.take([2]))
    own = host.run(pipe, cfg=cfg, steps=2, generator=generators(3))
    assert torch.equal(first, own)
    again = host.run(pipe, cfg=cfg, steps=2, generator=generators(drawn.seeds[2]))
    assert torch.equal(other, again)
    assert drawn.seeds[0] == 3
    assert drawn.noise.shape == (3, *call.shape[1:])
    assert pipe.scheduler is scheduler and "encode_prompt" not in vars(pipe)


@every_call
def test_gradients_reach_the_noise_and_the_picture_is_the_same(host):
    pipe = host.build()
    call = HostCall(pipe, "a red circle", generators(0)[0], **asked(host))
    start = call.draw(1)
    noise = start.noise.requires_grad_()
    latents = call.run(start.with_noise(noise), grad=True)
    assert torch.equal(latents, call.run(start))
    (gradient,) = torch.autograd.grad(call.decode(latents).mean(), noise)
    assert torch.isfinite(gradient).all() and gradient.abs().max() > 0


@every_call
def test_schedule_is_what_a_counter_sees(host):
    pipe = host.build()
    call = HostCall(pipe, "a red circle", **asked(host))
    steps, each = call.schedule()
    seen = []
    for model in denoisers(pipe).values():
        model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(len((args or list(kwargs.values()))[0])),
            with_kwargs=True,
        )
    call.run(call.draw(1))
    assert steps * each == sum(seen)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_schedule_counts_the_extra_pass_of_guidance(scale):
    pipe = unet.pipeline()
    call = {"num_inference_steps": 3, "guidance_scale": scale}
    sampler = dx.BestOfN(rewards=lambda images, prompts: images.mean((1, 2, 3)), n=2)
    with dx.apply(pipe, dx.SoftPAG()):
        steps, each = HostCall(pipe, "a", **call).schedule()
        assert sampler.sample(pipe, "a", **call).nfe == 2 * steps * each
    assert HostCall(pipe, "a", **call).schedule() == (steps, each - 1)


def test_noise_of_a_stochastic_scheduler_is_that_of_the_plain_call():
    pipe = unet.pipeline()
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    asked = dict(height=32, width=32, num_inference_steps=3, guidance_scale=1.0)
    call = HostCall(pipe, "a red circle", generators(5)[0], **asked)
    start = call.draw(1)
    plain = pipe("a red circle", generator=generators(5)[0], output_type="latent", **asked).images
    assert torch.equal(call.run(start), plain)
    assert torch.equal(call.run(start), plain)  # a second time: the generator begins where it began


def test_a_candidate_does_not_depend_on_how_many_are_drawn():
    pipe = unet.pipeline()
    few, many = (HostCall(pipe, ["a", "b"], generators(1, 2), height=32, width=32) for _ in range(2))
    few, many = few.draw(2), many.draw(5)
    assert torch.equal(few.noise[2:], many.noise[5:7])
    assert few.seeds == many.seeds[:2] + many.seeds[5:7]
    assert len(set(many.seeds)) == 10


def test_the_generator_moves_on_as_in_the_plain_call():
    pipe = unet.pipeline()
    generator = generators(1)[0]
    first, second = (HostCall(pipe, "a", generator, height=32, width=32).draw(2) for _ in range(2))
    assert not torch.equal(first.noise[0], second.noise[0])
    assert first.seeds[1] != second.seeds[1]


def test_given_latents_are_the_first_candidate():
    pipe = unet.pipeline()
    noise = torch.randn(1, 4, 16, 16, generator=generators(9)[0])
    call = HostCall(pipe, "a", generators(1)[0], noise, height=32, width=32, num_inference_steps=2)
    drawn = call.draw(2)
    assert torch.equal(drawn.noise[:1], noise)
    plain = pipe("a", latents=noise, height=32, width=32, num_inference_steps=2, output_type="latent").images
    assert torch.equal(call.run(drawn.take([0])), plain)


def test_prompts_are_encoded_once():
    pipe = unet.pipeline()
    encoded = []
    pipe.text_encoder.register_forward_hook(lambda *_: encoded.append(1))
    call = HostCall(pipe, ["a", "b"], height=32, width=32, num_inference_steps=1)
    for _ in range(3):
        call.run(call.draw(2))
    # The prompts and the negative ones.
    assert len(encoded) == 2


def test_several_pictures_of_a_prompt_and_its_negatives():
    pipe = unet.pipeline()
    size = dict(height=32, width=32, num_inference_steps=2)
    call = HostCall(
        pipe, ["a", "b"], generators(1, 2, 3, 4), num_images_per_prompt=2, negative_prompt="c", **size
    )
    assert call.prompts == ["a", "a", "b", "b"]
    assert call.call["negative_prompt"] == ["c"] * 4
    made = call.run(call.draw(1))
    plain = pipe(
        ["a", "a", "b", "b"],
        negative_prompt=["c"] * 4,
        generator=generators(1, 2, 3, 4),
        output_type="latent",
        **size,
    ).images
    assert torch.equal(made, plain)


def test_half_precision_keeps_the_noise_in_float32():
    pipe = unet.pipeline().to(torch.bfloat16)
    call = HostCall(pipe, "a", generators(1)[0], height=32, width=32, num_inference_steps=1)
    start = call.draw(1)
    assert start.noise.dtype == torch.float32
    plain = pipe(
        "a", generator=generators(1)[0], height=32, width=32, num_inference_steps=1, output_type="latent"
    ).images
    assert torch.equal(call.run(start), plain)


@pytest.mark.parametrize(
    "given, says",
    [
        (dict(prompt=[]), r"a prompt or a list of prompts as text, got \[\]"),
        (dict(prompt=None), "a prompt or a list of prompts as text, got None"),
        (dict(prompt=["a", 1]), "a list of prompts as text"),
        (dict(prompt=["a", "b"], generator=generators(1)), "one for each picture, got 1 for 2"),
        (dict(prompt=["a", "b"], negative_prompt=["c"]), "negative_prompt takes .* got 1 for 2 prompts"),
        (
            dict(prompt="a", latents=torch.zeros(1, 4, 8, 8)),
            r"the shape \[1, 4, 16, 16\].*got \[1, 4, 8, 8\]",
        ),
        (dict(prompt="a", latents=torch.full((1, 4, 16, 16), torch.nan)), "latents must be finite"),
        (dict(prompt="a", num_inference_steps=0), "a whole number from 1 to 1000, got 0"),
        (dict(prompt="a", num_inference_steps=1.5), "a whole number from 1 to 1000, got 1.5"),
        (dict(prompt="a", generator=3), "generator takes a torch.Generator, .* got 3"),
        (dict(prompt="a", latents=[1, 2]), "latents are a tensor of the shape .* got list"),
        (dict(prompt=3), "a prompt or a list of prompts as text, got 3"),
        (dict(prompt="a", generator="cpu"), "generator takes a torch.Generator, .* got 'cpu'"),
        (dict(prompt="a", return_dict=False), "return a result of their own, got return_dict"),
        (dict(prompt="a", stepz=3), "StableDiffusionPipeline takes no stepz; leave it out"),
        (dict(prompt="a", num_inference_step=3), "no num_inference_step; nearest is 'num_inference_steps'"),
        (dict(prompt="a", seed=3), r"takes no seed; seeds come as generator=torch\.Generator\(\)\.manual_s"),
        (dict(prompt="a", height=33), "33"),
        (dict(prompt="a", height="32"), "a height that is a whole number, got '32'; write height="),
        (dict(prompt="a", width=32.0), "a width that is a whole number, got 32.0"),
        (dict(prompt="a", num_images_per_prompt=0), "num_images_per_prompt must be a whole number above 0"),
        (dict(prompt="a", num_images_per_prompt=-1), "a whole number above 0, got -1; 1 is usual"),
        (dict(prompt="a", num_images_per_prompt="2"), "a whole number above 0, got '2'"),
        (dict(prompt="a", num_inference_steps=True), "a whole number from 1 to 1000, got True"),
        (dict(prompt="a", guidance_scale=math.nan), "guidance scale must be a finite number, got nan"),
        (dict(prompt="a", prompt_embeds=torch.zeros(1, 7, 32)), "prompts as text, .* got prompt_embeds"),
    ],
)
def test_refused_in_a_sentence(given, says):
    given = dict(height=32, width=32) | given
    with pytest.raises(ValueError, match=says):
        HostCall(unet.pipeline(), **given)


class _Without:
    """A pipeline whose call takes no latents."""

    def __init__(self, pipe):
        self.unet, self.vae = pipe.unet, pipe.vae

    def __call__(self, prompt, generator=None):
        raise AssertionError("it must not run")


def test_a_pipeline_without_latents_is_refused_with_those_that_have_them():
    with pytest.raises(
        UnsupportedError, match=r"takes no latents and no callback_on_step_end; .*FluxPipeline"
    ):
        HostCall(_Without(unet.pipeline()), "a")


def test_whole_numbers_of_numpy_are_taken():
    call = HostCall(unet.pipeline(), "a", height=np.int64(32), width=32, num_inference_steps=np.int32(2))
    assert call.draw(1).noise.shape == (1, 4, 16, 16)


PICTURE = {"image": torch.rand(1, 3, 32, 32), "num_inference_steps": 2}
HOLE = PICTURE | {"mask_image": torch.ones(1, 1, 32, 32), "height": 32, "width": 32}


@pytest.mark.parametrize(
    ("kind", "build", "call", "step"),
    [
        (
            StableDiffusionXLImg2ImgPipeline,
            lambda: unet.pipeline(sdxl=True),
            {},
            "one that begins with noise",
        ),
        (StableDiffusion3Img2ImgPipeline, sd3.pipeline, {"strength": 1.0}, "one that begins with noise"),
        (FluxImg2ImgPipeline, flux.pipeline, {}, "one that begins with noise"),
        (FluxInpaintPipeline, flux.pipeline, HOLE, "pass strength=1"),
        (StableDiffusionInpaintPipeline, unet.pipeline, HOLE | {"strength": 0.5}, "pass strength=1"),
    ],
)
def test_a_pipeline_that_begins_with_a_noisy_picture_is_refused(kind, build, call, step):
    """It would take the noise of a search for that picture, and never look at the real one."""
    with pytest.raises(UnsupportedError, match=f"{kind.__name__} begins with a noisy picture at .*{step}"):
        HostCall(_of(kind, build()), "a", **PICTURE | call)


@pytest.mark.parametrize(
    ("kind", "build", "more"),
    [
        (StableDiffusionInpaintPipeline, unet.pipeline, {}),
        (FluxInpaintPipeline, flux.pipeline, {"strength": 1.0, "max_sequence_length": 16}),
    ],
)
def test_inpainting_at_full_strength_sees_its_picture(kind, build, more):
    pipe, call = _of(kind, build()), HOLE | more
    call["mask_image"] = torch.ones(1, 1, 32, 32)
    call["mask_image"][..., :16] = 0
    own = HostCall(pipe, "a", generators(0)[0], **call)
    start = own.draw(1)
    made = own.run(start)
    again = pipe("a", latents=start.noise, generator=list(start.states), output_type="latent", **call).images
    other = HostCall(pipe, "a", generators(0)[0], **call | {"image": torch.zeros(1, 3, 32, 32)})
    assert torch.equal(made, again)
    assert (other.run(start) - made).abs().max() > 0.05


def test_a_pipeline_that_scales_every_size_makes_the_one_asked_for():
    pipe = _of(FluxKontextPipeline, flux.pipeline())
    more = dict(height=32, width=48, max_sequence_length=16, _auto_resize=False, guidance_scale=1.0)
    own = HostCall(pipe, "a", generators(0)[0], **PICTURE | more)
    assert own.run(own.draw(1), output_type="pt").shape == (1, 3, 32, 48)


def _of(kind, pipe):
    """A pipeline of another class on the same components."""
    known = inspect.signature(kind.__init__).parameters
    more = {"requires_safety_checker": False} if "requires_safety_checker" in known else {}
    made = kind(**{name: part for name, part in pipe.components.items() if name in known}, **more)
    made.set_progress_bar_config(disable=True)
    return made


def test_an_unknown_family_is_refused():
    pipe = unet.pipeline()
    pipe.unet.__class__ = type("Other", (torch.nn.Module,), {})
    with pytest.raises(MethodError, match="No family knows the denoiser class Other"):
        HostCall(pipe, "a")


def test_global_randomness_is_used_as_by_the_pipeline_and_not_reset():
    pipe = unet.pipeline()
    torch.manual_seed(3)
    first = HostCall(pipe, "a", height=32, width=32).draw(1)
    after = torch.rand(())
    torch.manual_seed(3)
    second = HostCall(pipe, "a", height=32, width=32).draw(1)
    assert torch.equal(first.noise, second.noise) and first.seeds == second.seeds
    assert torch.equal(after, torch.rand(()))
    assert torch.initial_seed() == 3


def test_seeds_are_given_only_where_they_alone_make_the_noise():
    pipe, size = unet.pipeline(), dict(height=32, width=32)
    used = generators(1)[0]
    torch.rand((), generator=used)
    assert HostCall(pipe, "a", used, **size).draw(2).seeds[0] is None
    noise = torch.randn(1, 4, 16, 16)
    assert HostCall(pipe, "a", generators(1)[0], noise, **size).draw(1).seeds == (None,)
    fresh = HostCall(pipe, "a", generators(1)[0], **size).draw(1)
    assert fresh.seeds == (1,) and fresh.with_noise(noise).seeds == (None,)


def test_noise_of_a_flow_scheduler_comes_from_the_generators_of_the_call():
    pipe = sd3.pipeline()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        pipe.scheduler.config, stochastic_sampling=True
    )
    call = HostCall(
        pipe, "a", generators(1)[0], height=32, width=32, num_inference_steps=3, max_sequence_length=16
    )
    start = call.draw(1)
    step = call.pipe.scheduler.step
    assert torch.equal(call.run(start), call.run(start))
    assert call.pipe.scheduler.step == step
