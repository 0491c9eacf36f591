"""Every field of every method changes what an oracle of its own says it should.

A new field fails here until it has a check. Oracles are given sizes and settings and use nothing of the
package.
"""

import dataclasses
from importlib import import_module

import pytest
import torch
from safetensors.torch import save_file

import diffusers_ext as dx
from diffusers_ext.processors.sparse.method import SparseMethod
from diffusers_ext.settings.registry import METHODS

from ..close import alike as close
from ..close import far_apart
from ..hosts import host, nothing_changed
from ..tiny_models import flux, wan
from . import settings_oracles as told
from .promises import predict

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
# Fields whose effect is counted, here or in test_settings_of_guidance.py and test_settings_of_words.py.
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
