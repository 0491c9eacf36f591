"""Test guidance arguments over all families: one that is asked changes the picture, or is refused."""

import functools
import inspect
import itertools
import json
from dataclasses import replace

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, StableDiffusionPanoramaPipeline
from PIL import Image

from diffusers_ext.sampling.call import arguments, run
from diffusers_ext.sampling.guidance_arguments import embeds_guidance, read, switch, uses_cfg
from tests.hosts import HOSTS, built, every_host, host
from tests.tiny_models import flux, hunyuan_video, unet

VALUES = {"negative_prompt": "blue", "guidance_scale": 6.5, "true_cfg_scale": 3.0}  # nobody's defaults
# No other test has a HunyuanVideo without guidance embedding.
EMBEDLESS = pytest.param(
    lambda: hunyuan_video.pipeline(guidance_embeds=False), host("hunyuan-video"), id="hunyuan-video-plain"
)


def latents(tiny, pipe, call):
    return replace(tiny, unguided=call).run(pipe, steps=tiny.least_steps)


kept = functools.cache(lambda build: build())  # calls leave pipelines as they are


def takes(pipe, option):
    return option in inspect.signature(type(pipe).__call__).parameters


def settings(tiny, cfg):
    return dict(tiny.guided if cfg else tiny.unguided)


@pytest.mark.parametrize("option", VALUES)
@pytest.mark.parametrize("cfg", [True, False], ids=["cfg", "plain"])
@pytest.mark.parametrize("build, tiny", [pytest.param(h.build, h, id=h.name) for h in HOSTS] + [EMBEDLESS])
def test_what_is_asked_changes_the_picture_or_is_refused(build, tiny, cfg, option):
    pipe = kept(build)
    own = settings(tiny, cfg)
    own.pop(option, None)
    asked = {option: VALUES[option]}
    if not takes(pipe, option):
        with pytest.raises(ValueError, match=f"takes no {option}|needs image"):
            arguments(pipe, {}, **asked)
        return
    without = latents(tiny, pipe, own)
    try:
        call = read(pipe, own, asked)
    except ValueError:
        same = latents(tiny, pipe, own | asked)
        assert torch.equal(same, without), "what is refused would have had no effect"
    else:
        assert call[option] == VALUES[option]
        assert not torch.equal(latents(tiny, pipe, call), without)


@every_host
def test_the_rule_is_that_of_the_host(host):
    """Count the rows and calls of the denoiser, which CFG doubles."""
    pipe = host.build()
    rows = []
    for name in ("unet", "transformer", "transformer_2"):
        if (model := getattr(pipe, name, None)) is not None:
            model.register_forward_pre_hook(
                lambda m, args, kwargs: rows.append(len(kwargs.get("hidden_states", (args or [None])[0]))),
                with_kwargs=True,
            )
    work = {}
    for cfg in (True, False):
        rows.clear()
        host.run(pipe, cfg=cfg, steps=host.least_steps)
        work[cfg] = sum(rows)
        assert uses_cfg(pipe, settings(host, cfg)) is cfg
    assert work[True] == 2 * work[False]


@every_host
def test_defaults_that_are_not_read_are_not_recorded(host):
    pipe = host.build()
    own = {"negative_prompt": "green", "guidance_scale": 1.0, "true_cfg_scale": 1.0}
    found = read(pipe, {k: v for k, v in own.items() if takes(pipe, k)}, {})
    assert "negative_prompt" not in found
    assert ("guidance_scale" in found) == bool(switch(pipe, {}) == "guidance_scale" or embeds_guidance(pipe))


