"""The step of a denoiser call agrees with the pipeline's own count, for every scheduler of diffusers."""

import copy
import inspect
import math
import threading

import diffusers
import pytest
import torch
from diffusers import (
    FlowMatchHeunDiscreteScheduler,
    LCMScheduler,
    SchedulerMixin,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLPipeline,
    TCDScheduler,
)
from PIL import Image

import diffusers_ext as dx

from ..hosts import built, host
from ..tiny_models import unet
from .test_hook import Recorder

BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
SIGMAS = {
    "plain": None,
    "karras": "use_karras_sigmas",
    "exponential": "use_exponential_sigmas",
    "beta": "use_beta_sigmas",
    "lu": "use_lu_lambdas",
}
PICTURE = Image.new("RGB", (16, 16), "grey")


def schedulers():
    """Classes that Stable Diffusion takes; in place of one that needs torchsde there may be a stand-in."""
    names = {c.__name__ for c in unet.pipeline().scheduler.compatibles if issubclass(c, SchedulerMixin)}
    return [getattr(diffusers, n) for n in sorted(names)] + [LCMScheduler, TCDScheduler]


def cases():
    for cls in schedulers():
        known = inspect.signature(cls.__init__).parameters
        for name, flag in SIGMAS.items():
            if flag is None or flag in known:
                yield pytest.param(cls, {flag: True} if flag else {}, None, id=f"{cls.__name__}-{name}")
        if "timesteps" in inspect.signature(cls.set_timesteps).parameters:
            yield pytest.param(cls, {}, [951, 701, 401, 201, 51], id=f"{cls.__name__}-custom")


class Steps(Recorder):
    """Notes step and number of steps at each call of one module."""

    def note(self, site, run, q):
        return run.step, run.steps


@pytest.fixture(scope="module")
def pipes():
    """Text to image and image to image around one denoiser of a single level."""
    small = dict(
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        attention_head_dim=2,
    )
    text = unet.pipeline(**small)
    image = StableDiffusionImg2ImgPipeline(**text.components, requires_safety_checker=False)
    for pipe in (text, image):
        pipe.set_progress_bar_config(disable=True)
    return text, image


