"""Pipelines with methods and a sampler: the pictures of doing it by hand, and a pipeline left as it was."""

import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

import diffusers_ext as dx
from diffusers_ext.families.denoisers import denoisers
from diffusers_ext.pipelines import chosen
from diffusers_ext.pipelines.base import output_of
from diffusers_ext.rewards.base import ensemble

from ..hosts import built, every_call, host, processors
from ..sampling.searches import redness

HEADS = {host("sd").layer: None}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def call_of(tiny, **more):
    asked = tiny.size | tiny.extra | tiny.unguided
    return asked | dict(prompt="a red circle", num_inference_steps=2, output_type="np") | more


@contextmanager
def unchanged(pipe):
    """Asserts that components, processors, hooks and class of a pipeline are the same afterwards."""

    def state():
        models = denoisers(pipe).values()
        hooks = [list(m._diffusers_hook.hooks) if hasattr(m, "_diffusers_hook") else [] for m in models]
        return type(pipe), dict(pipe.components), [processors(m) for m in models], hooks

    before = state()
    try:
        yield
    finally:
        assert state() == before


def pictures(out):
    return out.frames if "frames" in out else out.images


@every_call
def test_a_call_is_that_under_a_session(host):
    pipe = host.build()
    kind = dx.VideoExtPipeline if host.video else dx.ImageExtPipeline
    method = dx.SoftPAG(heads={host.layer: None}, scale=3.0)
    plain = pipe(**call_of(host, generator=generator()))
    with dx.apply(pipe, method):
        wanted = pipe(**call_of(host, generator=generator()))
    ours = kind(pipe, [method])
    with unchanged(pipe):
        out = ours(**call_of(host, generator=generator()))
        assert type(out) is type(wanted) and np.array_equal(pictures(out), pictures(wanted))
        assert out.report.extra_passes == 2 and ours.report is out.report
    assert not np.array_equal(pictures(out), pictures(plain))
    without = kind(pipe)(**call_of(host, generator=generator()))
    assert np.array_equal(pictures(without), pictures(plain)) and without.report is None


def test_the_pipeline_is_neither_copied_nor_cast():
    pipe = host("sd3").build()
    pipe.transformer.to(torch.bfloat16)
    ours = dx.ImageExtPipeline.from_pretrained(pipe, methods=[dx.SoftPAG()])
    assert ours.pipe is pipe and pipe.transformer.dtype == torch.bfloat16
    assert pipe.vae.dtype == torch.float32 and ours.to("cpu") is ours


def test_the_prompt_may_come_first_and_arguments_of_the_call_are_defaults():
    tiny, pipe = built("sd3")
    asked = call_of(tiny)
    prompt = asked.pop("prompt")
    ours = dx.ImageExtPipeline(pipe, call=asked | {"num_inference_steps": 1})
    one = ours(prompt, generator=generator())
    assert np.array_equal(
        one.images, pipe(prompt, generator=generator(), **asked | {"num_inference_steps": 1}).images
    )
    two = ours(prompt, generator=generator(), num_inference_steps=2)
    assert np.array_equal(two.images, pipe(prompt, generator=generator(), **asked).images)
    assert isinstance(ours(prompt, return_dict=False), tuple)


@pytest.mark.parametrize("sampler", [None, "best-of-2"])
def test_errors_leave_the_pipeline_as_it_was(sampler):
    tiny, pipe = built("sd")
    ours = dx.ImageExtPipeline.from_pretrained(
        pipe, [dx.SoftPAG(heads=HEADS), dx.CLEAR(2, backend="reference")], sampler, rewards=[redness]
    ) if sampler else dx.ImageExtPipeline(pipe, [dx.SoftPAG(heads=HEADS)])  # fmt: skip

    def broken(pipe, step, timestep, state):
        raise RuntimeError("broken")

    asked = call_of(tiny)
    plain = pipe(**asked, generator=generator()).images
    with unchanged(pipe), pytest.raises(RuntimeError, match="broken"):
        ours(**asked, callback_on_step_end=broken)
    with unchanged(pipe), pytest.raises(ValueError):
        ours(**asked | {"height": 7})
    assert np.array_equal(pipe(**asked, generator=generator()).images, plain)