@pytest.mark.parametrize(
    "build, asked, words",
    [
        (
            flux.pipeline,
            {"negative_prompt": "green"},
            "FluxPipeline reads no negative prompt at true_cfg_scale 1; ask for a true_cfg_scale above 1 "
            "(--true-cfg-scale), or leave it out",
        ),
        (
            flux.pipeline,
            {"guidance_scale": 7.0},
            "FluxPipeline does not read guidance_scale, since this model was made without guidance "
            "embedding; "
            "leave it out, or guide by true_cfg_scale and a negative prompt (--true-cfg-scale, --negative)",
        ),
        (
            flux.pipeline,
            {"true_cfg_scale": 3.0},
            "FluxPipeline reads true_cfg_scale beside a negative prompt only; add one (--negative '' is an "
            "empty one), or leave it out",
        ),
        (
            unet.pipeline,
            {"negative_prompt": "green", "guidance_scale": 1.0},
            "StableDiffusionPipeline reads no negative prompt at guidance_scale 1; ask for a guidance_scale "
            "above 1 (--guidance-scale), or leave it out",
        ),
        (
            unet.pipeline,
            {"guidance_scale": 0.5},
            "guidance_scale 0.5 switches guidance off in StableDiffusionPipeline; ask for more, or for 0 if "
            "off is what you want",
        ),
        (
            unet.pipeline,
            {"true_cfg_scale": 2.0},
            "StableDiffusionPipeline takes no true_cfg_scale; leave it out",
        ),
    ],
)
def test_refusals_say_what_would_work(build, asked, words):
    with pytest.raises(ValueError) as caught:
        arguments(build(), {}, **asked)
    assert str(caught.value) == words


def test_a_model_that_was_made_without_guidance_is_not_told_to_use_it():
    with pytest.raises(
        ValueError, match=r"draws without classifier-free guidance \(guidance_scale 0\).*leave it"
    ):
        arguments(unet.pipeline(), {"guidance_scale": 0.0}, negative_prompt="green")


def test_pipelines_whose_property_is_not_the_rule():
    parts = unet.pipeline().components
    panorama = StableDiffusionPanoramaPipeline(**parts, requires_safety_checker=False)
    assert [uses_cfg(panorama, {"guidance_scale": s}) for s in (1.0, 4.0)] == [False, True]
    lcm = LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)
    assert switch(lcm, {}) is None and uses_cfg(lcm, {"guidance_scale": 8.0}) is False


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux", "wan", "hunyuan-video", "mochi"])
def test_each_prompt_has_its_negative(name):
    tiny, pipe = built(name)
    more = dict(tiny.size, **tiny.extra, num_inference_steps=tiny.least_steps, output_type="latent")
    call = tiny.guided | {"negative_prompt": "blue"}

    def made(*prompts):
        generator = [torch.Generator().manual_seed(0) for _ in prompts]
        return run(pipe, prompts, call, generator=generator, return_dict=False, **more)[0]

    alone, both = made("a"), made("a", "b")
    assert both.shape[0] == 2 * alone.shape[0] and (both[: len(alone)] - alone).abs().max() < 1e-4


@pytest.fixture(scope="module")
def saved_flux(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-flux"
    flux.pipeline(guidance_embeds=True).save_pretrained(folder)
    return folder


def test_every_option_that_the_record_has_was_read(saved_flux, cli, tmp_path):
    words = ["generate", "a", "-m", saved_flux, "--steps", 1, "--height", 32, "--width", 32]
    pictures = []
    for i, more in enumerate(itertools.product([[], ["--negative", "b", "--true-cfg-scale", 3]], [1, 9])):
        option, scale = more
        out = tmp_path / f"{i}.png"
        code, _, err = cli(*words, *option, "--guidance-scale", scale, "--out", out)
        assert (code, err) == (0, "")
        record = json.loads(out.with_suffix(".json").read_text())["call"]
        assert record["guidance_scale"] == scale and ("true_cfg_scale" in record) == bool(option)
        pictures.append(Image.open(out).tobytes())  # without the record inside
    assert len(set(pictures)) == 4


def test_the_end_of_a_negative_prompt_is_not_lost_in_silence(cli, saved_model, tmp_path):
    words = ["generate", "a", "-m", saved_model, "--steps", 1, "--negative", "red " * 20 + "hat"]
    code, _, err = cli(*words, "--out", tmp_path)
    assert code == 0 and "has 65 tokens, the limit of tokenizer, tokenizer_2 is 32; cut off:" in err


def test_a_schedule_of_too_few_steps():
    """The schedule of Mochi divides by half of the number of steps."""
    tiny = host("mochi")
    with pytest.raises(
        ValueError, match="MochiPipeline cannot divide its schedule into 1 steps; ask for more"
    ):
        run(tiny.build(), ["a"], tiny.size | tiny.extra | {"num_inference_steps": 1}, output_type="np")
