"""The perturbations of SoftPAG against explicit attention maps, and what holds for all of them."""

import math

import pytest
import torch
import torch.nn.functional as F

import diffusers_ext as dx
from diffusers_ext.core import Layout, RunContext, Site
from diffusers_ext.processors.perturbations import shuffled

from ..close import alike
from ..hosts import built
from ..tiny_models import sd3, unet, wan
from . import settings_oracles as told
from .test_softpag import LAYER
from .test_softpag_maps import CASES, _double, explicit_maps

TAU = 3.0
MODES = {
    "identity": {},
    "uniform": {},
    "segment_mean": {},
    "max": {},
    "temperature": dict(temperature=TAU),
    "shuffle": dict(seed=5),
}
each_mode = pytest.mark.parametrize("mode", MODES)


@pytest.mark.parametrize(
    "case, scope",
    [(case, "image_rows") for case in CASES] + [(case, "all") for case in CASES if case != "wan"],
)
@pytest.mark.parametrize("mode", [m for m in MODES if m != "shuffle"])
def test_equals_explicit_maps(case, scope, mode):
    """Any strength by head, joint and self attention, prompts of different lengths."""
    tiny, layer, numbers, rows = CASES[case]
    model, call = tiny.transformer().double(), _double(tiny.inputs(2))
    u = torch.linspace(0.0, 1.0, model.get_submodule(layer).heads, dtype=torch.float64)
    image = rows(call)
    some = image if scope == "image_rows" else slice(None)

    def perturb(a):
        weight = u[None, :, None, None]
        return (1 - weight) * a + weight * told.other_map(a, some, mode, TAU)

    cond = model(**call)[0]
    with explicit_maps(numbers, perturb):
        perturbed = model(**call)[0]
    assert (perturbed - cond).abs().max() > 1e-5
    method = dx.SoftPAG(
        {layer: dict(enumerate(u.tolist()))}, 2.0, scope=scope, perturbation=mode, **MODES[mode]
    )
    with dx.apply(model, method):
        ours = model(**call)[0]
    torch.testing.assert_close(ours, cond + 2.0 * (cond - perturbed), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("case", ["sd3", "flux-double", "hunyuan-video-double", "mochi"])
def test_max_of_the_image_block_keeps_the_text(case):
    tiny, layer, numbers, rows = CASES[case]
    model, call = tiny.transformer().double(), _double(tiny.inputs(2))
    image = rows(call)

    def perturb(a):
        keep = torch.ones_like(a, dtype=torch.bool)
        part = a[:, :, image, image]
        keep[:, :, image, image] = F.one_hot(part.argmax(-1), part.shape[-1]).bool()
        return torch.where(keep, a, 0) / torch.where(keep, a, 0).sum(-1, keepdim=True)

    cond = model(**call)[0]
    with explicit_maps(numbers, perturb):
        perturbed = model(**call)[0]
    method = dx.SoftPAG({layer: None}, 1.0, 1.0, "image_block", perturbation="max")
    with dx.apply(model, method):
        ours = model(**call)[0]
    torch.testing.assert_close(ours, 2 * cond - perturbed, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("case", ["sd3", "flux-single", "wan", "hunyuan-video-double", "mochi"])
def test_shuffling_moves_rows_of_the_map(case):
    tiny, layer, numbers, rows = CASES[case]
    model, call = tiny.transformer().double(), _double(tiny.inputs(2))
    method = dx.SoftPAG({layer: None}, 2.0, 0.7, perturbation="shuffle", seed=5)
    with dx.apply(model, method) as session:
        ours = model(**call)[0]
        (core,) = session.cores(method).values()
    places, image = core.places, rows(call)
    text = torch.ones_like(places, dtype=torch.bool)
    text[image] = False
    assert torch.equal(places.sort().values, torch.arange(len(places)))
    assert torch.equal(places[text], torch.arange(len(places))[text])
    cond = model(**call)[0]
    with explicit_maps(numbers, lambda a: 0.3 * a + 0.7 * told.other_map(a, image, "shuffle", places=places)):
        perturbed = model(**call)[0]
    assert (perturbed - cond).abs().max() > 1e-5
    torch.testing.assert_close(ours, cond + 2.0 * (cond - perturbed), rtol=1e-5, atol=2e-6)


def test_a_permutation_depends_on_seed_step_and_site_alone():
    run, found = RunContext(), {}
    run.layout = Layout((1, 5, 7), slice(0, 4), slice(4, 39))
    sites = Site("a.0", 0, 4, 8, "joint", "unet"), Site("a.1", 1, 4, 8, "joint")
    for seed, run.step, site in [(0, 0, sites[0]), (1, 0, sites[0]), (0, 1, sites[0]), (0, 0, sites[1])]:
        found[seed, run.step, site.name] = tuple(shuffled(site, run, seed).tolist())
    assert len(set(found.values())) == 4
    run.step = None  # a bare denoiser
    assert tuple(shuffled(Site("a.0", 0, 4, 8, "joint"), run, 0).tolist()) == found[0, 0, "a.0"]
    run.layout = Layout((1, 5, 7), slice(0, 0), slice(0, 35))
    halved = shuffled(Site("b", 0, 4, 8, "self", level=1, halvings=1), run, 0)
    assert sorted(halved.tolist()) == list(range(3 * 4))


def test_a_picture_is_shuffled_alike_in_any_batch():
    h, pipe = built("sd")
    with dx.apply(pipe, dx.SoftPAG(scale=3.0, perturbation="shuffle")):
        both = h.run(pipe, cfg=True, prompts=2)
        alone = h.run(pipe, cfg=True, prompts=1)
    alike(both[:1], alone)


@each_mode
def test_strength_zero_is_bit_equal_inside_a_perturbed_pass(mode):
    model, call = sd3.transformer(), sd3.inputs(2)
    stock = model(**call)[0]
    method = dx.SoftPAG({LAYER: None}, strength=[0.0, 1.0], perturbation=mode, **MODES[mode])
    with dx.apply(model, method) as session:
        ours = model(**call)[0]
    assert session.report().extra_passes == 1
    assert torch.equal(ours[0], stock[0]) and not torch.equal(ours[1], stock[1])


def test_temperature_one_is_the_plain_model_and_costs_no_pass():
    model, call = sd3.transformer(), sd3.inputs(2)
    stock = model(**call)[0]
    with dx.apply(model, dx.SoftPAG({LAYER: None}, perturbation="temperature", temperature=1)) as session:
        assert torch.equal(model(**call)[0], stock)
    assert session.report().extra_passes == 0


def test_temperatures_lead_from_the_strongest_key_to_all_alike():
    q, k, v = drawn()
    for name, tau, scale in [("uniform", 1000.0, 0.01), ("max", 0.01, 1e4)]:
        ours = bound("temperature", tau=tau)([1.0] * 3, q * scale, k, v)
        torch.testing.assert_close(ours, bound(name)([1.0] * 3, q * scale, k, v), rtol=0, atol=1e-4)


def drawn():
    """Queries, keys and values of nine tokens and three heads."""
    g = torch.Generator().manual_seed(0)
    return (torch.randn(2, 9, 3, 8, generator=g, dtype=torch.float64) for _ in range(3))


def bound(mode, scope="image_rows", tau=TAU):
    """A core of one site over dense attention, in a perturbed pass."""
    run = RunContext()
    run.layout, run.perturbed = Layout((1, 2, 3), slice(6, 9), slice(0, 6)), True
    more = dict(temperature=tau) if mode == "temperature" else {}
    method = dx.SoftPAG({"a": None}, 1.0, 1.0, scope, perturbation=mode, **more)

    def dense(q, k, v, mask, layout):
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), mask).transpose(1, 2)

    core = method.bind(Site("a", 0, 3, 8, "joint"), run, dense)

    def call(strength, q, k, v):
        core.begin_pass(torch.as_tensor(strength, dtype=torch.float64)[None], q)
        return core(q, k, v, None, run.layout)

    return call


