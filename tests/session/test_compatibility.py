"""These rows of the table of compatibility in DESIGN.md are tested in no other file.

They are perturbed attention of diffusers, quantised layers, a cache of the second denoiser, and processors
that come after apply.
"""

import pytest
import torch
from diffusers import (
    FirstBlockCacheConfig,
    StableDiffusion3PAGPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionXLPAGPipeline,
)
from diffusers.models.attention_processor import XFormersAttnProcessor
from torch import Tensor, nn

import diffusers_ext as dx

from ..hosts import built, host, processors
from ..tiny_models import sd3, unet
from .test_over_time import every_case, softpag, sparse
from .test_session import same_state, state_of

PAG = {
    "sd": (StableDiffusionPAGPipeline, "mid"),
    "sdxl": (StableDiffusionXLPAGPipeline, "mid"),
    "sd3": (StableDiffusion3PAGPipeline, r"transformer_blocks\.1"),
}


def with_pag(name):
    kind, layers = PAG[name]
    parts = {k: v for k, v in host(name).build().components.items() if k not in ("image_encoder",)}
    if name == "sd3":
        parts.pop("feature_extractor", None)
    more = {"sd": dict(requires_safety_checker=False), "sdxl": dict(add_watermarker=False)}.get(name, {})
    pipe = kind(**parts, **more, pag_applied_layers=layers)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    "name, method, cfg",
    [
        ("sd", softpag, True),
        ("sd", sparse, False),
        ("sdxl", softpag, False),
        ("sd3", softpag, True),
        ("sd3", sparse, True),
    ],
)
def test_perturbed_attention_of_diffusers_is_refused_and_can_be_switched_off(name, method, cfg):
    """Its own default is on. The advice holds in the open session, and the pipeline is unchanged after it."""
    case, pipe, run = host(name), with_pag(name), dict(cfg=cfg, steps=2)
    plain, theirs = case.run(pipe, **run, pag_scale=0.0), case.run(pipe, **run, pag_scale=3.0)
    assert not torch.equal(plain, theirs)
    before = state_of(pipe)
    with dx.apply(pipe, method(case)):
        wanted = case.run(pipe, **run, pag_scale=0.0)
    assert not torch.equal(wanted, plain)
    with dx.apply(pipe, method(case)):
        for _ in range(2):
            with pytest.raises(dx.ConflictError, match="pag_scale=0"):
                case.run(pipe, **run)
            assert torch.equal(case.run(pipe, **run, pag_scale=0.0), wanted)
        with pytest.raises(dx.ConflictError, match="pag_scale=0"):
            case.run(pipe, **run)
    assert same_state(before, state_of(pipe))
    assert torch.equal(case.run(pipe, **run, pag_scale=0.0), plain)
    assert torch.equal(case.run(pipe, **run, pag_scale=3.0), theirs)


class Int8(nn.Module):
    """A linear layer in eight bits a weight, without an attribute `weight`."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("codes", (linear.weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.codes * self.scale, self.bias)


@every_case
def test_quantised_layers_are_called_and_never_read(case):
    pipe = case.build()
    unquantised, count = case.run(pipe, steps=2), 0
    for component in ("unet", "transformer", "transformer_2"):
        model = getattr(pipe, component, None)
        for name in processors(model) if model is not None else ():
            attention = model.get_submodule(name)
            for path, layer in list(attention.named_modules()):
                if isinstance(layer, nn.Linear):
                    attention.set_submodule(path, Int8(layer))
                    count += 1
    plain = case.run(pipe, steps=2)
    assert count >= 8 and not torch.equal(plain, unquantised)
    with dx.apply(pipe):
        assert torch.equal(case.run(pipe, steps=2), plain)
    with dx.apply(pipe, softpag(case), sparse(case)):
        assert not torch.equal(case.run(pipe, steps=2), plain)
    assert torch.equal(case.run(pipe, steps=2), plain)


def test_a_cache_of_the_second_denoiser_is_a_conflict_before_and_after():
    case, pipe = built("wan2.2")
    cache, before = FirstBlockCacheConfig(threshold=0.1), state_of(pipe)
    with dx.apply(pipe, softpag(case)):
        pipe.transformer_2.enable_cache(cache)
        with pytest.raises(dx.ConflictError, match=r"poison the residuals.*call disable_cache\(\) first"):
            case.run(pipe, cfg=True, steps=3)
        pipe.transformer_2.disable_cache()
        case.run(pipe, cfg=True, steps=3)
    assert {name: facts[:2] for name, facts in state_of(pipe).items()} == {
        name: facts[:2] for name, facts in before.items()
    }
    pipe.transformer_2.enable_cache(cache)
    with pytest.raises(dx.ConflictError, match=r"call disable_cache\(\) first"):
        dx.apply(pipe, softpag(case))
    assert {n: f[0] for n, f in state_of(pipe).items()} == {n: f[0] for n, f in before.items()}


def _fused(pipe):
    pipe.fuse_qkv_projections()


def _sliced(pipe):
    pipe.enable_attention_slicing()


def _xformers(pipe):
    model = getattr(pipe, "unet", None) or pipe.transformer
    model.set_attn_processor(XFormersAttnProcessor())


@pytest.mark.parametrize("method", [softpag, sparse])
@pytest.mark.parametrize(
    "name, change", [("sd", _fused), ("sd", _sliced), ("sd", _xformers), ("sdxl", _fused)]
)
def test_processors_that_come_after_apply_are_an_error_in_the_run_and_named_at_the_end(name, change, method):
    case, pipe = built(name)
    session = dx.apply(pipe, method(case))
    case.run(pipe, steps=2)
    change(pipe)
    with pytest.raises(RuntimeError, match=r"were replaced after apply.*close the session and apply again"):
        case.run(pipe, steps=2)
    with pytest.warns(UserWarning, match="were replaced by someone else and are left as they are"):
        session.close()


@pytest.mark.parametrize("build", [sd3.transformer, unet.unet], ids=["sd3", "unet"])
@pytest.mark.parametrize("method", [dx.SoftPAG(), dx.CLEAR(2, backend="reference")], ids=lambda m: m.name)
def test_fusing_after_apply_is_an_error_in_the_call_of_a_bare_denoiser(build, method):
    model = build()
    call = (unet if build is unet.unet else sd3).inputs(1)
    session = dx.apply(model, method)
    model.fuse_qkv_projections()
    with pytest.raises(RuntimeError, match="were replaced after apply"):
        model(**call)
    with pytest.warns(UserWarning, match="replaced by someone else"):
        session.close()
