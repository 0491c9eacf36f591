"""Radial attention on pipelines: both rules against explicit masks, blocks against the block rule."""

from dataclasses import replace

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.core import Layout, RunContext

from ..hosts import host
from ..kernels import oracles
from . import masked
from .masked import by_mask
from .promises import hides_nothing, is_refused, makes_the_pictures_of
from .sparse.test_method import SITE, dense, layout_of, tensors

LONG = {  # 5 x 4 x 8 or 5 x 4 x 4 tokens
    "wan": dict(num_frames=9, height=16, width=32),
    "wan2.2": dict(num_frames=9, height=16, width=32),
    "hunyuan-video": dict(num_frames=17, height=16, width=16),
    "mochi": dict(num_frames=25, height=64, width=64),
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("mode", ["paper", "release"])
def test_equal_to_an_explicit_mask(name, mode):
    tiny = replace(host(name), size=LONG[name])
    if mode == "paper":
        method, mask = dx.Radial(mode="paper", backend="reference", dense_steps=0), oracles.radial_paper
        arguments = (1,)
    else:
        method = dx.Radial(0.2, block=2, sink_frames=0, backend="reference", dense_steps=0)
        mask, arguments = oracles.radial_release, (0.2, 0, 2)
    oracle = by_mask(lambda grid: mask(grid, *arguments))
    report = makes_the_pictures_of(oracle, method, tiny, cfg=True, prompts=2, steps=2)
    assert all(s.density < 1 for s in report.sites)


@pytest.mark.parametrize("mode", ["paper", "release"])
def test_two_frames_are_the_plain_model_bit_for_bit(mode):
    tiny = replace(host("wan"), size=dict(num_frames=3, height=16, width=32))
    hides_nothing(dx.Radial(mode=mode, backend="reference", dense_steps=0), tiny)


@pytest.mark.parametrize("text, front", [(0, False), (5, True), (5, False)])
@pytest.mark.parametrize("mode", ["paper", "release"])
def test_blocks_by_majority(text, front, mode):
    """Every pair of a kept block is computed, and text stays visible."""
    grid, block = (7, 5, 6), 8
    decay = {"release": 0.2, "paper": 1.0}[mode]
    method = dx.Radial(decay, mode, reduce="block", block=block, backend="reference", dense_steps=0)
    if mode == "release":
        tokens = oracles.radial_release(grid, decay, 1, block)
    else:
        i, j = (torch.arange(210) // 30)[:, None], torch.arange(210) // 30
        apart = (torch.arange(210)[:, None] % 30 - torch.arange(210) % 30).abs()
        d = (i - j).abs()
        band = torch.tensor([29, 29, 14, 14, 7, -1, 7])[d]  # 30, 30, 15, 15, then every second with 8
        tokens = (apart <= band) | (j < 1)
    kept = oracles.strict(tokens, 7, 30, block)
    mask = kept.repeat_interleave(block, 0).repeat_interleave(block, 1)[:210, :210]
    layout = layout_of(grid, text, front)
    q, k, v = tensors(layout)
    out = method.bind(SITE, RunContext(), dense)(q, k, v, None, layout)
    if text:  # the last block of queries and keys holds text too and is visible to and from everywhere
        mask[208:] = True
        mask[:, 208:] = True
    wanted = masked.attention(q, k, v, mask, layout)
    rows = slice(layout.vision.start, layout.vision.start + (208 if text else 210))
    assert (out[:, rows] - wanted[:, rows]).abs().max() <= 1e-12 * wanted.abs().max()


def test_images_are_refused():
    is_refused(dx.Radial(dense_steps=0), host("sd3"), r"needs two or more.*CLEAR \(clear\) and GNA \(gna\)")


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(decay=0.0), "decay must be above 0 and not above 4, got 0.0"),
        (dict(decay=0.5, mode="paper"), "drop one"),
        (dict(mode="fast"), r"Radial mode takes release \| paper, got 'fast'"),
        (dict(reduce=1), r"reduce takes token \| block, got 1"),
        (dict(sink_frames=-1), r"0 or more and .* got -1 and 128; 1 and 128 are usual"),
        (dict(block=3000), "1 to 256 tokens, got 1 and 3000"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(dx.MethodError, match=words):
        dx.Radial(**settings)


def test_more_sink_frames_than_frames_are_refused():
    method = dx.Radial(sink_frames=4, dense_steps=0)
    layout = Layout((3, 2, 2), slice(0, 0), slice(0, 12))
    words = "Radial sink_frames must not exceed the frames, got 4 of 3; 0 or 1 is published"
    assert method.why_not(SITE, layout) == words


def test_the_nearest_frame_fills_its_blocks():
    tile = ((1, 1, 128),) * 2
    assert dx.Radial().nearest((21, 45, 80), tile) == {"grid": (21, 48, 80)}
    assert dx.Radial().nearest((21, 48, 80), tile, 300) == {"grid": (21, 48, 80), "text": 256}
    prime = dx.Radial(block=251).nearest((21, 45, 80), ((1, 1, 251),) * 2)["grid"]
    assert prime[1] * prime[2] % 251 == 0