SCOPES = {"identity": ["image_rows", "all", "image_block"], "shuffle": ["image_rows"]}
SCOPES["max"] = SCOPES["identity"]
CORES = [(mode, scope) for mode in MODES for scope in SCOPES.get(mode, ["image_rows", "all"])]


@pytest.mark.parametrize("mode, scope", CORES)
def test_outputs_are_linear_in_u_and_heads_do_not_mix(mode, scope):
    call = bound(mode, scope)
    q, k, v = drawn()
    none, some, full = (call([u] * 3, q, k, v) for u in (0.0, 0.3, 1.0))
    torch.testing.assert_close(some, 0.7 * none + 0.3 * full)
    assert not torch.allclose(none, full)
    if scope != "all":
        assert torch.equal(full[:, 6:], none[:, 6:]), "text rows stay"
    # Permuted heads with permuted strengths are permuted outputs; a head of strength 0 keeps its bits.
    order = torch.tensor([2, 0, 1])
    mixed = call([0.0, 0.5, 1.0], q, k, v)
    turned = call([1.0, 0.0, 0.5], *(x[:, :, order] for x in (q, k, v)))
    torch.testing.assert_close(turned, mixed[:, :, order])
    assert torch.equal(mixed[:, :, 0], none[:, :, 0])


@each_mode
def test_one_token_sees_itself_under_every_map(mode):
    model, call = wan.transformer(), wan.inputs(1, frames=1, height=1, width=1)
    stock = model(**call)[0]
    method = dx.SoftPAG({"blocks.0.attn1": None}, strength=1.0, perturbation=mode, **MODES[mode])
    with dx.apply(model, method) as session:
        alike(model(**call)[0], stock)
    assert session.report().extra_passes == 1


