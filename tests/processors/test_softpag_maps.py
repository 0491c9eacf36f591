"""SoftPAG against explicit attention maps and diffusers' own PAG pipelines."""

import contextlib
import math

import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusion3PAGPipeline, StableDiffusionPAGPipeline

import diffusers_ext as dx

from ..hosts import built
from ..tiny_models import flux, hunyuan_video, mochi, sd3, wan
from .test_softpag import LAYER


@contextlib.contextmanager
def explicit_maps(numbers, perturb):
    """Every attention call written out with its map; `perturb(A [B, H, S, S]) -> A'` acts on the calls of a
    pass with the given numbers.
    """
    calls = 0
    stock = F.scaled_dot_product_attention

    def attention(query, key, value, attn_mask=None, **_):
        nonlocal calls
        q, k, v = query, key, value
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if attn_mask is not None:
            logits = (
                logits.masked_fill(~attn_mask, -math.inf)
                if attn_mask.dtype == torch.bool
                else logits + attn_mask
            )
        a = logits.softmax(-1)
        if calls in numbers:
            a = perturb(a)
        calls += 1
        return a @ v

    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = stock


def toward_identity(u, rows=slice(None)):
    """`A' = (1 - u) A + u I` on the given query rows, `u [H]`."""

    def perturb(a):
        a, u_ = a.clone(), torch.as_tensor(u)[None, :, None, None]
        a[:, :, rows] = (1 - u_) * a[:, :, rows] + u_ * torch.eye(a.shape[-1])[rows]
        return a

    return perturb


def image_first(call):
    return slice(0, call["hidden_states"][0, 0].numel() // 4)


def text_first(call):
    return slice(call["encoder_hidden_states"].shape[1], None)


# (builder, layer, numbers of the layer's calls in a pass, image rows of its sequence)
CASES = {
    "sd3": (sd3, LAYER, [1], image_first),
    "flux-double": (flux, LAYER, [1], text_first),
    "flux-single": (flux, "single_transformer_blocks.1.attn", [3], text_first),
    "wan": (wan, "blocks.1.attn1", [2], lambda call: slice(None)),
    # a call of the token refiner comes first
    "hunyuan-video-double": (hunyuan_video, LAYER, [2], image_first),
    "hunyuan-video-single": (hunyuan_video, "single_transformer_blocks.1.attn", [4], image_first),
    # a call of the text pooling comes first, then one for each row of the batch
    "mochi": (mochi, "transformer_blocks.1.attn1", [3, 4], image_first),
}


@pytest.mark.parametrize("scope", ["image_rows", "all"])
@pytest.mark.parametrize("case", CASES)
def test_equals_explicit_maps_without_cfg(case, scope):
    tiny, layer, numbers, rows = CASES[case]
    model, call = tiny.transformer().double(), _double(tiny.inputs(2))
    heads = model.get_submodule(layer).heads
    u = torch.linspace(0.2, 1.0, heads, dtype=torch.float64)
    cond = model(**call)[0]
    with explicit_maps(numbers, toward_identity(u, rows(call) if scope == "image_rows" else slice(None))):
        perturbed = model(**call)[0]
    assert (perturbed - cond).abs().max() > 1e-5  # there is something to compare
    method = dx.SoftPAG(heads={layer: dict(enumerate(u.tolist()))}, scale=2.0, scope=scope)
    with dx.apply(model, method):
        ours = model(**call)[0]
    torch.testing.assert_close(
        ours, cond + 2.0 * (cond - perturbed), rtol=1e-5, atol=1e-6
    )  # diffusers embeds the timestep in fp32


@pytest.mark.parametrize("case", ["sd3", "hunyuan-video-double", "hunyuan-video-single", "mochi"])
def test_image_block_equals_explicit_maps_in_a_model(case):
    tiny, layer, numbers, rows = CASES[case]
    model, call = tiny.transformer().double(), _double(tiny.inputs(2))
    n = rows(call).stop

    def perturb(a):
        logits = a.log()
        keep = torch.ones(a.shape[-2:], dtype=torch.bool)
        keep[:n, :n] = torch.eye(n, dtype=torch.bool)
        return logits.masked_fill(~keep, -math.inf).softmax(-1)

    cond = model(**call)[0]
    with explicit_maps(numbers, perturb):
        perturbed = model(**call)[0]
    with dx.apply(model, dx.SoftPAG(heads={layer: None}, strength=1.0, scope="image_block", scale=1.0)):
        ours = model(**call)[0]
    torch.testing.assert_close(ours, 2 * cond - perturbed, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cfg", [False, True], ids=["plain", "cfg"])
def test_equals_the_sd3_pag_pipeline(cfg):
    h, pipe = built("sd3")
    parts = {k: v for k, v in pipe.components.items() if k not in ("image_encoder", "feature_extractor")}
    oracle = StableDiffusion3PAGPipeline(**parts, pag_applied_layers=[r"transformer_blocks\.1"])
    oracle.set_progress_bar_config(disable=True)
    method = dx.SoftPAG(heads={LAYER: None}, strength=1.0, scope="image_block", scale=3.0)
    with dx.apply(pipe, method):
        ours = h.run(pipe, cfg=cfg, prompts=2)
    theirs = h.run(oracle, cfg=cfg, prompts=2, pag_scale=3.0)
    assert (theirs - h.run(pipe, cfg=cfg, prompts=2)).abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("cfg", [False, True], ids=["plain", "cfg"])
def test_equals_the_unet_pag_pipeline(cfg):
    h, pipe = built("sd")
    parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
    oracle = StableDiffusionPAGPipeline(**parts, requires_safety_checker=False, pag_applied_layers="mid")
    oracle.set_progress_bar_config(disable=True)
    with dx.apply(
        pipe, dx.SoftPAG(strength=1.0, scope="all", scale=3.0)
    ) as session:  # the mid block is the default
        ours = h.run(pipe, cfg=cfg, prompts=2)
    assert all("mid_block" in s.path for s in session.report().sites)
    theirs = h.run(oracle, cfg=cfg, prompts=2, pag_scale=3.0)
    assert (theirs - h.run(pipe, cfg=cfg, prompts=2)).abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


def _double(call):
    return {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in call.items()}