def compare(pipe, **call):
    """A session sees the steps of the pipeline: its loop index over the order of the scheduler."""
    own = []

    def note(pipe, index, timestep, tensors):
        own.append(index)
        return {}

    method = Steps()
    with dx.apply(pipe, method):
        pipe(
            "a",
            output_type="latent",
            guidance_scale=1.0,
            callback_on_step_end=note,
            callback_on_step_end_tensor_inputs=[],
            generator=torch.Generator().manual_seed(0),
            **call,
        )
    order = pipe.scheduler.order
    steps = math.ceil(pipe.num_timesteps / order)
    assert method.seen == [(index // order, steps) for index in own] and own


@pytest.mark.parametrize(("cls", "config", "timesteps"), list(cases()))
def test_steps_are_those_of_the_pipeline(cls, config, timesteps, pipes):
    for pipe in pipes:
        pipe.scheduler = cls(
            **{k: v for k, v in BETAS.items() if k in inspect.signature(cls).parameters}, **config
        )
    text, image = pipes
    if timesteps:
        compare(text, height=16, width=16, num_inference_steps=None, timesteps=timesteps)
        compare(image, image=PICTURE, strength=1.0, num_inference_steps=None, timesteps=timesteps)
    else:
        compare(text, height=16, width=16, num_inference_steps=10)
        for steps, strength in ((8, 0.5), (40, 0.1)):
            compare(image, image=PICTURE, strength=strength, num_inference_steps=steps)


def test_second_order_flow_matching_counts_two_calls_a_step():
    h, pipe = built("sd3")
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    compare(pipe, **h.size, **h.extra, num_inference_steps=4)
    image = StableDiffusion3Img2ImgPipeline(**pipe.components)
    image.set_progress_bar_config(disable=True)
    compare(image, image=PICTURE, strength=0.5, **h.size, **h.extra, num_inference_steps=8)


def test_a_run_that_stops_early_has_the_steps_that_are_taken():
    pipe = unet.pipeline(sdxl=True)
    assert isinstance(pipe, StableDiffusionXLPipeline)
    compare(pipe, height=32, width=32, num_inference_steps=10, denoising_end=0.5)
    assert pipe.num_timesteps == 5


def test_steps_of_a_loop_around_the_parts_of_a_pipeline(pipes):
    pipe, _ = pipes
    pipe.scheduler = diffusers.EulerDiscreteScheduler(**BETAS)
    call = {k: v for k, v in unet.inputs(1).items() if k != "timestep"}
    method = Steps()
    with dx.apply(pipe, method):
        pipe("a", height=16, width=16, num_inference_steps=3, output_type="latent")
        pipe.scheduler.set_timesteps(6)
        for t in pipe.scheduler.timesteps:
            sample = pipe.scheduler.scale_model_input(call["sample"], t)
            out = pipe.unet(**call | {"sample": sample}, timestep=t)[0]
            pipe.scheduler.step(out, t, call["sample"])
    assert method.seen[-6:] == [(i, 6) for i in range(6)]


def copies(pipe, count):
    """Shallow copies with a scheduler of their own, as a server makes one for each request."""
    made = [copy.copy(pipe) for _ in range(count)]
    for one in made:
        one.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    return made


def stepping(kind, h, start=0.5):
    """A method that does nothing in the first steps."""
    if kind == "guidance":
        return dx.SoftPAG(heads={h.layer: None}, start=start)
    return dx.GNA((3, 3, 3) if h.video else (3, 3), dense_steps=2, backend="reference")


@pytest.mark.parametrize(
    "name, kind",  # each pipeline once, and each kind with guidance in one batch and in two calls
    [
        ("sd3", "sparse"),
        ("sd", "guidance"),
        ("flux", "sparse"),
        ("wan", "guidance"),
        ("hunyuan-video", "guidance"),
        ("mochi", "sparse"),
    ],
)
def test_a_copy_with_other_steps_runs_as_under_a_session_of_its_own(name, kind):
    h = host(name)
    base = h.build()
    method = stepping(kind, h)
    other, alone = copies(base, 2)
    with dx.apply(alone, method):
        want = h.run(alone, cfg=True, steps=4)
    with dx.apply(base, method):
        h.run(base, cfg=True, steps=3)
        got = h.run(other, cfg=True, steps=4)
        again = h.run(other, cfg=True, steps=4)
    assert torch.equal(got, want) and torch.equal(again, want)
    assert not torch.equal(want, h.run(base, cfg=True, steps=4))


@pytest.mark.parametrize(
    "name, kind", [("sd3", "sparse"), ("sd", "guidance"), ("flux", "guidance"), ("wan", "sparse")]
)
def test_copies_in_threads_run_as_they_do_alone(name, kind):
    """Sizes, steps, seeds and guidance differ; tokenizers are shared, so prompts are embedded."""
    h = host(name)
    base = h.build()
    names = [
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    ]
    encode = dict(max_sequence_length=16) if h.extra else {}
    if name == "flux":
        embeds = dict(zip([names[0], names[2]], base.encode_prompt("a", None, **encode)[:2], strict=True))
        embeds |= {f"negative_{k}": v * 0.5 for k, v in embeds.items()}
        guided = {"true_cfg_scale": 4.0}
    elif name == "sd3":
        embeds = dict(zip(names, base.encode_prompt("a", None, None, **encode), strict=True))
        guided = {"guidance_scale": 4.0}
    else:
        args = ("a", "cpu", 1, True) if name == "sd" else ("a",)
        embeds = dict(zip(names, base.encode_prompt(*args, **encode), strict=False))
        guided = {"guidance_scale": 4.0}
    method = stepping(kind, h, start=0.4)

    def request(pipe, number, out):
        size = h.size | {"width": h.size["width"] + 16 * number}
        with torch.no_grad():
            try:
                out[number] = pipe(
                    **embeds,
                    **size,
                    **h.extra,
                    **guided,
                    num_inference_steps=5 + number,
                    generator=torch.Generator().manual_seed(number),
                    output_type="latent",
                    return_dict=False,
                )[0]
            except Exception as error:  # a thread that dies in silence would pass
                out[number] = error

    alone, together = {}, {}
    with dx.apply(base, method):
        for number, pipe in enumerate(copies(base, 2)):
            request(pipe, number, alone)
        threads = [
            threading.Thread(target=request, args=(pipe, number, together))
            for number, pipe in enumerate(copies(base, 2))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number in alone:
        assert isinstance(together[number], torch.Tensor), together[number]
        # Two threads may share the CPU cores in another way than one: the same within rounding.
        torch.testing.assert_close(together[number], alone[number], rtol=1e-4, atol=1e-5)


def test_threads_with_named_branches_keep_their_own_names():
    """`cache_context` of diffusers names the branch of a call, for the thread that opened it."""
    h, pipe = built("wan")
    with dx.apply(pipe, dx.SoftPAG(heads={h.layer: None})) as session:
        hook = session._hooks[0]
        with pipe.transformer.cache_context("cond"):
            names = []
            thread = threading.Thread(target=lambda: names.append(hook._context.name))
            thread.start()
            thread.join()
            assert names == [None] and hook._context.name == "cond"
        assert hook._context.name is None


@pytest.mark.parametrize(
    ("method", "match"),
    [
        (
            dx.CLEAR(radius=2, dense_steps=12, backend="reference"),
            "dense_steps=12 keeps all of its 3 steps dense",
        ),
        (dx.CLEAR(radius=40, backend="reference"), "clear hides nothing on this grid"),
        (dx.SoftPAG(start=0.5, stop=0.5), "none of its 3 steps is between start=0.5 and stop=0.5"),
    ],
    ids=["dense steps", "nothing hidden", "empty window"],
)
def test_a_method_that_changed_nothing_says_so_once(method, match, recwarn):
    h, pipe = built("sd3")
    plain = h.run(pipe)
    with dx.apply(pipe, method) as session:
        assert torch.equal(plain, h.run(pipe)) and torch.equal(plain, h.run(pipe))
    assert session.report().extra_passes == 0
    said = [str(w.message) for w in recwarn if "diffusers_ext" in str(w.message)]
    assert len(said) == 1 and f"{method.name} changed nothing in this run" in said[0] and match in said[0]


@pytest.mark.parametrize(
    "method", [dx.SoftPAG(scale=0.0), dx.SoftPAG(strength=0.0)], ids=["scale", "strength"]
)
def test_guidance_that_is_switched_off_is_silent(method, recwarn):
    h, pipe = built("sd3")
    plain = h.run(pipe)
    with dx.apply(pipe, method):
        assert torch.equal(plain, h.run(pipe))
    assert not [w for w in recwarn if "diffusers_ext" in str(w.message)]


def test_dense_steps_of_a_bare_denoiser_count_where_a_pipeline_calls():
    h, pipe = built("sd3")
    method = dx.CLEAR(radius=2, dense_steps=2, backend="reference")
    with dx.apply(pipe, method):
        want = h.run(pipe, steps=4)
    with dx.apply(pipe.transformer, method):
        assert torch.equal(want, h.run(pipe, steps=4))
