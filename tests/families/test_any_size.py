"""Any size: every sparse method on every family equals dense attention with its mask, or says in one sentence
why not. Nothing has to divide anything.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import diffusers_ext as dx

from ..close import alike as close
from ..kernels import oracles
from ..processors.masked import by_mask
from ..processors.sparse.test_pooled import explicit
from ..processors.test_rectified import computed_by
from ..tiny_models import flux, hunyuan_video, mochi, sd3, unet, wan

# (frames, rows, columns) in tokens, text tokens, batch
IMAGES = [
    ((1, 1, 1), 1, 1),
    ((1, 1, 2), 7, 2),
    ((1, 1, 13), 3, 1),
    ((1, 13, 1), 0, 2),
    ((1, 2, 2), 77, 1),
    ((1, 3, 40), 5, 1),
    ((1, 37, 3), 0, 1),
    ((1, 7, 11), 1, 2),
    ((1, 8, 16), 0, 1),  # one tile
    ((1, 9, 17), 16, 1),  # a row and a column more
    ((1, 7, 15), 31, 2),  # and less
    ((1, 12, 20), 77, 1),
    ((1, 13, 7), 128, 1),  # 830 x 470 px, a quarter of the sides
    ((1, 16, 16), 1, 2),
    ((1, 19, 6), 2, 1),
    ((1, 23, 5), 77, 2),
    ((1, 5, 29), 9, 1),
    ((1, 15, 9), 0, 2),
    ((1, 11, 13), 13, 1),
    ((1, 17, 31), 77, 1),
]
VIDEOS = [
    ((1, 1, 1), 1, 1),
    ((1, 5, 9), 7, 2),  # one frame
    ((2, 1, 1), 3, 1),
    ((2, 1, 9), 5, 2),
    ((2, 9, 1), 77, 1),
    ((2, 8, 8), 1, 1),  # one tile
    ((3, 1, 7), 4, 1),
    ((3, 7, 1), 4, 2),
    ((3, 3, 5), 77, 2),
    ((3, 9, 7), 5, 1),
    ((3, 8, 9), 16, 1),
    ((4, 7, 8), 2, 2),
    ((5, 3, 4), 13, 1),
    ((5, 4, 11), 1, 1),
    ((7, 2, 3), 31, 2),
    ((7, 5, 5), 6, 1),
    ((11, 3, 2), 9, 1),
    ((13, 3, 6), 20, 1),  # 432 x 768 px and 49 frames, a ninth of the sides
    ((17, 2, 2), 3, 1),
    ((2, 11, 13), 12, 1),
]
COMMON = dict(backend="reference", dense_steps=0)


@dataclass(frozen=True)
class Tiny:
    """A model, and the call for a grid, `text` tokens (at least `least`) and a batch."""

    build: Callable[[], Any]
    call: Callable[..., dict[str, Any]]
    least: int = 0
    video: bool = False


def image(tiny, patch=1, **extra):
    """Patches leave a rest of a latent pixel where the rows are odd."""

    def call(grid, text, batch):
        _, h, w = grid
        return tiny.inputs(batch, height=h * patch + h % patch, width=w * patch, text=text, **extra)

    return call


def video(tiny, prompts=False):
    """`prompts` of different lengths where the model hides padding."""

    def call(grid, text, batch):
        t, h, w = grid
        lengths = {"lengths": (text, 1)} if prompts else {}
        return tiny.inputs(batch, frames=t, height=h, width=w, text=text, **lengths)

    return call


def sd3_of(**config):
    return sd3.transformer(num_layers=2, pos_embed_max_size=48, **config)


TINY = {
    "unet": Tiny(unet.unet, image(unet), least=1),
    "unet-xl": Tiny(lambda: unet.unet(sdxl=True), image(unet, sdxl=True), least=1),
    "sd3": Tiny(sd3_of, image(sd3, 2)),
    "sd3.5": Tiny(lambda: sd3_of(qk_norm="rms_norm", dual_attention_layers=(0,)), image(sd3, 2)),
    "flux": Tiny(lambda: flux.transformer(num_layers=1, num_single_layers=1), image(flux)),
    "wan": Tiny(lambda: wan.transformer(num_layers=1), video(wan), least=1, video=True),
    "hunyuan-video": Tiny(
        lambda: hunyuan_video.transformer(num_layers=1, num_single_layers=1),
        video(hunyuan_video, prompts=True),
        least=1,
        video=True,
    ),
    "mochi": Tiny(lambda: mochi.transformer(num_layers=2), video(mochi, prompts=True), least=1, video=True),
}
# Every fourth one now: each model meets a quarter of the sizes, and each size a quarter of the models.
WALK = [
    pytest.param(name, *size, marks=[pytest.mark.slow] * ((i + j) % 4 > 0))
    for i, (name, tiny) in enumerate(TINY.items())
    for j, size in enumerate(VIDEOS if tiny.video else IMAGES)
]


def pairs(grid):
    """Every sparse method with the attention that it has to equal; `None` is the model's own."""
    window = tuple(min(n, 3) for n in grid)
    stride = tuple(min(w, 2) for w in window)
    dilation = tuple(2 if n > 5 else 1 for n in grid)
    yield dx.CLEAR(radius=4, **COMMON), by_mask(mask("disk", 4))
    yield dx.CLEAR(radius=2, downsample=2, **COMMON), explicit(2, 2)
    yield dx.GNA(window, stride, **COMMON), by_mask(mask("box", window, stride))
    yield dx.GNA(window, dilation=dilation, **COMMON), by_mask(mask("box", window, (1, 1, 1), dilation))
    yield dx.Radial(0.5, block=16, **COMMON), by_mask(mask("radial_release", 0.5, 1, 16))
    yield dx.Radial(mode="paper", block=16, **COMMON), by_mask(mask("radial_paper", 1))
    yield dx.RectifiedSparse(keep=1.0, block=16, **COMMON), None
    if math.prod(grid) <= 160:  # the oracle goes through lists
        some = dx.RectifiedSparse(keep=0.3, block=16, touching=False, **COMMON)
        yield some, computed_by(some)


