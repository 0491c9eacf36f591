"""Guiders of modular pipelines: linear ones are guided right, others are refused by name."""

import inspect
import types

import diffusers
import pytest
import torch
from diffusers.guiders import BaseGuidance

import diffusers_ext as dx
from diffusers_ext.session.cfg import LINEAR_GUIDERS

from ..tiny_models import flux, wan


def guiders():
    from diffusers import guiders as module

    kinds = [getattr(module, name) for name in dir(module)]
    return [k for k in kinds if isinstance(k, type) and issubclass(k, BaseGuidance) and k is not BaseGuidance]


def modular(guider, monkeypatch):
    from diffusers.modular_pipelines import WanBlocks
    from diffusers.modular_pipelines.wan import encoders

    # ftfy only mends broken unicode; it is an extra of diffusers
    monkeypatch.setattr(encoders, "ftfy", types.SimpleNamespace(fix_text=lambda text: text), raising=False)
    parts = wan.pipeline().components
    pipe = WanBlocks().init_pipeline()
    names = ("vae", "text_encoder", "tokenizer", "transformer", "scheduler")
    pipe.update_components(**{name: parts[name] for name in names}, guider=guider)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run_modular(pipe, steps=3):
    return pipe(
        prompt="a",
        negative_prompt="b",
        height=32,
        width=32,
        num_frames=5,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0),
        output="latents",
        max_sequence_length=16,
    )


@pytest.mark.parametrize("kind", guiders(), ids=lambda kind: kind.__name__)
def test_guiders_are_linear_or_refused_by_name(kind, monkeypatch):
    known = inspect.signature(kind).parameters
    settings = {name: [0] for name in known if name.endswith("_layers")} | {
        "guidance_scale": 4.0,
        "dropout": 0.1,
    }
    try:
        guider = kind(**{name: value for name, value in settings.items() if name in known})
    except ImportError:
        pytest.skip(f"{kind.__name__} of the host needs kornia")
    pipe = modular(guider, monkeypatch)
    method = dx.SoftPAG(heads={"blocks.1.attn1": None}, scale=2.0, strength=1.0)
    if kind.__name__ not in LINEAR_GUIDERS:
        with pytest.raises(
            dx.UnsupportedError, match=f"the guider of WanModularPipeline is a {kind.__name__}"
        ):
            dx.apply(pipe, method)
        return
    seen, forward = {}, type(guider).forward

    def note(self, pred_cond, pred_uncond=None):
        out = forward(self, pred_cond=pred_cond, pred_uncond=pred_uncond)
        seen.setdefault("pred", []).append(out.pred)
        return out

    monkeypatch.setattr(kind, "forward", note)
    run_modular(pipe, steps=1)
    with dx.apply(pipe, method) as session:
        run_modular(pipe, steps=1)
    assert (session.report().denoiser_calls, session.report().extra_passes) == (2, 1)
    plain, guided = seen["pred"]
    # The same model by hand: what the method adds to the first prediction is w (c - p), once.
    with dx.apply(pipe.transformer, method):
        pass
    calls = []
    handle = pipe.transformer.register_forward_hook(
        lambda m, a, k, o: calls.append((k, o[0])), with_kwargs=True
    )
    run_modular(pipe, steps=1)
    handle.remove()
    call, cond = calls[0]
    with dx.apply(pipe.transformer, method):
        bare = pipe.transformer(**call | {"return_dict": False})[0]
    torch.testing.assert_close(guided - plain, bare - cond, rtol=1e-3, atol=1e-4)
    assert (bare - cond).abs().max() > 1e-3


@pytest.mark.parametrize("config", [{"guidance_rescale": 0.5}], ids=["rescaled"])
def test_a_linear_guider_with_other_settings_is_refused_also_after_apply(config, monkeypatch):
    linear = diffusers.ClassifierFreeGuidance(guidance_scale=4.0)
    pipe = modular(diffusers.ClassifierFreeGuidance(guidance_scale=4.0, **config), monkeypatch)
    with pytest.raises(dx.UnsupportedError, match="the guider of WanModularPipeline rescales them"):
        dx.apply(pipe, dx.SoftPAG())
    pipe.update_components(guider=linear)
    with dx.apply(pipe, dx.SoftPAG(heads={"blocks.1.attn1": None})) as session:
        run_modular(pipe)
        assert (session.report().denoiser_calls, session.report().extra_passes) == (6, 3)
        pipe.update_components(guider=diffusers.ClassifierFreeGuidance(guidance_scale=4.0, **config))
        with pytest.raises(dx.UnsupportedError, match="rescales them"):
            run_modular(pipe)


def test_a_third_call_at_a_point_is_refused():
    model, call = flux.transformer(), flux.inputs(1)
    with dx.apply(model, dx.SoftPAG(), cfg="two_calls"):
        model(**call)
        model(**call)
        with pytest.raises(dx.UnsupportedError, match="called the denoiser a third time"):
            model(**call)