@each_mode
def test_half_precision(mode):
    """Sums over tokens are in fp32; the result is that of fp32 within the roundings of bf16."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = unet.unet().to(dtype)
        call = {
            k: v.to(dtype) if v.is_floating_point() else v
            for k, v in unet.inputs(1).items()
            if torch.is_tensor(v)
        }
        with dx.apply(model, dx.SoftPAG(strength=1.0, perturbation=mode, **MODES[mode])):
            found[dtype] = model(**call)[0].float()
    error = (found[torch.bfloat16] - found[torch.float32]).abs().max()
    assert error < 0.1 * found[torch.float32].abs().max()


@pytest.mark.parametrize("mode", [m for m in MODES if m != "identity"])
def test_gradients_pass(mode):
    model, call = sd3.transformer(), sd3.inputs(1)
    call["hidden_states"].requires_grad_()
    with dx.apply(model, dx.SoftPAG({LAYER: None}, perturbation=mode, **MODES[mode])):
        model(**call)[0].square().sum().backward()
    grad = call["hidden_states"].grad
    assert grad.isfinite().all() and grad.abs().max() > 0


@pytest.mark.parametrize(
    "settings, match",
    [
        (dict(perturbation="blur"), "perturbation takes identity .* shuffle, got 'blur'"),
        (
            dict(perturbation="uniform", temperature=2.0),
            "reads temperature for perturbation='temperature' only",
        ),
        (dict(perturbation="temperature", temperature=0.0), r"must lie in \[0.01, 1000\], got 0.0"),
        (
            dict(perturbation="temperature", temperature=math.inf),
            "temperature takes a number or null, got inf",
        ),
        (
            dict(perturbation="shuffle", scope="all"),
            "by shuffle with scope image_rows, got 'all'; set scope='image_rows'",
        ),
        (
            dict(perturbation="uniform", scope="image_block"),
            "with scope image_rows or all, got 'image_block'",
        ),
        (dict(seed=-1), "seed must be 0 or more, got -1"),
        (dict(seed=1.5), "seed takes a whole number, got 1.5"),
    ],
)
def test_settings_that_do_not_fit(settings, match):
    with pytest.raises(dx.MethodError, match=match):
        dx.SoftPAG(**settings)
