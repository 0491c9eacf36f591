"""SoftPAG: added once whatever form guidance takes, its limits, heads and steps."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

import diffusers_ext as dx
from diffusers_ext.core import Layout
from diffusers_ext.families.denoisers import denoisers

from ..close import alike
from ..hosts import built, every_attention, nothing_changed
from ..tiny_models import sd3, wan

LAYER = "transformer_blocks.1.attn"


@every_attention
@pytest.mark.parametrize("cfg", [False, True], ids=["plain", "cfg"])
def test_adds_delta_once_whatever_form_cfg_takes(host, cfg):
    """One Euler step is linear in the guided prediction: what SoftPAG adds to it must not depend on CFG."""
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


@every_attention
def test_strength_zero_and_scale_zero_are_bit_equal_and_cost_no_pass(host):
    pipe = host.build()
    stock, passes = host.run(pipe, cfg=True), []
    # Equal bits alone would follow from 0 * (cond - perturbed): no pass may run.
    for model in denoisers(pipe).values():
        model.get_submodule(host.layer).register_forward_hook(lambda *_: passes.append(0))
    host.run(pipe, cfg=True)
    calls = len(passes)
    for nothing in (dict(strength=0.0), dict(scale=0.0)):
        passes.clear()
        with dx.apply(pipe, dx.SoftPAG(heads={host.layer: None}, **nothing)) as session:
            assert torch.equal(stock, host.run(pipe, cfg=True))
        assert (session.report().extra_passes, len(passes)) == (0, calls), nothing


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
    h, pipe = built("sd3")
    sets = [{LAYER: [0]}, {"transformer_blocks.0.attn": [1]}]
    with dx.apply(pipe, dx.SoftPAG(heads=sets, strength=1.0)):
        packed = h.run(pipe, cfg=True, prompts=2)
    for row, one in enumerate(sets):
        with dx.apply(pipe, dx.SoftPAG(heads=one, strength=1.0)):
            solo = h.run(pipe, cfg=True, prompts=2)
        alike(packed[row], solo[row])


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
    method = dx.SoftPAG(heads={LAYER: [1]}, strength=1.0)
    with dx.apply(model, method) as session:
        model(**call)
        (core,) = session.cores(method).values()
    assert core.picked.tolist() == [1] and core.weight[0, 0, :, 0].nonzero().tolist() == [[1]]


def test_a_grid_of_one_token_is_an_exact_no_op_for_image_rows_of_a_self_attention():
    model, call = wan.transformer(), wan.inputs(1, frames=1, height=1, width=1)
    stock = model(**call)[0]
    with dx.apply(model, dx.SoftPAG(heads={"blocks.0.attn1": None}, strength=1.0)) as session:
        alike(model(**call)[0], stock)
    assert session.run.layout.tokens == 1


def test_default_strength_follows_the_number_of_heads():
    few, many = dx.SoftPAG(heads={"a": [0, 1]}), dx.SoftPAG(heads={"a": [0, 1, 2], "b": [0, 1, 2]})
    assert few._row_strengths() == [1.0] and many._row_strengths() == [0.5]


@pytest.mark.parametrize(
    ("start", "stop", "passes"),
    [(0.0, 1.0, 6), (0.5, 1.0, 3), (0.0, 0.5, 3), (0.6, 0.7, 1), (0.5, 0.5, 0)],
)
@pytest.mark.parametrize("name", ["sd3", "flux", "wan"])
def test_step_window(name, start, stop, passes):
    h, pipe = built(name)
    silent = nullcontext() if passes else nothing_changed("none of its 6 steps is between")
    with dx.apply(pipe, dx.SoftPAG(heads={h.layer: None}, start=start, stop=stop)) as session, silent:
        h.run(pipe, cfg=True, steps=6)
    assert session.report().extra_passes == passes
