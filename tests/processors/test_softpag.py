"""SoftPAG against explicit attention maps, diffusers' own PAG pipelines, and its limits."""

import contextlib
import math

import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusion3PAGPipeline, StableDiffusionPAGPipeline

import diffusers_ext as dx
from diffusers_ext.core import Layout

from ..hosts import every_host, host
from ..tiny_models import flux, hunyuan_video, mochi, sd3, unet, wan

LAYER = "transformer_blocks.1.attn"


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
    )  # the host embeds the timestep in fp32


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
    h = host("sd3")
    pipe = h.build()
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
    h = host("sd")
    pipe = h.build()
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


@every_host
@pytest.mark.parametrize("cfg", [False, True], ids=["plain", "cfg"])
def test_adds_delta_once_whatever_form_cfg_takes(host, cfg):
    """One Euler step is linear in the guided prediction: what SoftPAG adds to it must not depend on the
    host's CFG.
    """
    pipe = host.build()
    method = dx.SoftPAG(heads={host.layer: None}, strength=1.0, scale=2.0)
    seen = {}

    def first_step(**call):
        return host.run(pipe, steps=host.least_steps, callback_on_step_end=stop, **call)

    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = True
        return tensors

    for name, on in (("stock", False), ("ours", True)):
        with dx.apply(pipe, *([method] if on else [])) as session:
            seen[name] = first_step(cfg=cfg)
            if on:
                assert session.report().extra_passes == 1
        with dx.apply(pipe, *([method] if on else [])):
            seen[f"{name} without cfg"] = first_step(cfg=False)
    added, alone = seen["ours"] - seen["stock"], seen["ours without cfg"] - seen["stock without cfg"]
    assert alone.abs().max() > 1e-4  # it does something without CFG
    torch.testing.assert_close(added, alone, rtol=1e-3, atol=2e-4)


@every_host
def test_strength_zero_is_bit_equal(host):
    pipe = host.build()
    stock = host.run(pipe, cfg=True)
    with dx.apply(pipe, dx.SoftPAG(heads={host.layer: None}, strength=0.0)) as session:
        assert torch.equal(stock, host.run(pipe, cfg=True))
    assert session.report().extra_passes == 0
    with dx.apply(pipe, dx.SoftPAG(heads={host.layer: None}, scale=0.0)):
        assert torch.equal(stock, host.run(pipe, cfg=True))


def test_heads_of_strength_zero_cost_no_pass():
    model = sd3.transformer()
    with dx.apply(model, dx.SoftPAG(heads={LAYER: {0: 0.0, 1: 0.0}})) as session:
        model(**sd3.inputs(1))
    assert session.report().extra_passes == 0


@pytest.mark.parametrize("scope", ["image_rows", "image_block", "all"])
def test_rows_of_strength_zero_are_bit_equal_inside_a_perturbed_pass(scope):
    model, call = sd3.transformer(), sd3.inputs(2)
    stock = model(**call)[0]
    with dx.apply(model, dx.SoftPAG(heads={LAYER: None}, strength=[0.0, 1.0], scope=scope)) as session:
        ours = model(**call)[0]
    assert session.report().extra_passes == 1
    assert torch.equal(ours[0], stock[0]) and not torch.equal(ours[1], stock[1])


def test_packed_head_sets_equal_solo_runs():
    h = host("sd3")
    pipe = h.build()
    sets = [{LAYER: [0]}, {"transformer_blocks.0.attn": [1]}]
    with dx.apply(pipe, dx.SoftPAG(heads=sets, strength=1.0)):
        packed = h.run(pipe, cfg=True, prompts=2)
    for row, one in enumerate(sets):
        with dx.apply(pipe, dx.SoftPAG(heads=one, strength=1.0)):
            solo = h.run(pipe, cfg=True, prompts=2)
        torch.testing.assert_close(packed[row], solo[row], rtol=1e-5, atol=1e-5)


