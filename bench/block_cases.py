"""Which slices, sizes and methods `blocks.py` measures."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import diffusers_ext as dx
from diffusers_ext.core import Method
from diffusers_ext.presets import tokens_of
from diffusers_ext.sizes import Grid

WIDE_480, WIDE_720 = {"height": 480, "width": 832}, {"height": 720, "width": 1280}


@dataclass(frozen=True, eq=False)
class Case:
    """A method on a slice; `size` in px and frames, with `text` tokens where they are not the preset's."""

    model: str
    size: Mapping[str, int]
    method: Method
    tiny: bool = False

    @property
    def grid(self) -> Grid:
        """Tokens of the size."""
        return tokens_of(self.model).grid(self.size)

    @property
    def name(self) -> str:
        """Model, size, method and the settings that are not its defaults."""
        size = f"{self.size['width']}x{self.size['height']}"
        frames = f"x{self.size['num_frames']}" if "num_frames" in self.size else ""
        changed = [
            f"{f.name}={str(value).replace(' ', '')}"
            for f in fields(self.method)
            if f.name not in ("dense_steps", "dense_layers", "backend")
            and (value := getattr(self.method, f.name)) != f.default
        ]
        return " ".join([f"{self.model} {size}{frames}{' tiny' * self.tiny} {self.method.name}", *changed])


def settings(model: str, name: str, **change: Any) -> Method:
    """A method as the preset has it, without dense steps and layers."""
    if name == "rectified":
        change["p_remaining"] = None  # random weights have no peaks, so it would say `keep` anew
    return replace(dx.preset(model, name), dense_steps=0, dense_layers=0, **change)


def cases() -> list[Case]:
    """What a GPU measures, the usual sizes first."""
    flux, published = {}, {}
    for side, window, stride in ((1024, 24, 8), (2048, 40, 8), (4096, 80, 16)):  # the same share of an axis
        wide = dict(window=(1, window, window), stride=(1, stride, stride))
        ours = [settings("flux.1", "clear"), settings("flux.1", "clear", downsample=4)]
        ours += [settings("flux.1", "gna", **wide), settings("flux.1", "rectified")]
        flux[side] = [Case("flux.1", {"height": side, "width": side}, method) for method in ours]
    for model, size, frames in (
        ("wan2.1", WIDE_720, 81),
        ("wan2.1", WIDE_480, 81),
        ("hunyuan-video", WIDE_720, 129),
    ):
        published[model, size["height"]] = [
            Case(model, {**size, "num_frames": frames}, settings(model, name))
            for name in ("radial", "gna", "rectified")
        ]
    mochi = {"height": 480, "width": 848, "num_frames": 163}
    return [
        *flux[1024], *published["wan2.1", 720], *published["hunyuan-video", 720], *flux[4096],
        Case("sd3.5", {"height": 1024, "width": 1024}, settings("sd3.5", "gna")),
        Case("mochi", mochi, settings("mochi", "gna")),
        Case("mochi", mochi, dx.RectifiedSparse(keep=0.25, p_remaining=None, dense_steps=0)),
        *published["wan2.1", 480], *flux[2048],
    ]  # fmt: skip


def tiny_cases() -> list[Case]:
    """Every method and every family, on the reference back-end."""
    image, video = {"height": 128, "width": 192, "text": 7}, {"height": 96, "width": 128, "num_frames": 9}
    small = dict(backend="reference", dense_steps=0)
    return [
        Case("flux.1", image, dx.CLEAR(2, downsample=4, **small), tiny=True),
        Case("flux.1", image, dx.RectifiedSparse(0.25, None, block=16, **small), tiny=True),
        Case("sd3.5", image, dx.GNA((1, 3, 5), **small), tiny=True),
        Case("wan2.1", video, dx.Radial(0.1, block=16, **small), tiny=True),
        Case("hunyuan-video", {**video, "text": 7}, dx.GNA((2, 3, 5), **small), tiny=True),
        Case("mochi", {**video, "text": 7, "num_frames": 7}, dx.GNA((2, 3, 5), **small), tiny=True),
    ]
