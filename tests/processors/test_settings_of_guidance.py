"""Every field of SoftPAG and NAG against maps and attentions written out in the middle of a model."""

import copy
from functools import partial

import pytest
import torch

import diffusers_ext as dx

from ..hosts import host
from ..tiny_models import sd3, wan
from . import nag_oracles
from . import settings_oracles as told
from .promises import predict
from .test_softpag_maps import explicit_maps

FIRST, SECOND = "transformer_blocks.0.attn", "transformer_blocks.1.attn"
GUIDED = [
    dict(heads={SECOND: [0, 2]}),
    dict(heads={SECOND: [1]}),
    dict(heads={SECOND: None}),
    dict(heads={FIRST: [0, 2]}),
    dict(heads={SECOND: [0, 2]}, scale=1.0),
    dict(heads={SECOND: [0, 2]}, strength=0.3),
    dict(heads={SECOND: {0: 0.3, 2: 0.3}}, strength=1.0),  # equal to the line before
    dict(heads={SECOND: [0, 2]}, scope="image_block"),
    dict(heads={SECOND: [0, 2]}, scope="all"),
]


def test_softpag_by_explicit_maps():
    """Heads, layers, scale, strength and scope against maps written out in the middle of the model."""
    model, call = sd3.transformer().double(), sd3.inputs(2, dtype=torch.float64)
    image = slice(0, 4 * 6)
    with torch.no_grad():
        cond = model(**call)[0]
        wanted = []
        for settings in GUIDED:
            facts = dict(scale=3.0, strength=1.0, scope="image_rows") | settings
            ((layer, heads),) = facts["heads"].items()
            u = facts["strength"] if not isinstance(heads, dict) else 0.3

            numbers = list(range(4) if heads is None else heads)
            perturb = partial(
                told.perturbed_map, image=image, heads=numbers, strength=u, scope=facts["scope"]
            )
            with explicit_maps([int(layer.split(".")[1])], perturb):
                perturbed = model(**call)[0]
            wanted.append(cond + facts["scale"] * (cond - perturbed))
            ours = predict(model, call, dx.SoftPAG(**dict(scale=3.0, strength=1.0) | settings))
            torch.testing.assert_close(ours, wanted[-1], rtol=1e-5, atol=1e-6)  # time is embedded in fp32
    for i, one in enumerate(wanted):
        for j, two in enumerate(wanted[:i]):
            assert ((one - two).abs().max() > 1e-4) == ((j, i) != (5, 6)), (i, j)


PERTURBED = [
    *({"perturbation": name} for name in ("identity", "uniform", "segment_mean", "max")),
    dict(perturbation="temperature", temperature=2.0),
    dict(perturbation="temperature", temperature=0.5),
    dict(perturbation="shuffle"),
    dict(perturbation="shuffle", seed=1),
]


@torch.no_grad()
def test_softpag_perturbations_by_explicit_maps():
    """What stands in place of the map, temperature and seed; permutations are read from the core."""
    model, call = sd3.transformer().double(), sd3.inputs(2, dtype=torch.float64)
    cond, image, wanted = model(**call)[0], slice(0, 4 * 6), []
    for settings in PERTURBED:
        method = dx.SoftPAG({SECOND: None}, 3.0, 1.0, **settings)
        with dx.apply(model, method) as session:
            ours = model(**call)[0]
            (core,) = session.cores(method).values()
        perturb = partial(
            told.other_map,
            image=image,
            mode=settings["perturbation"],
            temperature=settings.get("temperature"),
            places=getattr(core, "places", None),
        )
        with explicit_maps([1], perturb):
            wanted.append(cond + 3.0 * (cond - model(**call)[0]))
        torch.testing.assert_close(ours, wanted[-1], rtol=1e-5, atol=2e-6)
    for i, one in enumerate(wanted):
        assert all((one - two).abs().max() > 1e-4 for two in wanted[:i]), i


@pytest.mark.parametrize(
    "window, guided",
    [
        ({}, [1, 1, 1, 1]),
        (dict(start=0.5), [0, 0, 1, 1]),
        (dict(stop=0.5), [1, 1, 0, 0]),
        (dict(start=0.25, stop=0.75), [0, 1, 1, 0]),
    ],
)
def test_softpag_start_and_stop_by_counting_calls(window, guided):
    tiny = host("sd3")
    pipe, calls, steps = tiny.build(), [0], []
    pipe.transformer.get_submodule(tiny.layer).register_forward_hook(lambda *_: calls.append(0))

    def ended(pipe, step, timestep, tensors):
        steps.append(len(calls) - 2)  # one of the host's
        calls[:] = [0]
        return tensors

    with dx.apply(pipe, dx.SoftPAG(heads={tiny.layer: None}, **window)):
        tiny.run(pipe, steps=4, callback_on_step_end=ended)
    assert steps == guided


AWAY = dict(negative_prompt="green", scale=7.0, tau=1.5, alpha=0.4)
LAYER = "blocks.1.attn2"
OTHERS = [{}, dict(negative_prompt="a blue star"), dict(scale=3.0), dict(tau=1.1), dict(alpha=0.9)]


@torch.no_grad()
def test_nag_by_two_attentions_written_out():
    """Text, scale, bound, share and layers; the oracle has a model of its own."""
    pipe, call = wan.pipeline(), wan.inputs(2, text=18, dtype=torch.float64)
    pipe.transformer.double()
    oracle, wanted = copy.deepcopy(pipe.transformer), []
    for settings in [*OTHERS, dict(layers=[LAYER]), dict(layers=["transformer.blocks.0"])]:
        facts = AWAY | settings
        text = pipe.encode_prompt(
            facts["negative_prompt"], do_classifier_free_guidance=False, max_sequence_length=18
        )[0]
        numbers = {name: facts[name] for name in ("scale", "tau", "alpha")}
        layers = None if "layers" not in facts else [LAYER if LAYER in facts["layers"] else "blocks.0.attn2"]
        wanted.append(nag_oracles.predict(oracle, call, text.double(), numbers, layers))
        with dx.apply(pipe, dx.NAG(**facts), cfg="none"):
            ours = pipe.transformer(**call)[0]
        torch.testing.assert_close(ours, wanted[-1], rtol=1e-5, atol=1e-6)  # time is embedded in fp32
    for i, one in enumerate(wanted):
        assert all((one - two).abs().max() > 1e-5 for two in wanted[:i]), i


@pytest.mark.parametrize(
    "window, longer",
    [
        ({}, [1, 1, 1, 1]),
        (dict(start=0.5), [0, 0, 1, 1]),
        (dict(stop=0.5), [1, 1, 0, 0]),
        (dict(start=0.25, stop=0.75), [0, 1, 1, 0]),
    ],
)
def test_nag_start_and_stop_by_the_length_of_the_text(window, longer):
    tiny = host("wan")
    pipe, lengths = tiny.build(), []
    pipe.transformer.get_submodule(LAYER).to_k.register_forward_hook(
        lambda module, args, out: lengths.append(args[0].shape[1])
    )
    with dx.apply(pipe, dx.NAG("green", **window)):
        tiny.run(pipe, steps=4)
    assert lengths == [16 * (1 + more) for more in longer]