def test_a_with_block_leaves_the_methods_on_between_calls():
    tiny, pipe = built("sd")
    ours = dx.ImageExtPipeline(pipe, [dx.SoftPAG(heads=HEADS)])
    before = processors(pipe.unet)
    with ours:
        first = ours(**call_of(tiny, generator=generator()))
        assert processors(pipe.unet) != before
        assert ours(**call_of(tiny, generator=generator())).report.extra_passes == 4
        with pytest.raises(dx.MethodError, match="on already"):
            ours.__enter__()
    assert processors(pipe.unet) == before
    assert np.array_equal(ours(**call_of(tiny, generator=generator())).images, first.images)


@pytest.mark.parametrize("name", ["sd3", "wan"])
def test_a_search_returns_the_pipelines_own_output(name):
    tiny, pipe = built(name)
    sampler = dx.BestOfN(n=3, rewards=redness)
    wanted = sampler.sample(pipe, generator=generator(), progress=False, **call_of(tiny))
    ours = dx.NoiseSearchPipeline(pipe, sampler=sampler)
    with unchanged(pipe):
        out = ours(generator=generator(), progress=False, **call_of(tiny))
    assert type(out) is type(pipe(**call_of(tiny)))
    assert np.array_equal(pictures(out), wanted.images) and torch.equal(out.scores, wanted.scores)
    assert (out.seeds, out.nfe, len(out.result.history)) == (wanted.seeds, wanted.nfe, 3)
    (alone,) = ours(generator=generator(), progress=False, return_dict=False, **call_of(tiny))
    assert np.array_equal(alone, wanted.images)


def test_a_search_under_a_method():
    tiny, pipe = built("sd3")
    sampler, method = dx.BestOfN(n=2, rewards=redness), dx.SoftPAG(scale=3.0)
    with dx.apply(pipe, method):
        wanted = sampler.sample(pipe, generator=generator(), progress=False, **call_of(tiny))
    out = dx.ImageExtPipeline(pipe, [method], sampler)(generator=generator(), progress=False, **call_of(tiny))
    assert np.array_equal(out.images, wanted.images) and out.report.extra_passes > 0


@pytest.mark.parametrize("given", ["shapes-clip", ("shapes-clip",), [("shapes-clip", 2.0)], (redness,)])
def test_rewards_by_name_are_built(given):
    sampler = chosen.sampler("best-of-2", given, None)
    ((reward, weight),) = ensemble(sampler.rewards).parts
    assert reward.name == ("redness" if given == (redness,) else "shapes-clip")
    assert weight == (2.0 if isinstance(given, list) else 1.0)


@pytest.mark.parametrize("given", [{"shapes-clip": 1}, {"shapes-clip"}, 3, [3], [], ("shapes-clip", 2.0)])
def test_what_is_no_reward_is_refused_at_once(given):
    with pytest.raises(ValueError, match="reward"):
        chosen.sampler("best-of-2", given, None)


