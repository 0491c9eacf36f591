"""Every field of every method changes what an oracle of its own says it should.

A new field fails here until it has a check. Oracles are given sizes and settings and use nothing of the
package.
"""

import copy
import dataclasses
import warnings
import zlib
from functools import partial
from importlib import import_module

import pytest
import torch
from safetensors.torch import save_file

import diffusers_ext as dx
from diffusers_ext.processors.sparse.method import SparseMethod
from diffusers_ext.settings.registry import METHODS

from ..close import MODEL
from ..close import alike as close
from ..hosts import host, nothing_changed
from ..tiny_models import flux, sd3, wan
from . import ir_oracles, nag_oracles
from . import settings_oracles as told
from .astar_oracles import IN_ALL_STEPS, LEFT, TWO, found, loop, nearly
from .astar_oracles import run as run_astar
from .astar_oracles import start as noise
from .test_ir_diffusion import masks as ir_masks
from .test_ir_diffusion import paper, pictures
from .test_softpag_maps import explicit_maps
from .test_structured import PROMPT, aligned, explicit, pairs

CLASSES = {
    name: getattr(import_module(path.split(":")[0]), path.split(":")[1]) for name, path in METHODS.items()
}
SPARSE = [name for name, method in CLASSES.items() if issubclass(method, SparseMethod)]
EDGE, TEXT = 4, 7
IMAGE, LARGE = (1, 8, 12), (1, 16, 32)
VIDEO = (3, 16, 16)  # below 256 tokens a frame, the published band hides nothing of two frames

# For each field a grid, the settings beside it and the values it takes; `...` is a file of weights.
BY_MASK = {
    "clear": {
        "radius": (IMAGE, {}, [2, 4]),
        "downsample": (IMAGE, dict(radius=2), [0, 2, EDGE]),
        "weights": (IMAGE, dict(radius=2, downsample=EDGE), [None, ...]),
        "train_tokens": (IMAGE, dict(radius=3), [None, 20, 60]),
        "reduce": (LARGE, dict(radius=9), ["token", "block"]),
    },
    "gna": {
        "window": (IMAGE, {}, [(3, 5), (5, 3)]),
        "stride": (IMAGE, dict(window=(4, 4)), [(1, 1), (1, 3), (3, 1)]),
        "dilation": (IMAGE, dict(window=(3, 3)), [(1, 1), (1, 2), (2, 1)]),
        "reduce": (LARGE, dict(window=(5, 9)), ["token", "block"]),
    },
    "radial": {
        "decay": (VIDEO, dict(sink_frames=0, block=4), [0.5, 0.1]),
        "mode": ((3, 15, 20), dict(sink_frames=0, block=4), ["release", "paper"]),
        "sink_frames": ((4, 16, 16), dict(decay=0.1, block=4), [0, 2]),
        "reduce": (VIDEO, dict(decay=0.1, sink_frames=0, block=16), ["token", "block"]),
        "block": (VIDEO, dict(decay=0.01, sink_frames=0), [4, 32]),
    },
}
# Fields whose effect is counted; each has a test below.
COUNTED = {
    "softpag": {
        *("heads", "scale", "strength", "scope", "start", "stop"),
        *("perturbation", "temperature", "seed"),
    },
    "rectified": {"keep", "p_remaining", "touching", "first_frame", "block"},
    "nag": {"negative_prompt", "scale", "tau", "alpha", "layers", "start", "stop"},
    "structured": {"phrases", "form"},
    "astar": {
        *("concepts", "adjectives", "masks", "loss", "segregation", "retention"),
        *("step_size", "threshold", "halvings", "start", "stop"),
    },
    "ir-diffusion": {
        *("reference_masks", "scene_masks", "isolation", "reposition", "start_layer", "layers"),
        *("mask_dropout", "ref_bias", "cross_lambda", "start", "stop", "seed"),
    },
}
SHARED = {"dense_steps", "dense_layers", "backend"}  # of all sparse methods


def test_every_field_has_a_check():
    for name, kind in CLASSES.items():
        checked = (
            set(BY_MASK.get(name, ())) | COUNTED.get(name, set()) | (SHARED if name in SPARSE else set())
        )
        assert {f.name for f in dataclasses.fields(kind)} == checked, name


@torch.no_grad()
def predict(target, call, *methods):
    with dx.apply(target, *methods):
        return target(**call)[0]


