"""`auto` compiles a plan on a CPU where a long run saves more than it costs, and never depends on it."""

import logging
from dataclasses import replace

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.core import RunContext, Site
from diffusers_ext.kernels.block_sparse import api, flex
from diffusers_ext.kernels.masks.disk import Disk
from diffusers_ext.kernels.plan.spec import RulePlanSpec
from tests import needs

from .test_method import dense, layout_of

METHOD = dx.CLEAR(radius=8)
LARGE = Site("blocks.0.attn", 0, 24, 128, "joint")
LONG = dict(steps=20, layers=57)  # of FLUX.1


def begun(side=96, site=LARGE, text=0, masked=False, method=METHOD, **run):
    context = RunContext()
    for name, value in (LONG | run).items():
        setattr(context, name, value)
    context.layout = replace(layout_of((1, side, side), text, front=True), masked_text=masked)
    core = method.bind(site, context, dense)
    core.begin_call(torch.zeros(1))
    return core


def backend(**case):
    return begun(**case).begun_with.backend


@pytest.fixture(autouse=True)
def a_cpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@needs.flex
@torch.no_grad()
def test_who_compiles():
    assert backend() == "flex"
    assert "to save some" in begun().describe()["why"]
    assert backend(steps=1, layers=1) != "flex", "six seconds of attention"
    assert backend(steps=None, layers=1) != "flex", "a bare denoiser counts as one call"
    assert backend(side=16) == "dense", "a picture of the zoo"
    assert backend(text=32, masked=True) != "flex", "each prompt hides others"
    assert backend(method=dx.RectifiedSparse(keep=0.02, dense_steps=0)) != "flex", "a plan a head"
    with torch.enable_grad():
        assert backend() != "flex"


@torch.no_grad()
def test_nobody_compiles_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert backend() != "flex"


def problem():
    plan = RulePlanSpec(Disk(3), (1, 9, 14), block_q=16, block_k=16).build()
    g = torch.Generator().manual_seed(0)
    return plan, torch.randn(3, 1, plan.s_q, 2, 16, generator=g).unbind(0)


def test_a_compiler_that_fails_is_asked_once(monkeypatch, caplog):
    calls = []

    def broken(q, k, v, plan):
        calls.append(plan)
        raise RuntimeError("g++: out of memory\nand a page more")

    monkeypatch.setattr(flex, "prepare", lambda plan: broken)
    plan, (q, k, v) = problem()
    run = flex.OrReference(plan)
    wanted = api.attention(q, k, v, plan)[0]
    with caplog.at_level(logging.WARNING, "diffusers_ext"):
        assert all(torch.equal(run(q, k, v, plan)[0], wanted) for _ in range(3))
    assert len(calls) == 1 and len(caplog.records) == 1
    assert run.failed == "FlexAttention failed (RuntimeError: g++: out of memory)"


@needs.flex
def test_a_report_says_that_it_failed(monkeypatch):
    monkeypatch.setattr(flex, "prepare", lambda plan: pytest.fail)
    with torch.no_grad():
        core = begun()
    core.begun_with.compiled.failed = "FlexAttention failed"
    facts = core.describe()
    assert (facts["backend"], facts["why"]) == ("reference", "FlexAttention failed")


def test_gradients_go_by_the_reference(monkeypatch):
    monkeypatch.setattr(flex, "prepare", lambda plan: pytest.fail)
    plan, inputs = problem()
    inputs = [x.clone().requires_grad_() for x in inputs]
    found, wanted = (
        torch.autograd.grad(run(*inputs, plan)[0].square().sum(), inputs)
        for run in (flex.OrReference(plan), api.attention)
    )
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@needs.flex
@pytest.mark.slow  # it compiles C++ for some ten seconds
@torch.no_grad()
def test_compiled_it_equals_the_reference():
    plan, (q, k, v) = problem()
    run = flex.OrReference(plan)
    torch.testing.assert_close(run(q, k, v, plan)[0], api.attention(q, k, v, plan)[0], atol=5e-6, rtol=0)
    assert not run.failed
