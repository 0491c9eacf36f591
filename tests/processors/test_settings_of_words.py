"""Every field of the methods that read the words of a prompt against papers that are written out."""

import warnings
import zlib

import pytest
import torch

import diffusers_ext as dx

from ..close import alike as close
from ..close import far_apart
from ..hosts import host
from . import ir_oracles
from .astar_oracles import IN_ALL_STEPS, LEFT, TWO, found, loop, nearly
from .astar_oracles import run as run_astar
from .astar_oracles import start as noise
from .ir_runs import masks as ir_masks
from .ir_runs import paper, pictures
from .test_every_setting import COUNTED
from .test_structured import PROMPT, aligned, explicit, pairs


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