@pytest.mark.parametrize("name, field", [(n, f) for n, fields in BY_MASK.items() for f in fields])
def test_by_explicit_masks(name, field, tmp_path):
    grid, beside, values = BY_MASK[name][field]
    if name == "radial":
        target, text = wan.transformer(num_layers=1), 0
        call = wan.inputs(2, **dict(zip(("frames", "height", "width"), grid, strict=True)))
    else:
        target = flux.transformer(num_layers=1, num_single_layers=1)
        call, text = flux.inputs(2, height=grid[1], width=grid[2], text=TEXT), TEXT
    weight = torch.rand(EDGE, EDGE, generator=torch.Generator().manual_seed(0))
    file = tmp_path / "weights.safetensors"
    save_file(
        {f"{part}.0.attn": weight.clone() for part in ("transformer_blocks", "single_transformer_blocks")},
        file,
    )
    fixed = dict(backend="reference", dense_steps=0)
    outs = []
    for value in values:
        settings = beside | {field: str(file) if value is ... else value}
        wanted = predict(target, call, getattr(told, name)(grid, text, weight, settings))
        close(predict(target, call, CLASSES[name](**settings, **fixed)), wanted)
        assert all(far_apart(wanted, other) for other in outs), "the oracle sees no difference"
        outs.append(wanted)


def far_apart(one, two):
    """Ten times what rounding may do, or more."""
    return (one - two).abs().max() > 10 * MODEL * torch.finfo(one.dtype).eps * two.abs().max()


# SoftPAG ----------------------------------------------------------------------------------------------

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


# NAG ------------------------------------------------------------------------------------------------------

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


# RectifiedSparse --------------------------------------------------------------------------------------

# 128 tokens, 8 blocks of 16: 4 rows of two, both frames deep
FLAT = dict(frames=2, height=8, width=8)
# 80 tokens, 5 blocks of 16: 2, 2 and 1 of two, two and one frame
LONG = dict(frames=5, height=4, width=4)
ALONE = dict(p_remaining=None, touching=False, block=16)
# Settings, size, and the least and the most share of pairs that run, counted by hand.
COUNTS = {
    "keep": [(dict(keep=0.25), FLAT, 2 / 8, 2 / 8), (dict(keep=0.5), FLAT, 4 / 8, 4 / 8)],
    "block": [
        (dict(keep=0.25, block=32), FLAT, 1 / 4, 1 / 4),
        (dict(keep=0.25, block=64), FLAT, 1 / 2, 1 / 2),
    ],
    # A block of two rows touches four blocks in the corners and six elsewhere; the best one may be another.
    "touching": [
        (dict(keep=0.125), FLAT, 1 / 8, 1 / 8),
        (dict(keep=0.125, touching=True), FLAT, 40 / 64, 48 / 64),
    ],
    # The first two of five rows keep each other, and the best one may be another.
    "first_frame": [
        (dict(keep=0.2), LONG, 5 / 25, 5 / 25),
        (dict(keep=0.2, first_frame=True), LONG, 7 / 25, 9 / 25),
    ],
    # The maps of random models are nearly even, so that a share of the attention takes that share of blocks.
    "p_remaining": [
        (dict(keep=None, p_remaining=0.1), FLAT, 1 / 8, 2 / 8),
        (dict(keep=None, p_remaining=0.8), FLAT, 5 / 8, 7.5 / 8),
    ],
}


@pytest.mark.parametrize("field", COUNTS)
def test_rectified_by_counted_blocks(field):
    assert set(COUNTS) == COUNTED["rectified"]
    target, outs = wan.transformer(), []
    for settings, size, least, most in COUNTS[field]:
        call = wan.inputs(2, **size)
        method = dx.RectifiedSparse(**ALONE | settings, backend="reference", dense_steps=0)
        with torch.no_grad(), dx.apply(target, method) as session:
            outs.append(target(**call)[0])
        found = {s.density for s in session.report().sites if s.kind == "self"}
        assert all(least - 1e-9 <= d <= most + 1e-9 for d in found), (settings, found)
    assert not torch.equal(*outs)


# StructuredGuidance -----------------------------------------------------------------------------------