def test_outputs_of_every_pipeline_are_known():
    for tiny, pipe in map(built, ("sd3", "sd", "sdxl", "flux", "wan", "hunyuan-video", "skyreels", "mochi")):
        out = output_of(pipe, "pictures")
        assert type(out) is type(pipe(**call_of(tiny) | {"output_type": "latent"})), tiny.name
        assert pictures(out) == "pictures"


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: dx.ImageExtPipeline(host("wan").build()), "WanPipeline, which makes videos; use VideoExt"),
        (lambda: dx.VideoExtPipeline(host("sd3").build()), "makes pictures; use ImageExtPipeline"),
        (lambda: dx.NoiseSearchPipeline(host("sd3").build()), "needs a sampler, got none"),
        (lambda: dx.ImageExtPipeline("shapes-sd"), "takes a pipeline of diffusers, got str; use from_pre"),
        (lambda: dx.ImageExtPipeline(host("sd3").build(), sampler=3), "takes a sampler, got 3"),
        (lambda: dx.ImageExtPipeline(host("sd3").build(), call={"stepps": 3}), "takes no stepps"),
        (
            lambda: dx.ImageExtPipeline(host("sd").build(), dx.BestOfN()),
            "a list of methods, .*; pass it as sampler=",
        ),
        (lambda: dx.ImageExtPipeline(host("sd").build(), dx.SoftPAG), r"write methods=\[dx.SoftPAG\(\)\]"),
        # Stable Diffusion takes any name, and drops what it does not know.
        (lambda: dx.ImageExtPipeline(host("sd").build())("a", guidence_scale=9), "takes no guidence_scale"),
        (
            lambda: dx.ImageExtPipeline(host("sd").build())("a", num_inference_steps=0),
            "from 1 to 1000, got 0",
        ),
        (
            lambda: dx.ImageExtPipeline(host("sd").build())("a", guidance_scale=math.inf),
            "finite number, got inf",
        ),
        (
            lambda: dx.ImageExtPipeline.from_pretrained("shapes-sd", method="softpag"),
            r"from_pretrained\(\) takes methods=, got method=; write methods=",
        ),
        (
            lambda: dx.ImageExtPipeline.from_pretrained("shapes-sd", dtype=torch.float16, samplr="best-of-2"),
            "takes sampler=, got samplr=;",
        ),
        (
            lambda: dx.ImageExtPipeline.from_pretrained(host("sd3").build(), ["softpg"]),
            "unknown method 'softpg'",
        ),
        (
            lambda: dx.ImageExtPipeline.from_pretrained(host("sd3").build(), sampler="best-of-8"),
            r"best-of-8 chooses by a reward, and none is known for this model; pass rewards=\['hpsv2'\]",
        ),
        (
            lambda: dx.ImageExtPipeline.from_pretrained(host("sd3").build(), sampler="softpag"),
            "sampler takes the name of a search, got 'softpag'",
        ),
        (
            lambda: dx.ImageExtPipeline.from_pretrained(
                host("sd3").build(), sampler=dx.BestOfN(), rewards=[redness]
            ),
            "has its own rewards",
        ),
        (
            lambda: dx.ImageExtPipeline.from_pretrained(host("sd3").build(), dtype=torch.float16),
            "takes no dtype; leave it out",
        ),
    ],
)
def test_what_does_not_fit_gets_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_pipeline_of_the_user_may_hand_its_arguments_on():
    class Mine(StableDiffusionPipeline):
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs)

    found, pipe = built("sd")
    mine = Mine(**pipe.components, requires_safety_checker=False)
    asked = call_of(found, generator=generator())
    wanted = mine(**asked).images
    made = dx.ImageExtPipeline(mine, call={"num_inference_steps": asked.pop("num_inference_steps")})
    assert np.array_equal(made(**asked | {"generator": generator()}).images, wanted)
    with pytest.raises(dx.MethodError, match="from 1 to 1000, got 0"):
        made("a", num_inference_steps=0)


def test_what_the_pipeline_of_diffusers_has_is_named():
    made = dx.ImageExtPipeline(host("sd3").build())
    with pytest.raises(AttributeError, match=r"'transformer', but .* has: write \.pipe\.transformer"):
        _ = made.transformer
    with pytest.raises(AttributeError, match=r"no attribute 'unet'$"):
        _ = made.unet


def test_one_method_needs_no_list():
    found, pipe = built("sd")
    method = dx.SoftPAG(heads={found.layer: None})
    one, listed = (dx.ImageExtPipeline(pipe, given) for given in (method, [method]))
    assert one.methods == listed.methods == (method,)
    named = dx.ImageExtPipeline.from_pretrained("shapes-sd", "softpag")
    assert named.methods == dx.ImageExtPipeline.from_pretrained("shapes-sd", ["softpag"]).methods


@pytest.mark.parametrize("use", [dx.summary, dx.remove, lambda made: dx.apply(made, dx.SoftPAG())])
def test_where_a_pipeline_of_diffusers_is_wanted(use):
    made = dx.ImageExtPipeline(host("sd3").build())
    with pytest.raises(
        dx.UnsupportedError, match=r"holds a StableDiffusion3Pipeline .*; pass its attribute pipe"
    ):
        use(made)