def test_the_layer_output_is_linear_in_u():
    method = dx.SoftPAG(heads={LAYER: None}, scope="image_block")
    q, k, v = (torch.randn(1, 9, 2, 8, dtype=torch.float64) for _ in range(3))
    layout = Layout((1, 2, 3), slice(6, 9), slice(0, 6))
    run = dx.RunContext()
    run.perturbed = True

    def dense(q, k, v, mask, layout):
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)

    site = dx.Site(LAYER, 0, 2, 8, "joint")
    out = {}
    for u in (0.0, 0.3, 1.0):
        core = method.bind(site, run, dense)
        core.weight = torch.full((1, 1, 2, 1), u, dtype=torch.float64)
        core.picked = torch.tensor([0, 1])
        out[u] = core(q, k, v, None, layout)
    torch.testing.assert_close(out[0.3], 0.7 * out[0.0] + 0.3 * out[1.0])


def test_unnamed_heads_stay():
    model, call = sd3.transformer(), sd3.inputs(1)
    with dx.apply(model, dx.SoftPAG(heads={LAYER: [1]}, strength=1.0)) as session:
        model(**call)
        core = session._swapped[0][3].core
    assert core.picked.tolist() == [1] and core.weight[0, 0, :, 0].nonzero().tolist() == [[1]]


def test_a_grid_of_one_token_is_an_exact_no_op_for_image_rows_of_a_self_attention():
    model, call = wan.transformer(), wan.inputs(1, frames=1, height=1, width=1)
    stock = model(**call)[0]
    with dx.apply(model, dx.SoftPAG(heads={"blocks.0.attn1": None}, strength=1.0)) as session:
        torch.testing.assert_close(model(**call)[0], stock, rtol=1e-5, atol=1e-6)
    assert session.run.layout.tokens == 1


def test_default_strength_follows_the_number_of_heads():
    few, many = dx.SoftPAG(heads={"a": [0, 1]}), dx.SoftPAG(heads={"a": [0, 1, 2], "b": [0, 1, 2]})
    assert few._row_strengths() == [1.0] and many._row_strengths() == [0.5]


@pytest.mark.parametrize(
    ("start", "stop", "passes"), [(0.0, 1.0, 6), (0.5, 1.0, 3), (0.0, 0.5, 3), (0.5, 0.5, 1)]
)
@pytest.mark.parametrize("name", ["sd3", "flux", "wan"])
def test_step_window(name, start, stop, passes):
    h = host(name)
    pipe = h.build()
    with dx.apply(pipe, dx.SoftPAG(heads={h.layer: None}, start=start, stop=stop)) as session:
        h.run(pipe, cfg=True, steps=6)
    assert session.report().extra_passes == passes


# compile ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wan", "flux", "sd3"])
def test_compiles_fullgraph_with_few_graphs(name):
    """Two graphs over the host's own: touched blocks, plain and perturbed."""
    tiny = {"wan": wan, "flux": flux, "sd3": sd3}[name]
    deep = {
        "wan": dict(num_layers=12),
        "flux": dict(num_layers=8, num_single_layers=8),
        "sd3": dict(num_layers=12),
    }
    model, call = tiny.transformer(**deep[name]), tiny.inputs(1)
    layers = [
        s.name for s in dx.summary(model).denoisers[0][3] if s.kind != "cross" and "single" not in s.name
    ][2:10]
    method = dx.SoftPAG(heads={layer: [0, 1] for layer in layers}, strength=0.5)
    with dx.apply(model, method):
        eager = model(**call)[0]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with (
        dx.apply(model, method),
        torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=True),
    ):
        if getattr(model, "_repeated_blocks", None):
            model.compile_repeated_blocks(fullgraph=True, backend="eager")
        else:
            for block in model.transformer_blocks:
                block.compile(fullgraph=True, backend="eager")
        compiled = [model(**call | {"timestep": call["timestep"] * f})[0] for f in (1.0, 0.9, 0.8)]
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch.testing.assert_close(compiled[0], eager, rtol=1e-5, atol=1e-5)
    stock = {"wan": 1, "flux": 3, "sd3": 2}[
        name
    ]  # Flux: double, first single, single; SD3: the last block is its own
    assert graphs <= stock + 2
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["wan", "flux", "sd3", "unet"])
def test_new_image_sizes_cost_no_more_graphs_than_the_host_pays(name):
    """Six sizes within the host's recompile limit: nothing of ours ties a graph to the number of tokens."""
    tiny = {"wan": wan, "flux": flux, "sd3": sd3, "unet": unet}[name]
    model = unet.unet() if name == "unet" else tiny.transformer()
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1" if name == "unet" else None
    layer = layer or {"wan": "blocks.1.attn1"}.get(name, LAYER)
    blocks = [m for m in model.modules() if type(m).__name__.endswith("TransformerBlock")]
    torch._dynamo.reset()
    with dx.apply(model, dx.SoftPAG(heads={layer: None}, strength=1.0)) as session:
        for block in blocks:
            block.compile(fullgraph=True, backend="eager")
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            for height in (4, 6, 8, 10, 12, 14):
                model(**tiny.inputs(1, height=height))
    assert session.report().extra_passes == 6
    torch._dynamo.reset()


# bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (dict(strength=1.5), r"strength must lie in \[0, 1\], got 1.5"),
        (dict(strength=float("nan")), r"strength must lie in \[0, 1\], got nan"),
        (dict(heads={"a": {0: -0.1}}), r"strength must lie in \[0, 1\], got -0.1"),
        (dict(scale=float("inf")), "scale must be a finite number, got inf"),
        (dict(scale=float("nan")), "scale must be a finite number, got nan"),
        (dict(scope="text"), "scope must be one of image_rows, image_block, all, got 'text'"),
        (dict(start=0.8, stop=0.2), "needs 0 <= start <= stop <= 1"),
        (
            dict(heads=[{"a": [0]}, {"a": [1]}], strength=[1.0]),
            "one entry of heads and of strength per image",
        ),
    ],
)
def test_settings_out_of_range(settings, match):
    with pytest.raises(dx.MethodError, match=match):
        dx.SoftPAG(**settings)


@pytest.mark.parametrize(
    ("heads", "match"),
    [
        ({"transformer_blocks.7.attn": None}, r"nearest names are .*transformer_blocks\.1\.attn"),
        ({LAYER: [99]}, r"has heads 0 to \d+, got 99; the nearest are \["),
        ({}, "empty head set"),
    ],
)
def test_unknown_modules_and_heads(heads, match):
    with pytest.raises(dx.MethodError, match=match):
        dx.apply(sd3.transformer(), dx.SoftPAG(heads=heads))


def test_cross_attention_is_refused():
    with pytest.raises(dx.UnsupportedError, match=r"cross-attention .* does not have"):
        dx.apply(wan.transformer(), dx.SoftPAG(heads={"blocks.0.attn2": None}))


def test_repeated_heads_warn():
    with (
        pytest.warns(UserWarning, match="named more than once"),
        dx.apply(sd3.transformer(), dx.SoftPAG(heads={LAYER: [0, 0]})),
    ):
        pass


def test_window_on_a_bare_denoiser_is_refused():
    model = sd3.transformer()
    with (
        dx.apply(model, dx.SoftPAG(stop=0.5)),
        pytest.raises(dx.UnsupportedError, match="applied to a bare denoiser"),
    ):
        model(**sd3.inputs(1))


def test_entries_must_match_the_batch():
    model = sd3.transformer()
    with (
        dx.apply(model, dx.SoftPAG(strength=[0.1, 0.2, 0.3])),
        pytest.raises(dx.MethodError, match="2 conditional rows"),
    ):
        model(**sd3.inputs(2))


def test_odd_rows_in_one_batch_are_refused():
    model = unet.unet()
    with (
        dx.apply(model, dx.SoftPAG(), cfg="batch"),
        pytest.raises(dx.UnsupportedError, match="even number of rows"),
    ):
        model(**unet.inputs(1))


def _double(call):
    return {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in call.items()}