def test_structured_by_explicit_averages():
    """Phrases and form against averages of attentions, each of a text for keys and one for values."""
    tiny, two = host("sd"), ["a red cat", "a blue dog"]
    pipe, run = tiny.build(), dict(prompt=[PROMPT], steps=2)
    outs = []
    for phrases, form in (
        (two, "mean"),
        (two[1:], "mean"),
        (two, "conjunction"),
        (two, "conjunction_release"),
    ):
        with torch.no_grad():
            row = pairs(form, *aligned(pipe, PROMPT, phrases))
        wanted = explicit(tiny, pipe, [row], **run)
        with dx.apply(pipe, dx.StructuredGuidance(phrases, form)):
            close(tiny.run(pipe, **run), wanted)
        assert all(far_apart(wanted, other) for other in outs), "the oracle sees no difference"
        outs.append(wanted)


# AStar ------------------------------------------------------------------------------------------------

MOVED = [
    {},
    dict(concepts=["red cat", "dog"]),
    dict(concepts=None, adjectives=True),
    dict(concepts=None, adjectives=False),
    dict(masks=LEFT),
    dict(loss="attend_and_excite"),
    dict(segregation=3.0),
    dict(retention=3.0),
    dict(step_size=200.0),
    dict(threshold=0.8),
    dict(halvings=1),
    dict(start=0.5),
    dict(stop=0.5),
]


def test_astar_by_a_loop_written_out():
    """Every setting against the same loop of denoising with that setting."""
    assert {name for settings in MOVED for name in settings} == COUNTED["astar"]
    tiny = host("sd")
    pipe = tiny.build().to(torch.float64)
    plain, outs = run_astar(tiny, pipe, steps=2), []
    for settings in MOVED:
        settings = dict(concepts=TWO, step_size=400.0, **IN_ALL_STEPS) | settings
        named = dict(concepts=settings["concepts"] or found(settings["adjectives"]))
        wanted = loop(pipe, noise(), steps=2, settings=settings | named)
        with dx.apply(pipe, dx.AStar(**settings)):
            nearly(run_astar(tiny, pipe, steps=2), wanted, plain)
        assert all((wanted - other).abs().max() > 1e-4 for other in outs), settings
        outs.append(wanted)


# IRDiffusion ------------------------------------------------------------------------------------------

LEFT_HALF, RIGHT_HALF, MIDDLE = [0, 0, 0.5, 1], [0.5, 0, 1, 1], [0.25, 0.25, 0.75, 0.75]
DRAWN = dict(
    reference_masks=[MIDDLE] * 2,
    scene_masks=[LEFT_HALF, RIGHT_HALF],
    mask_dropout=0.0,
    start_layer=0.0,
    cross_lambda=0.9,
    start=0.0,
)
ALL, UP, LAST = [""], ["up_blocks"], ["up_blocks.1.attentions.1"]
# Settings, and the layers that see references.
STORIES = [
    ({}, ALL),
    (dict(reference_masks=[MIDDLE, LEFT_HALF]), ALL),
    (dict(scene_masks=[LEFT_HALF, MIDDLE]), ALL),
    (dict(isolation=False), ALL),
    (dict(reposition="none"), ALL),
    (dict(start_layer=0.6), LAST),
    (dict(layers=UP), UP),
    (dict(mask_dropout=0.5), ALL),
    (dict(mask_dropout=0.5, seed=3), ALL),
    (dict(ref_bias=2.0), ALL),
    (dict(cross_lambda=0.2), ALL),
]


def looks(settings):
    """Which tokens see references, by the size of the grid."""
    found = {}
    for side in (8, 16):
        seed = zlib.crc32(f"{settings.get('seed', 0)} 0 {(side, side)}".encode())
        draw = torch.rand(side * side, generator=torch.Generator().manual_seed(seed))
        found[side * side] = draw >= settings["mask_dropout"]
    return found


def test_ir_diffusion_by_the_paper_written_out():
    tiny, outs = host("sd"), []
    pipe = tiny.build().to(torch.float64)
    for more, layers in STORIES:
        settings = DRAWN | more
        first, second = ir_masks(settings["scene_masks"])
        first = first & ~second  # the second is as large or smaller, and keeps what they share
        facts = {k: v for k, v in settings.items() if k in ir_oracles.PLAIN}
        facts |= dict(
            reference=ir_masks(settings["reference_masks"]),
            scene=[first, second],
            looks=looks(settings),
        )
        wanted = paper(tiny, pipe, facts, layers, steps=1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "diffusers_ext: ir-diffusion: scene masks overlap")
            with dx.apply(pipe, dx.IRDiffusion(**settings)):
                close(pictures(tiny, pipe, steps=1), wanted)
        assert all(far_apart(wanted, other) for other in outs), more
        outs.append(wanted)


