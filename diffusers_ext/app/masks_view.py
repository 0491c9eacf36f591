"""Compute what a token sees under a sparse method at the size of a real model; no model is needed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from typing import Any

from torch import Tensor

from ..errors import MethodError
from ..explore.one_query import OneQuery, one_query, spec_of
from ..kernels.geometry import Grid
from ..kernels.plan.dynamic import DynamicPlanSpec
from ..kernels.plan.spec import RulePlanSpec
from ..models.forecast import Forecast, plan
from ..models.presets import shipped, tokens_of
from ..processors.sparse.method import SparseMethod
from ..settings.methods import method_class
from ..settings.registry import METHODS

MOST_TOKENS = 200_000
MOST_PAIRS = 1 << 23  # pairs of blocks; a second or two on one core
KEPT = 8  # plans and forecasts in memory


@dataclass(frozen=True)
class Wanted:
    """The mask that a visitor looks at: a model's size, the settings of a method, and a token of the grid.

    `size` has `height`, `width`, `num_frames` and `text`, `None` for the usual of the model.
    """

    model: str
    method: SparseMethod
    size: Mapping[str, int | None]
    query: Grid


@dataclass(frozen=True, eq=False)
class View:
    """A view is what one token sees, and the forecast for all tokens; `by_data` if calls choose blocks."""

    wanted: Wanted
    grid: Grid
    seen: OneQuery
    forecast: Forecast
    by_data: bool


class Viewer:
    """Computes views, and keeps the last few plans, so that a click on another token is fast."""

    def __init__(self) -> None:
        self._bitmap: Callable[[RulePlanSpec], Tensor] = lru_cache(KEPT)(RulePlanSpec.bitmap)
        self._plan = lru_cache(KEPT)(_plan)

    def view(self, wanted: Wanted) -> View:
        """Return a view; a token outside the grid is moved to its border.

        Raises `MethodError` in one sentence for sizes that the model does not make, for those with more than
        `MOST_TOKENS` tokens, and for settings that do not fit.
        """
        grid = tokens_of(wanted.model, wanted.method).grid(wanted.size)
        _check(grid.shape, grid.text, wanted.method)
        forecast = self._plan(wanted.model, wanted.method, tuple(wanted.size.items()))
        query = tuple(min(max(at, 0), n - 1) for at, n in zip(wanted.query, grid.shape, strict=True))
        spec = spec_of(wanted.method, grid.shape, grid.text)
        by_data = isinstance(spec, DynamicPlanSpec)
        return View(wanted, grid.shape, one_query(spec, query, self._bitmap), forecast, by_data)


def _plan(model: str, method: SparseMethod, size: tuple[tuple[str, int | None], ...]) -> Forecast:
    return plan(model, method, **dict(size))


def sparse_methods() -> list[str]:
    """Return the names of all sparse methods."""
    return [name for name in METHODS if issubclass(method_class(name), SparseMethod)]


def models() -> list[str]:
    """Return the names of models whose sizes are known."""
    return [name for name, preset in shipped().items() if preset.tokens is not None]


def usual(model: str) -> dict[str, int | None]:
    """Return the usual size of a model; `num_frames` is `None` for images."""
    tokens = tokens_of(model)
    frames = tokens.num_frames if tokens.frames else None
    return {"height": tokens.height, "width": tokens.width, "num_frames": frames, "text": tokens.text}


def settings(model: str, method: str) -> dict[str, Any]:
    """Return settings of a method that fit a model: those of its preset, and a window where none is known."""
    known = dict(shipped()[model].settings.get(method, {}))
    if "window" in vars(method_class(method)) and "window" not in known:
        t, h, w = tokens_of(model).grid({}).shape
        known["window"] = [max(t // 2, 1), max(h // 2, 1), max(w // 2, 1)]
    return known


def fits(model: str) -> str:
    """Return the sparse method to show first for a model: one with known settings, if there is any."""
    own = shipped()[model].settings
    images = not tokens_of(model).frames
    liked = [name for name in sparse_methods() if name in own]
    return liked[0] if liked else ("clear" if images else "radial")


def facts(view: View) -> list[tuple[str, str]]:
    """Return the rows of the table beside a view: a name and a short text each."""
    found, seen = view.forecast, view.seen
    count, total = int(seen.seen.sum()), seen.seen.numel()
    visited = int(seen.visited.sum())
    t, h, w = view.grid
    frames = f"{t} frames of {h} x {w}" if t > 1 else f"{h} x {w}"
    text = f", and {found.text} of text, which all see" if found.text else ""
    rows = [("Tokens", f"{h * w * t:,}, {frames}{text}")]
    if view.by_data:
        more = f", and at least {seen.by_data} blocks" if seen.by_data else ", and blocks"
        rows.append(
            ("This token sees", f"{count:,} keys for any data{more} that each call chooses by its data")
        )
    else:
        rows.append(("This token sees", f"{count:,} of {total:,} keys ({count / total:.1%})"))
        rows.append(("A kernel reads", f"{visited:,} keys ({visited / total:.1%}), in complete blocks"))
    if found.far:
        rows.append(("Far tokens", f"{found.far:,} pooled ones, which each token also sees"))
    rows += [
        ("Density", f"{found.token_density:.1%} of the pairs of tokens, {found.block_density:.1%} of blocks"),
        ("Speed-up of attention", f"{found.predicted_speedup:.2f}x at best"),
        ("Without blocks", f"{found.ideal_speedup:.2f}x, if a kernel read single tokens"),
        ("Padding", f"{found.padded_tokens:,} tokens"),
    ]
    if found.nearest and (found.padded_tokens or "window" in found.nearest):
        rows.append(("Nearest without padding", ", ".join(f"{k} {v}" for k, v in found.nearest.items())))
    if found.note:
        rows.append(("Note", found.note))
    return rows


def command(view: View) -> str:
    """Return the line for a terminal that prints the same forecast."""
    wanted = view.wanted
    words = ["diffusers-ext", "plan", wanted.model, "--method", wanted.method.name]
    for name, value in _changed(wanted).items():
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    flags = {"height": "--height", "width": "--width", "num_frames": "--frames", "text": "--text"}
    for name, value in wanted.size.items():
        words += [] if value in (None, usual(wanted.model)[name]) else [flags[name], str(value)]
    return shlex.join(words)


def _changed(wanted: Wanted) -> dict[str, Any]:
    """Return the settings that the preset of the model does not give by itself."""
    cls = type(wanted.method)
    known = shipped()[wanted.model].settings.get(wanted.method.name, {})
    values = {name: getattr(wanted.method, name) for name in cls.__dataclass_fields__}
    usual = {name: known.get(name, field.default) for name, field in cls.__dataclass_fields__.items()}
    return {name: v for name, v in values.items() if _plain(v) != _plain(usual[name])}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _check(grid: Grid, text: int, method: SparseMethod) -> None:
    tokens = grid[0] * grid[1] * grid[2] + text
    if tokens > MOST_TOKENS:
        raise MethodError(
            f"masks are drawn for up to {MOST_TOKENS:,} tokens here, got {tokens:,}; choose a smaller size "
            "or fewer frames."
        )
    block = getattr(method, "block", 128)
    if (tokens / block) ** 2 > MOST_PAIRS:
        raise MethodError(
            f"blocks of {block} are too many for {tokens:,} tokens here; set block to "
            f"{-(-tokens // isqrt(MOST_PAIRS))} or more."
        )
