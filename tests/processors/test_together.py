"""Every pair of methods on the models that take both: it runs and both act, or it is refused by name."""

from itertools import combinations

import pytest
import torch

import diffusers_ext as dx
from bench.pages.together import apart
from diffusers_ext.settings.registry import METHODS

from ..close import alike
from ..hosts import built, host
from ..tiny_models import flux
from . import settings_oracles as told

SPARSE = dict(backend="reference", dense_steps=0)
PROMPTS = ["a green cross and a pink square", "a red circle and a blue star"]


def settings(name, layer):
    """Settings of a method that act on small pictures."""
    return {
        "softpag": lambda: dx.SoftPAG({layer: None}, strength=1.0),
        "nag": lambda: dx.NAG("green"),
        "clear": lambda: dx.CLEAR(radius=2, **SPARSE),
        "gna": lambda: dx.GNA(window=(3, 3) if layer != "blocks.1.attn1" else (2, 3, 3), **SPARSE),
        "radial": lambda: dx.Radial(mode="paper", sink_frames=0, **SPARSE),
        "rectified": lambda: dx.RectifiedSparse(keep=0.5, p_remaining=None, block=16, **SPARSE),
        "structured": lambda: dx.StructuredGuidance(),
        "astar": lambda: dx.AStar(),
        "ir-diffusion": lambda: dx.IRDiffusion(
            [[0.0, 0.0, 0.5, 0.5]], [[0.0, 0.0, 1.0, 1.0]], start_layer=0.0, start=0.0
        ),
    }[name]()


# The methods that a model takes; no model of the table in DESIGN.md is left out.
TAKES = {
    "sd": ["softpag", "nag", "clear", "gna", "rectified", "structured", "astar", "ir-diffusion"],
    "flux": ["softpag", "nag", "clear", "gna", "rectified", "ir-diffusion"],
    "wan": ["softpag", "nag", "gna", "radial", "rectified"],
}
PAIRS = [(name, *pair) for name, methods in TAKES.items() for pair in combinations(methods, 2)]
FITTING = [(name, a, b) for name, a, b in PAIRS if apart(a, b) is None]
CLASHING = [case for case in PAIRS if case not in FITTING]


def test_every_method_is_in_a_pair():
    assert {m for methods in TAKES.values() for m in methods} == set(METHODS)


@pytest.fixture(scope="module")
def pipes():
    """One pipeline for each model, since a session leaves nothing behind."""
    return {name: host(name).build() for name in TAKES}


@pytest.fixture(scope="module")
def alone(pipes):
    """The latents of each method alone."""
    return {(name, method): run(pipes, name, method) for name, methods in TAKES.items() for method in methods}


def run(pipes, name, *methods):
    found = host(name)
    with dx.apply(pipes[name], *(settings(m, found.layer) for m in methods)):
        return found.run(pipes[name], cfg=True, steps=2, prompt=PROMPTS)


@pytest.mark.parametrize("name, one, two", FITTING)
def test_both_act(pipes, alone, name, one, two):
    both = run(pipes, name, one, two)
    assert both.isfinite().all()
    for each in (one, two):
        assert (both - alone[name, each]).abs().max() > 1e-4, f"{each} hides the other"


@pytest.mark.parametrize("name, one, two", CLASHING)
def test_the_refusal_names_methods_and_sites(pipes, name, one, two):
    methods = [settings(m, host(name).layer) for m in (one, two)]
    both = rf"{one} and {two} both .*attn\d?.*; give each its own layers"
    gradients = rf"{two} .* gradients, which do not pass through {one} at .*attn\d?.*; apply one of them"
    with pytest.raises(dx.ConflictError, match=f"{both}|{gradients}"):
        dx.apply(pipes[name], *methods)
    assert dx.summary(pipes[name]).denoisers[0][4] is None  # nothing is in force


def test_two_of_a_kind():
    """One guidance and one second text are all that a session takes."""
    pipe = host("flux").build()
    with pytest.raises(dx.ConflictError, match="softpag and softpag both add a guidance pass"):
        dx.apply(pipe, dx.SoftPAG(), dx.SoftPAG(perturbation="uniform"))
    with pytest.raises(
        dx.ConflictError, match=r"nag and nag both bring a second text to transformer\..*attn"
    ):
        dx.apply(pipe, dx.NAG("green"), dx.NAG("blue"))


TOKENS, TEXT = (1, 16, 20), 7


@torch.no_grad()
@pytest.mark.parametrize("mode", ["identity", "uniform", "segment_mean", "temperature", "shuffle"])
def test_perturbations_beside_a_sparse_core(mode):
    """CLEAR by an explicit mask; tokens are reordered once a call unless their places matter."""
    model, call = flux.transformer(), flux.inputs(1, height=16, width=20, text=TEXT)
    heads = {"transformer_blocks.1.attn": None, "single_transformer_blocks.1.attn": [0, 3]}
    method = dx.SoftPAG(heads, 2.0, 0.8, perturbation=mode)
    sparse = dx.CLEAR(radius=2, **SPARSE)
    with dx.apply(model, told.clear(TOKENS, TEXT, None, dict(radius=2)), method):
        wanted = model(**call)[0]
    with dx.apply(model, sparse, method) as session:
        alike(model(**call)[0], wanted)
    once = {"tokens put in order once a call"}
    kept = {"tokens put in order in every layer: softpag may depend on raster order"}
    assert {s.order for s in session.report().sites} == (kept if mode == "shuffle" else once)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["uniform", "segment_mean", "max", "temperature", "shuffle"])
def test_perturbations_beside_a_second_text(pipes, mode):
    """The grid of either text is perturbed by itself, so equal texts are as one."""
    found, pipe = host("flux"), pipes["flux"]
    method = dx.SoftPAG({found.layer: None}, strength=1.0, perturbation=mode)
    runs = []
    for more in ([], [dx.NAG("a red circle")], [dx.NAG("green")]):
        with dx.apply(pipe, method, *more) as session:
            runs.append(found.run(pipe, cfg=True, steps=2, prompt="a red circle"))
    assert session.report().second_texts == 2 == session.report().extra_passes
    alike(runs[1], runs[0])
    assert (runs[2] - runs[0]).abs().max() > 1e-4


def test_the_strongest_key_needs_dense_attention():
    _, pipe = built("flux")
    layer = "transformer_blocks.1.attn"
    method = dx.SoftPAG({layer: None}, perturbation="max")
    with pytest.raises(dx.ConflictError, match=rf"clear .*transformer\.{layer}, where softpag needs"):
        dx.apply(pipe, dx.CLEAR(radius=2, **SPARSE), method)
    with dx.apply(pipe, dx.CLEAR(radius=2, dense_layers=2, **SPARSE), method) as session:
        assert {site.methods for site in session.report().sites} == {("clear",), ("softpag",)}


def test_three_at_once(pipes, alone):
    """A second text, a sparse core and a perturbed pass, in any order."""
    found, orders = host("flux"), []
    for names in (("nag", "clear", "softpag"), ("softpag", "nag", "clear")):
        orders.append(run(pipes, found.name, *names))
    alike(*orders)
    for pair in combinations(("nag", "clear", "softpag"), 2):
        assert (orders[0] - run(pipes, found.name, *pair)).abs().max() > 1e-4
