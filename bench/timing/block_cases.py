"""List the slices, sizes and methods that `blocks.py` measures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import diffusers_ext as dx
from diffusers_ext.core import Method
from diffusers_ext.models.presets import tokens_of
from diffusers_ext.models.sizes import Grid

WIDE_480, WIDE_720 = {"height": 480, "width": 832}, {"height": 720, "width": 1280}


@dataclass(frozen=True, eq=False)
class Case:
    """A case is a method on a slice at a `size` in px and frames, and `text` tokens if not the preset's."""

    model: str
    size: Mapping[str, int]
    method: Method
    tiny: bool = False

    @property
    def grid(self) -> Grid:
        """Return the tokens of the size."""
        return tokens_of(self.model).grid(self.size)

    @property
    def name(self) -> str:
        """Return model, size, method and the settings that are not its defaults."""
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
    """Return a method with the settings of the preset, without dense steps and layers.

    It always runs over its plan, also where no gain is expected, since that is what is to be measured.
    """
    if name == "rectified":
        change["p_remaining"] = None  # random weights have no peaks, so it would only repeat `keep`
    change |= {"dense_steps": 0, "dense_layers": 0, "backend": "triton"}
    return replace(dx.preset(model, name), **change)


def cases() -> list[Case]:
    """Return the cases that a GPU measures, the usual sizes first."""
    flux, published = {}, {}
    for side, window, stride in ((1024, 24, 8), (2048, 40, 8), (4096, 80, 16)):  # the same share of an axis
        wide = dict(window=(1, window, window), stride=(1, stride, stride))
        ours = [settings("flux.1", "clear"), settings("flux.1", "clear", downsample=4)]
        ours += [settings("flux.1", "gna", **wide), settings("flux.1", "rectified")]
        flux[side] = [Case("flux.1", {"height": side, "width": side}, method) for method in ours]
    videos = ("wan2.1", WIDE_720, 81), ("wan2.1", WIDE_480, 81), ("hunyuan-video", WIDE_720, 129)
    for model, size, frames in videos:
        published[model, size["height"]] = [
            Case(model, {**size, "num_frames": frames}, settings(model, name))
            for name in ("radial", "gna", "rectified")
        ]
    mochi = {"height": 480, "width": 848, "num_frames": 163}
    rectified = dx.RectifiedSparse(keep=0.25, p_remaining=None, dense_steps=0, backend="triton")
    return [
        *flux[1024], *published["wan2.1", 720], *published["hunyuan-video", 720], *flux[4096],
        Case("sd3.5", {"height": 1024, "width": 1024}, settings("sd3.5", "gna")),
        Case("mochi", mochi, settings("mochi", "gna")),
        Case("mochi", mochi, rectified),
        *published["wan2.1", 480], *flux[2048],
    ]  # fmt: skip


# What settles most about full blocks in a minute or two.
QUICK = (
    ("flux.1", 1024, "clear"),
    ("flux.1", 4096, "clear"),
    ("wan2.1", 720, "gna"),
    ("wan2.1", 720, "radial"),
    ("hunyuan-video", 720, "gna"),
)


def quick_cases(keys: Sequence[tuple[str, int, str]] = QUICK) -> list[Case]:
    """Return the first case of each model, height in px and method; for CLEAR it has no pooled tokens."""
    known: dict[tuple[str, int, str], Case] = {}
    for case in cases():
        known.setdefault((case.model, case.size["height"], case.method.name), case)
    return [known[key] for key in keys]


def tiny_cases() -> list[Case]:
    """Return every pair of a model and a method that a GPU measures, at a size for the reference.

    CLEAR with pooled tokens counts as a method of its own.
    """
    pairs: dict[tuple[str, str, bool], Case] = {}
    for case in cases():
        pairs.setdefault((case.model, case.method.name, getattr(case.method, "downsample", 0) > 0), case)
    return [shrunk(case) for case in pairs.values()]


def shrunk(case: Case) -> Case:
    """Return the same case with windows and blocks for a tiny grid, whose sizes no tile divides."""
    video = "num_frames" in case.size
    size = {"height": 96, "width": 128} if video else {"height": 128, "width": 192}
    if video:
        size["num_frames"] = 13 if case.model == "mochi" else 9  # three frames of latents
    if case.grid.text:
        size["text"] = 7
    smaller: dict[str, dict[str, Any]] = {
        "clear": {"radius": 2},
        "gna": {"window": (2 if video else 1, 3, 5), "stride": (1, 2, 2)},
        "radial": {"decay": 0.1, "block": 16},
        "rectified": {"block": 16},
    }
    method = replace(case.method, backend="reference", **smaller[case.method.name])
    return Case(case.model, size, method, tiny=True)