@functools.cache
def mask(name, *arguments):
    """The brute-force masks of a rule by grid, made once for all families."""
    return functools.cache(lambda grid: getattr(oracles, name)(grid, *arguments))


@functools.cache
def model(name):
    return TINY[name].build()


@torch.no_grad()
def prediction(name, method, call):
    with dx.apply(model(name), *[method] * (method is not None)):
        return model(name)(**call)[0]


def misfit(method, grid):
    """Words with which a method has to refuse a grid, written by hand; `None` where it must work."""
    t, h, w = grid
    match method:
        case dx.CLEAR() if t > 1:
            return "Radial (radial) and GNA (gna) are for video"
        case dx.CLEAR(downsample=edge) if edge and (h % edge or w % edge):
            return "the nearest are"
        case dx.Radial() if t == 1:
            return "CLEAR (clear) and GNA (gna) are for images"
        case dx.GNA(window=window, dilation=dilation):
            steps = [dilation] * 3 if isinstance(dilation, int) else dilation
            if any(a * d > n for a, d, n in zip(window, steps, grid, strict=True)):
                return "the largest window there is"
            if any(a == 1 < n for a, n in zip(window, grid, strict=True)):
                return "a window of 1 only fits an axis of 1"
    return None


@pytest.mark.parametrize("name, grid, text, batch", WALK, ids=str)
def test_any_size(name, grid, text, batch):
    call = TINY[name].call(grid, max(text, TINY[name].least), batch)
    coarse = (1, -(-grid[1] // 2), -(-grid[2] // 2))
    grids = {"unet": [grid, coarse], "unet-xl": [grid, coarse]}.get(name, [grid])
    for method, oracle in pairs(grid):
        words = [found for found in (misfit(method, g) for g in grids) if found]
        if not words:
            close(prediction(name, method, call), prediction(name, oracle, call))
            continue
        with pytest.raises(dx.MethodError) as error:
            prediction(name, method, call)
        said = str(error.value)
        assert words[0] in said and said.count("\n") == 0, said
