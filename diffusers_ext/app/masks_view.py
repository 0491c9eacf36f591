"""Compute what a token sees under a sparse method at the size of a real model; no model is needed."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from typing import Any

from ..errors import MethodError
from ..explore.one_query import OneQuery, one_query, spec_of
from ..kernels.geometry import Grid
from ..kernels.plan.dynamic import DynamicPlanSpec
from ..kernels.plan.spec import RulePlanSpec
from ..models.forecast import Forecast, plan
from ..models.presets import shipped
from ..models.sizes import Tokens
from ..processors.sparse.method import SparseMethod
from ..settings.methods import method_class
from ..settings.registry import METHODS

MOST_TOKENS = 200_000
MOST_PAIRS = 1 << 23  # pairs of blocks; a second or two on one core
DEVICES = ("h100", "a100", "b200", "cpu")  # that a speed-up is expected on; the first at first
AT_A_TIME = 2  # views that are computed, of all visitors
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
    device: str = DEVICES[0]


@dataclass(frozen=True, eq=False)
class View:
    """A view is what one token sees, and the forecast for all tokens; `by_data` if calls choose blocks."""

    wanted: Wanted
    grid: Grid
    seen: OneQuery
    forecast: Forecast
    by_data: bool


class Viewer:
    """Computes views. It keeps the last few plans, so that a click on another token is fast."""

    def __init__(self) -> None:
        self._presets = {name: preset for name, preset in shipped().items() if preset.tokens is not None}
        self._bitmap = lru_cache(KEPT)(RulePlanSpec.bitmap)
        self._spec, self._plan = lru_cache(KEPT)(spec_of), lru_cache(KEPT)(_plan)
        self._turns = threading.BoundedSemaphore(AT_A_TIME)

    @property
    def models(self) -> list[str]:
        """The names of the models whose sizes are known."""
        return list(self._presets)

    def tokens(self, model: str) -> Tokens:
        """Return how a model cuts its pictures."""
        return self._presets[model].tokens

    def usual(self, model: str) -> dict[str, int | None]:
        """Return the usual size of a model; `num_frames` is `None` for images."""
        tokens = self.tokens(model)
        frames = tokens.num_frames if tokens.frames else None
        return {"height": tokens.height, "width": tokens.width, "num_frames": frames, "text": tokens.text}

    def settings(self, model: str, method: str) -> dict[str, Any]:
        """Return settings of a method that fit a model: those of its preset, and else a window at least."""
        known = dict(self._presets[model].settings.get(method, {}))
        if "window" in method_class(method).__dataclass_fields__ and "window" not in known:
            finest, *_, coarsest = [grid.shape for grid in self.tokens(model).grids({}).values()] * 2
            # About half of each axis, but no more than the coarsest attention of a U-Net takes.
            pairs = zip(finest, coarsest, strict=True)
            known["window"] = [min(max(n // 2, 1), most) for n, most in pairs]
        return known

    def first_method(self, model: str) -> str:
        """Return the sparse method to show first for a model: one with known settings, if there is any."""
        liked = [name for name in sparse_methods() if name in self._presets[model].settings]
        return liked[0] if liked else ("radial" if self.tokens(model).frames else "clear")

    def view(self, wanted: Wanted) -> View:
        """Return a view; a token outside the grid is moved to its border.

        Raises `MethodError` in one sentence for sizes that the model does not make, for those with more than
        `MOST_TOKENS` tokens, and for settings that do not fit.
        """
        grid = self.tokens(wanted.model).grid(wanted.size)
        check(grid.shape, grid.text, wanted.method)
        query = tuple(min(max(at, 0), n - 1) for at, n in zip(wanted.query, grid.shape, strict=True))
        with self._turns:  # these events do not wait for a device
            forecast = self._plan(wanted.model, wanted.method, wanted.device, tuple(wanted.size.items()))
            spec = self._spec(wanted.method, grid.shape, grid.text)
            seen = one_query(spec, query, self._bitmap)
        return View(wanted, grid.shape, seen, forecast, isinstance(spec, DynamicPlanSpec))

    def command(self, wanted: Wanted) -> str:
        """Return the line for a terminal that prints the same forecast."""
        words = ["diffusers-ext", "plan", wanted.model, "--method", wanted.method.name]
        known = self._presets[wanted.model].settings.get(wanted.method.name)
        usual = type(wanted.method) if known is None else type(wanted.method)(**known)
        for name in wanted.method.__dataclass_fields__:
            if (value := getattr(wanted.method, name)) != getattr(usual, name):
                words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
        flags = {"height": "--height", "width": "--width", "num_frames": "--frames", "text": "--text"}
        for name, value in wanted.size.items():
            words += [] if value in (None, self.usual(wanted.model)[name]) else [flags[name], str(value)]
        return shlex.join([*words, "--device", wanted.device])


def sparse_methods() -> list[str]:
    """Return the names of all sparse methods."""
    return [name for name in METHODS if issubclass(method_class(name), SparseMethod)]


def facts(view: View) -> list[tuple[str, str]]:
    """Return the rows of the table beside a view: a name and a short text each."""
    found, seen = view.forecast, view.seen
    count, total, visited = int(seen.seen.sum()), seen.seen.numel(), int(seen.visited.sum())
    t, h, w = view.grid
    frames = f"{t} frames of {h} x {w}" if t > 1 else f"{h} x {w}"
    text = f", and {found.text} of text, which all see" if found.text else ""
    rows = [("Tokens", f"{total:,}, {frames}{text}")]
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
        ("Speed-up of attention", f"{found.expected_speedup:.2f}x expected on {found.device}"),
        ("At best", f"{found.predicted_speedup:.2f}x with blocks, {found.ideal_speedup:.2f}x without"),
        ("Padding", f"{found.padded_tokens:,} tokens"),
    ]
    if found.nearest and (found.padded_tokens or "window" in found.nearest):
        rows.append(("Nearest without padding", ", ".join(f"{k} {v}" for k, v in found.nearest.items())))
    return rows + ([("Note", found.note)] if found.note else [])


def _plan(
    model: str, method: SparseMethod, device: str, size: tuple[tuple[str, int | None], ...]
) -> Forecast:
    return plan(model, method, device=device, **dict(size))


def check(grid: Grid, text: int, method: SparseMethod) -> None:
    """Raise `MethodError` for sizes that would take minutes to plan."""
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
