"""Every sparse method runs in every family that it fits, with every length of masked text.

One call of a tiny denoiser is compared with dense attention under the explicit mask of the tokens.
"""

from dataclasses import dataclass

import pytest
import torch

import diffusers_ext as dx

from ..close import alike as close
from ..kernels import oracles
from ..tiny_models import flux, hunyuan_video, mochi, sd3, unet, wan
from .masked import by_mask
from .test_rectified import computed_by

IMAGE, VIDEO = (1, 10, 16), (5, 4, 9)  # tokens; more than one tile of 8 x 16 or 2 x 8 x 8
TILES = {False: (1, 8, 16), True: (2, 8, 8)}
TOKENS = dict(height=10, width=16)
SPARSE = dict(backend="reference", dense_steps=0)

IMAGES = {
    "sd3": lambda: (sd3.transformer(), sd3.inputs(2, height=20, width=32)),
    "sd3.5": lambda: (
        sd3.transformer(qk_norm="rms_norm", dual_attention_layers=(0,)),
        sd3.inputs(2, height=20, width=32),
    ),
    "flux": lambda: (flux.transformer(), flux.inputs(2, **TOKENS)),
    "sd": lambda: (unet.unet(), unet.inputs(2, **TOKENS)),
    "sdxl": lambda: (unet.unet(sdxl=True), unet.inputs(2, sdxl=True, height=20, width=32)),
}
LONG = dict(frames=5, height=4, width=9)
VIDEOS = {
    "wan": lambda lengths: (wan.transformer(), wan.inputs(2, **LONG)),
    "hunyuan-video": lambda lengths: (
        hunyuan_video.transformer(),
        hunyuan_video.inputs(2, **LONG, lengths=lengths),
    ),
    "mochi": lambda lengths: (mochi.transformer(), mochi.inputs(2, **LONG, lengths=lengths)),
}
LENGTHS = {"no padding": (7, 7), "padding": (5, 3), "hardly any text": (7, 1)}


def whole(rule):
    """The rule by complete tiles, as `reduce="block"` keeps them."""
    return lambda grid: oracles.whole_tiles(rule(grid), grid, TILES[grid[0] > 1])


def radial_blocks(grid):
    """The published block rule over `mode="release"`, for blocks of 12 tokens, which fill the grid."""
    tokens = oracles.radial_release(grid, 0.2, 1, 12)
    kept = oracles.strict(tokens, grid[0], grid[1] * grid[2], 12)
    return kept.repeat_interleave(12, 0).repeat_interleave(12, 1)


@dataclass(frozen=True)
class Pair:
    """A method and the mask of a grid that says the same."""

    method: object
    mask: object = None

    @property
    def oracle(self):
        return computed_by(self.method) if self.mask is None else by_mask(self.mask)


def gna(window, stride=(1, 1, 1), dilation=(1, 1, 1)):
    return Pair(
        dx.GNA(window, stride, dilation, **SPARSE), lambda grid: oracles.box(grid, window, stride, dilation)
    )


FOR_IMAGES = {
    "clear": Pair(dx.CLEAR(3, **SPARSE), lambda grid: oracles.disk(grid, 3)),
    "clear, whole tiles": Pair(
        dx.CLEAR(2, reduce="block", **SPARSE), whole(lambda grid: oracles.disk(grid, 2))
    ),
    "gna": gna((1, 3, 4), (1, 1, 2)),
    "gna, dilated": gna((1, 2, 3), (1, 1, 1), (1, 2, 2)),
    "gna, whole tiles": Pair(
        dx.GNA((1, 2, 4), reduce="block", **SPARSE),
        whole(lambda grid: oracles.box(grid, (1, 2, 4), (1, 1, 1))),
    ),
    "rectified": Pair(dx.RectifiedSparse(0.25, 0.3, touching=False, block=16, **SPARSE)),
    "rectified, touching": Pair(dx.RectifiedSparse(0.1, None, block=16, **SPARSE)),
}
FOR_VIDEOS = {
    "gna": gna((2, 3, 4), (2, 1, 1)),
    "gna, dilated": gna((2, 2, 3), (1, 1, 1), (2, 2, 2)),
    "gna, whole tiles": Pair(
        dx.GNA((2, 3, 3), reduce="block", **SPARSE),
        whole(lambda grid: oracles.box(grid, (2, 3, 3), (1, 1, 1))),
    ),
    "radial": Pair(dx.Radial(0.2, block=4, **SPARSE), lambda grid: oracles.radial_release(grid, 0.2, 1, 4)),
    "radial, paper": Pair(
        dx.Radial(mode="paper", sink_frames=0, **SPARSE), lambda grid: oracles.radial_paper(grid, 0)
    ),
    "radial, whole blocks": Pair(dx.Radial(0.2, reduce="block", block=12, **SPARSE), radial_blocks),
    "rectified": Pair(dx.RectifiedSparse(0.25, 0.3, touching=False, block=32, **SPARSE)),
    "rectified, first frame": Pair(
        dx.RectifiedSparse(0.2, None, touching=False, first_frame=True, block=32, **SPARSE)
    ),
}


@torch.no_grad()
def check(model, call, pair):
    plain = model(**call)[0]
    with dx.apply(model, pair.oracle):
        wanted = model(**call)[0]
    with dx.apply(model, pair.method) as session:
        got = model(**call)[0]
    close(got, wanted)
    assert (got - plain).abs().max() > 1e-3 * plain.abs().max(), "the method did nothing"
    sites = [s for s in session.report().sites if s.kind != "cross"]
    assert min(s.density for s in sites) < 1
    assert {s.backend for s in sites} <= {"reference", "dense"}


@pytest.mark.parametrize("method", FOR_IMAGES)
@pytest.mark.parametrize("family", IMAGES)
def test_families_of_images(family, method):
    check(*IMAGES[family](), FOR_IMAGES[method])


MASKED = ("hunyuan-video", "mochi")
# Prompts of every length meet each way to hide padding: by a rule, by tiles, by blocks that are chosen.
HIDING = ("gna", "gna, whole tiles", "rectified")
OF_VIDEOS = [("wan", "no padding", method) for method in FOR_VIDEOS] + [
    (family, lengths, method)
    for family in MASKED
    for lengths in LENGTHS
    for method in FOR_VIDEOS
    if lengths == "padding" or method in HIDING
]


@pytest.mark.parametrize("family, lengths, method", OF_VIDEOS)
def test_families_of_videos(family, lengths, method):
    check(*VIDEOS[family](LENGTHS[lengths]), FOR_VIDEOS[method])


@torch.no_grad()
@pytest.mark.parametrize("name", ["clear", "gna", "rectified"])
def test_masks_that_no_layout_announces(name):
    """FLUX.1 hands a mask to attention, so it is refused; SD3 leaves it unread under a session as without."""
    method = FOR_IMAGES[name].method
    masked = {"joint_attention_kwargs": {"attention_mask": torch.arange(167).expand(2, 1, 1, -1) % 2 == 0}}
    model, call = IMAGES["flux"]()
    plain = model(**call | masked)[0]
    refusal = pytest.raises(dx.UnsupportedError, match=rf"{name} decides itself .* leave the mask out")
    with dx.apply(model, method), refusal:
        model(**call | masked)
    assert torch.equal(model(**call | masked)[0], plain)
    model, call = IMAGES["sd3"]()
    with dx.apply(model, method):
        assert torch.equal(model(**call | masked)[0], model(**call)[0])