@pytest.mark.parametrize("window, changed", [({}, 0), (dict(start=0.5), 2), (dict(stop=0.25), 0)])
def test_ir_diffusion_start_and_stop_by_the_first_step_that_changes(window, changed):
    tiny = host("sd")
    pipe = tiny.build()

    def run(*methods):
        latents = []

        def note(pipe, step, timestep, tensors):
            latents.append(tensors["latents"].clone())
            return tensors

        with dx.apply(pipe, *methods):
            pictures(tiny, pipe, steps=4, callback_on_step_end=note)
        return latents

    same = list(map(torch.equal, run(dx.IRDiffusion(**DRAWN | window)), run()))
    assert same.index(False) == changed
    always, once = (run(dx.IRDiffusion(**DRAWN | w))[-1] for w in ({}, window))
    assert torch.equal(always, once) == (not window)


# What all sparse methods have -------------------------------------------------------------------------

PLAIN = {
    "clear": ("flux", dict(radius=2)),
    "gna": ("flux", dict(window=(3, 3))),
    "radial": ("wan2.2", dict(mode="paper", sink_frames=0)),  # whose second denoiser takes the last two steps
    "rectified": ("wan", dict(keep=0.2, p_remaining=None, block=16)),
}


@pytest.fixture(scope="module")
def runs():
    """Name -> function from settings to the latents after each step."""

    def of(name):
        tiny, (_, settings) = host(PLAIN[name][0]), PLAIN[name]
        pipe = tiny.build()

        def run(**more):
            latents = []

            def note(pipe, step, timestep, tensors):
                latents.append(tensors["latents"].clone())
                return tensors

            methods = (
                [CLASSES[name](**settings, **dict(dense_steps=0, backend="reference") | more)] if more else []
            )
            with dx.apply(pipe, *methods):
                tiny.run(pipe, steps=3, callback_on_step_end=note)
            return latents

        return run

    return of


@pytest.mark.parametrize("name", SPARSE)
def test_dense_steps_are_the_plain_ones(name, runs):
    run = runs(name)
    plain = run()
    for setting, dense in ((0, 0), (1, 1), (2, 2), (0.4, 2)):
        same = list(map(torch.equal, run(dense_steps=setting), plain))
        assert same == [step < dense for step in range(3)], setting
    with nothing_changed("dense_steps=3 keeps all"):
        assert all(map(torch.equal, run(dense_steps=3), plain))


@pytest.mark.parametrize("name", SPARSE)
def test_a_back_end_that_is_named_runs_or_is_refused(name, runs, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    run = runs(name)
    plain = run()
    assert torch.equal(run(backend="auto")[-1], plain[-1])  # no gain on so few tokens
    assert not torch.equal(run(backend="reference")[-1], plain[-1])
    with pytest.raises(dx.UnsupportedError, match="Triton"):
        run(backend="triton")
    if name == "rectified":
        with pytest.raises(dx.MethodError, match="backend='flex'"):
            run(backend="flex")


@pytest.mark.parametrize("name", SPARSE)
def test_dense_layers_give_what_the_plain_ones_give(name):
    """The first layer that differs is the first that is not dense."""
    if name in ("clear", "gna"):
        target, call = flux.transformer(), flux.inputs(height=8, width=12)
        layers = [b.attn for b in (*target.transformer_blocks, *target.single_transformer_blocks)]
    else:
        target, call = wan.transformer(num_layers=4), wan.inputs(frames=3, height=8, width=8)
        layers = [b.attn1 for b in target.blocks]
    outs = []
    for layer in layers:
        layer.register_forward_hook(
            lambda m, args, out: outs.append(out[0] if isinstance(out, tuple) else out)
        )

    def attention(*methods):
        outs.clear()
        predict(target, call, *methods)
        return list(outs)

    plain = attention()
    for dense in (0, 1, 3):
        method = CLASSES[name](**PLAIN[name][1], dense_layers=dense, dense_steps=0, backend="reference")
        same = list(map(torch.equal, attention(method), plain))
        assert same.index(False) == dense, same
