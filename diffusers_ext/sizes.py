"""From pixels and frames to tokens: grids by hand, of well-known models, and of pipelines."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .admission import denoisers
from .core import Method, nearest_names
from .errors import MethodError
from .families import family_of
from .families.unet import halvings
from .values import fit, fit_fields


@dataclass(frozen=True)
class Grid:
    """A grid of `t x h x w` tokens next to `text` tokens; an image has `t = 1`."""

    t: int
    h: int
    w: int
    text: int = 0

    def __post_init__(self) -> None:
        fit_fields(self)
        if min(self.shape) < 1 or self.text < 0:
            raise MethodError(
                "A grid takes 1 or more tokens an axis and 0 or more text tokens, got "
                f"{self.t} x {self.h} x {self.w} and {self.text}; Grid(1, 64, 64, text=512) is a FLUX image "
                "of 1024 px."
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(t, h, w)`."""
        return self.t, self.h, self.w


@dataclass(frozen=True)
class Tokens:
    """How a model cuts a picture or a video: `edge_px` of a token, `frames` a latent frame stands for (0 for
    images), `text` tokens in the sequence, and the usual size in px and frames. `levels` are those of a U-Net
    that has attention, finest first: how often the grid is halved there, rounding up.
    """

    edge_px: int
    frames: int
    text: int
    height: int
    width: int
    num_frames: int = 1
    levels: tuple[int, ...] = (0,)

    def grid(self, size: Mapping[str, int | None]) -> Grid:
        """The finest grid of a size; raises `MethodError` for sizes without a token, or of no whole number of
        tokens and latent frames, with the nearest that are.
        """
        return self.grids(size)[self.levels[0]]

    def grids(self, size: Mapping[str, int | None]) -> dict[int, Grid]:
        """The grid of each level; raises as `grid` does."""
        values = {name: getattr(self, name) for name in ("height", "width", "num_frames", "text")}
        for name, value in size.items():
            if name not in values:
                raise MethodError(
                    f"A size is given by height, width, num_frames and text, got {name!r}; nearest is "
                    f"{nearest_names(name, values, 1)[0]!r}."
                )
            try:
                fitted = fit(value, int | None, name)
            except ValueError as error:
                raise MethodError(
                    f"A size is given in whole numbers of px, frames and tokens, got {name}={value!r}; "
                    "round it."
                ) from error
            values[name] = values[name] if fitted is None else fitted
        if not self.frames and values["num_frames"] != 1:
            raise MethodError(
                f"This model makes images, got num_frames={values['num_frames']}; leave it out."
            )
        if min(values["height"], values["width"]) < self.edge_px or values["num_frames"] < 1:
            raise MethodError(
                f"A token is {self.edge_px} x {self.edge_px} px here, got {values['height']} x "
                f"{values['width']} px and {values['num_frames']} frames; the smallest size is one token."
            )
        self._check_whole(values)
        t = (values["num_frames"] - 1) // self.frames + 1 if self.frames else 1
        sides = values["height"] // self.edge_px, values["width"] // self.edge_px
        return {
            level: Grid(t, *(-(-side // 2**level) for side in sides), values["text"]) for level in self.levels
        }

    def _check_whole(self, values: Mapping[str, int]) -> None:
        rules = [("height", 0, self.edge_px, "px"), ("width", 0, self.edge_px, "px")]
        if self.frames:
            rules.append(("num_frames", 1, self.frames, "frames"))
        for name, first, step, unit in rules:
            below = (values[name] - first) // step * step + first
            if below != values[name]:
                rule = f"a multiple of {step} {unit}" if not first else f"1 more than a multiple of {step}"
                raise MethodError(
                    f"This model needs a {name} that is {rule}, got {values[name]}; the nearest are {below} "
                    f"and {below + step}."
                )

    def size(self, grid: tuple[int, int, int], level: int | None = None) -> dict[str, int]:
        """Pixels and frames of a grid, the finest one or that of a level."""
        edge_px = self.edge_px * 2 ** (self.levels[0] if level is None else level)
        size = {"height": grid[1] * edge_px, "width": grid[2] * edge_px}
        return size | ({"num_frames": (grid[0] - 1) * self.frames + 1} if self.frames else {})


def of_pipeline(pipe: Any, method: Method | None = None) -> Tokens:
    """How a pipeline cuts its pictures; with the levels of a U-Net that `method` would act on, or all."""
    component, model = next(iter(denoisers(pipe).items()))
    family = family_of(model).name
    call = {name: p.default for name, p in inspect.signature(type(pipe).__call__).parameters.items()}
    latent_px = _first(pipe, "vae_scale_factor_spatial", "vae_spatial_scale_factor", "vae_scale_factor")
    side = getattr(pipe, "default_sample_size", None) or getattr(model.config, "sample_size", None)
    side = (side[0] if isinstance(side, (tuple, list)) else side or 0) * latent_px
    height = call.get("height") or getattr(pipe, "default_height", side)
    width = call.get("width") or getattr(pipe, "default_width", side)
    if family == "unet":
        sites = family_of(model).sites(model, component)
        picked = [s for s in sites if s.kind != "cross"] if method is None else method.select(sites)
        levels = {halvings(site.name, len(model.config.down_block_types)) for site in picked}
        return Tokens(latent_px, 0, 0, height, width, levels=tuple(sorted(levels)))
    if family == "flux":
        return Tokens(latent_px * 2, 0, call["max_sequence_length"], height, width)  # packed two by two
    patch = model.config.patch_size
    if "num_frames" in call:
        depth, patch = patch[:2] if family == "wan" else (getattr(model.config, "patch_size_t", 1), patch)
        frames = depth * _first(pipe, "vae_scale_factor_temporal", "vae_temporal_scale_factor")
        text = 0 if family == "wan" else call["max_sequence_length"]  # Wan keeps it out of the sequence
        return Tokens(latent_px * patch, frames, text, height, width, call["num_frames"])
    text = pipe.tokenizer_max_length + call["max_sequence_length"]  # CLIP's tokens, then those of T5
    return Tokens(latent_px * patch, 0, text, height, width)


def _first(pipe: Any, *names: str) -> int:
    """The first attribute that is there: pipelines of different ages call the same number differently."""
    return next(getattr(pipe, name) for name in names if getattr(pipe, name, None))
