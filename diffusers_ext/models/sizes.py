"""Convert pixels and frames to tokens, for grids by hand, common models and pipelines."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..core import Method, nearest_names
from ..errors import MethodError
from ..families import family_of, latents
from ..families.denoisers import denoisers
from ..settings.fields import fit, fit_fields


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
                f"A grid takes 1 or more tokens an axis and 0 or more text tokens, got {self.t} x {self.h} x "
                f"{self.w} and {self.text}; Grid(1, 64, 64, text=512) is a FLUX image of 1024 px."
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape `(t, h, w)`."""
        return self.t, self.h, self.w


@dataclass(frozen=True)
class Tokens:
    """The geometry of tokens: how a model cuts a picture or a video.

    `edge_px` is the edge of a token. `frames` is the number of frames that a latent frame stands for, 0 for
    images. `text` is the number of text tokens in the sequence. `height`, `width` and `num_frames` are the
    usual size. `levels` are those of a U-Net that have attention, finest first: how often the grid is halved
    there, rounding up. Sides are multiples of `unit_px`, or of a token if it is 0. `most` holds the numbers
    of tokens along time, height and width for which the model has positions, 0 if there is no limit.
    """

    edge_px: int
    frames: int
    text: int
    height: int
    width: int
    num_frames: int = 1
    levels: tuple[int, ...] = (0,)
    unit_px: int = 0
    most: tuple[int, int, int] = (0, 0, 0)

    def grid(self, size: Mapping[str, int | None]) -> Grid:
        """Return the finest grid of a size.

        Raises `MethodError` for sizes without a token, and for fractions of tokens or latent frames; it names
        the nearest sizes.
        """
        return self.grids(size)[self.levels[0]]

    def grids(self, size: Mapping[str, int | None]) -> dict[int, Grid]:
        """Return the grid of each level; raises as `grid` does."""
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
        for name in ("height", "width", "num_frames"):
            if (why := self.why_not(name, values[name])) is not None:
                raise MethodError(f"This model {why}.")
        t = (values["num_frames"] - 1) // self.frames + 1 if self.frames else 1
        sides = values["height"] // self.edge_px, values["width"] // self.edge_px
        return {
            level: Grid(t, *(-(-side // 2**level) for side in sides), values["text"]) for level in self.levels
        }

    def why_not(self, name: str, value: int) -> str | None:
        """Return why a `height`, `width` or `num_frames` does not fit, and the nearest values, or `None`."""
        frames = name == "num_frames"
        first, step = (1, self.frames or 1) if frames else (0, self.unit_px or self.edge_px)
        tokens = self.most[("num_frames", "height", "width").index(name)]
        last = (tokens - 1) * step + 1 if frames else tokens * self.edge_px // step * step
        least = first or step
        if value >= least and (value - first) % step == 0 and not (tokens and value > last):
            return None
        rule = f"1 more than a multiple of {step}" if frames else f"a multiple of {step} px"
        if step == 1:
            rule = "1 or more"
        below = max((value - first) // step * step + first, least)
        closest = sorted({min(n, last) if tokens else n for n in (below, below + step)})
        if value < least or len(closest) == 1:
            closest = closest[:1]
        return (
            f"needs a {name} that is {rule}{f' up to {last}' if tokens else ''}, got {value}; the nearest "
            f"{'are' if len(closest) > 1 else 'is'} {' and '.join(map(str, closest))}"
        )

    def size(self, grid: tuple[int, int, int], level: int | None = None) -> dict[str, int]:
        """Return pixels and frames of a grid, the finest one or that of a level."""
        edge_px = self.edge_px * 2 ** (self.levels[0] if level is None else level)
        size = {"height": grid[1] * edge_px, "width": grid[2] * edge_px}
        return size | ({"num_frames": (grid[0] - 1) * self.frames + 1} if self.frames else {})


def of_pipeline(pipe: Any, method: Method | None = None) -> Tokens:
    """Return how a pipeline cuts its pictures, with the U-Net levels that `method` would act on, or all."""
    component, model = next(iter(denoisers(pipe).items()))
    family = family_of(model)
    levels = family.levels(model, component, None if method is None else method.select)
    return replace(cut_of(pipe), text=family.text_tokens(pipe), levels=levels)


def cut_of(pipe: Any) -> Tokens:
    """Return how any pipeline cuts its pictures, by its own attributes and the config of its denoiser.

    Text and levels, which only a family knows, are left out.
    """
    model, config = latents.denoiser_of(pipe), latents.config_of(pipe)
    patch = config.get("patch_size") or 1
    depth = config.get("patch_size_t") or 1
    if not isinstance(patch, int):
        depth, patch = patch[0], patch[-1]
    # Some pipelines pack patches of their own and state it in the image processor.
    processor = getattr(getattr(pipe, "image_processor", None), "config", None)
    edge_px = max(latents.spatial(pipe) * patch, getattr(processor, "vae_scale_factor", 1))
    frames = 0
    if "num_frames" in latents.defaults(pipe):
        edge_px = latents.spatial(pipe) * patch
        frames = (depth or 1) * latents.temporal(pipe)
    size = latents.size(pipe, {})
    return Tokens(edge_px, frames, 0, **size, unit_px=_unit_px(pipe, edge_px), most=_most(model, config))


def check_size(pipe: Any, call: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a `height`, `width` or `num_frames` in `call` that a pipeline cannot make.

    The message names the nearest that it can make. Defaults that exceed the tables of the denoiser raise as
    well.
    """
    tokens = cut_of(pipe)
    names = [name for name in ("height", "width", "num_frames") if name in latents.defaults(pipe)]
    for name in sorted(names, key=lambda name: call.get(name) is None):  # given values come first
        asked = call.get(name)
        if asked is not None and (isinstance(asked, bool) or not hasattr(asked, "__index__")):
            raise ValueError(
                f"{type(pipe).__name__} needs a {name} that is a whole number, got {asked!r}; write "
                f"{name}={getattr(tokens, name)}, its default, or another one"
            )
        value = getattr(tokens, name) if asked is None else asked
        if (value or asked is not None) and (why := tokens.why_not(name, value)) is not None:
            own = "" if asked is not None else ", its default"
            raise ValueError(f"{type(pipe).__name__} {why.replace(f'got {value}', f'got {value}{own}')}")


def _unit_px(pipe: Any, edge_px: int) -> int:
    """Return the least multiple of a token that the pipeline's own check of sizes takes, 0 for one token."""
    return next((edge_px * n for n in (2, 4, 8, 16) if _pipeline_takes(pipe, edge_px * n)), 0) * (
        not _pipeline_takes(pipe, edge_px)
    )


def _pipeline_takes(pipe: Any, side: int) -> bool:
    if not hasattr(pipe, "check_inputs"):
        return True
    usual = latents.defaults(pipe)
    given = {"prompt": "a", "height": side, "width": side}
    names = inspect.signature(pipe.check_inputs).parameters
    try:
        pipe.check_inputs(**{name: given.get(name, usual.get(name)) for name in names})
    except ValueError as error:
        return "divisible" not in str(error)  # it may complain about arguments that we left out
    except (TypeError, AttributeError):
        return True
    return True


def _most(model: Any, config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the sizes of a denoiser's tables of positions along time, height and width, 0 for no table."""
    if n := config.get("rope_max_seq_len"):
        return n, n, n
    if n := config.get("pos_embed_max_size"):
        table = getattr(getattr(model, "pos_embed", None), "pos_embed", None)
        if table is not None and table.ndim == 3 and table.shape[1] == n:  # AuraFlow counts all positions
            n = math.isqrt(n)
        return 0, n, n
    if lens := config.get("axes_lens"):  # Lumina: text, height, width
        return 0, *lens[-2:]
    if (sizes := config.get("max_size")) and (patch := config.get("patch_size")):  # Cosmos: in latents
        tokens = tuple(n // p for n, p in zip(sizes, patch, strict=True))
        # Its rotary table has the length of the longest axis, learned positions the length of each.
        return tokens if config.get("extra_pos_embed_type") else (max(tokens),) * 3
    return 0, 0, 0
