"""Read where a model puts the words of a prompt: attention from places of the picture to words."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core import Method, Site
from ..errors import MethodError
from ..families import family_of
from ..families.denoisers import denoisers
from . import estimate
from . import layers as names
from .making import arguments, make
from .map_data import MapData
from .reading import ReadWords
from .words import Word, find

if TYPE_CHECKING:
    from ..sampling.progress import Progress


@dataclass(frozen=True, eq=False)
class TokenMaps(MapData):
    """Maps of words over one picture, which can be saved: what `maps` returns."""

    def save(self, folder: str | os.PathLike[str], record: Mapping[str, Any] | None = None) -> list[Path]:
        """Write `maps.png`, `maps-steps.png`, `maps-layers.png`, `maps.html` and `maps.json` to a folder.

        With maps of single heads it also writes `maps-heads.png`. Returns the paths. `record` holds further
        facts for the JSON file, such as the model. Raises `OSError` for a folder that cannot be written to.
        """
        from .map_files import write  # brings Jinja and Pillow

        return write(self, folder, record or {})


def maps(
    pipe: Any,
    prompt: str,
    words: str | Sequence[str | Sequence[int]] | None = None,
    *,
    layers: str | Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    seed: int = 0,
    per_head: bool = False,
    methods: Sequence[Method] = (),
    limit_gib: float = estimate.LIMIT_GIB,
    progress: Progress | None = None,
    **call: Any,
) -> TokenMaps:
    """Make a picture or a clip, and return the maps of words with it.

    The picture is that of `pipe(prompt, generator=torch.Generator().manual_seed(seed), **call)`, bit for bit,
    or that under `methods`. Words are found by their characters. `None` takes all that mean something, and
    the noun phrases. `layers` has names of attention modules or of blocks, or patterns as `"mid_block*"`.
    `steps` count from 0. By default all layers with text and all steps are read. Only columns of the words
    are computed, never a map of all pairs of tokens. `progress` follows the steps.

    Raises `MethodError` for words that are not in the prompt or that no text encoder sees, for unknown layers
    and steps, and where the maps need more than `limit_gib` of memory. Raises `UnsupportedError` for a model
    without text in its attention.
    """
    call = arguments(pipe, prompt, call)
    planned = plan(
        pipe, prompt, words, call, layers=layers, steps=steps, per_head=per_head, limit_gib=limit_gib
    )
    recording = _Recording(planned, per_head)
    reader = ReadWords(
        frozenset(planned.sites), planned.words, None if steps is None else planned.steps, recording.keep
    )
    if progress is not None:
        progress.begin(1)
        call |= progress.hooks(pipe)
    (image,) = make(pipe, [prompt], [seed], call, (*methods, reader))
    if progress is not None:
        progress.tick(1)
    return TokenMaps(prompt, seed, planned.words, *recording.done(), image=image)


@dataclass(frozen=True)
class MapPlan:
    """A plan says what is read: words at steps, out of `step_count`, of sites. `size` is in bytes."""

    sites: tuple[Site, ...]
    words: tuple[Word, ...]
    steps: tuple[int, ...]
    step_count: int
    size: int

    def __str__(self) -> str:
        parts = (self.words, "word"), (self.steps, "step"), (self.sites, "layer")
        words, steps, layers = (estimate.counted(len(each), name) for each, name in parts)
        memory = f", {self.size / 2**20:.0f} MiB of memory" if self.size >= 2**20 else ""
        return f"1 picture for maps of {words} at {steps} in {layers}{memory}"


def plan(
    pipe: Any,
    prompt: str,
    words: str | Sequence[str | Sequence[int]] | None,
    call: Mapping[str, Any],
    *,
    layers: str | Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    per_head: bool = False,
    limit_gib: float = estimate.LIMIT_GIB,
) -> MapPlan:
    """Return what `maps` reads in `pipe(prompt, **call)`, before anything runs; raises as `maps` does."""
    named = names.matching(names.sites_of(pipe), layers)
    sites = names.usable(named, ("cross", "joint"), "a map of words", pipe)
    family = family_of(next(iter(denoisers(pipe).values())))
    found = find(family, pipe, prompt, words, call)
    total = estimate.steps_of(pipe, call)
    read = _steps(steps, total)
    grids = estimate.grids(pipe, sites, call)
    size = estimate.check(grids, len(found), len(read), per_head, limit_gib)
    return MapPlan(tuple(sites), tuple(found), read, total, size)


class _Recording:
    """Adds up maps by layer and step; calls at one step, as of a second-order scheduler, are averaged."""

    def __init__(self, planned: MapPlan, per_head: bool) -> None:
        self.planned, self.per_head = planned, per_head
        self.count = 0
        self.sums: dict[Site, dict[int, Tensor]] = {}
        self.calls: dict[tuple[Site, int], int] = {}

    def keep(self, site: Site, step: int, steps: int, maps: Tensor) -> None:
        """Take the maps `[W, H, t, h, w]` of one call."""
        last = self.planned.steps[-1]
        if last >= steps and len(self.planned.steps) < self.planned.step_count:
            raise MethodError(
                f"steps count from 0, and this run has {steps}, got {last}; the last is {steps - 1}."
            )
        self.count = steps
        maps = maps if self.per_head else maps.mean(1, keepdim=True)
        own = self.sums.setdefault(site, {})
        kept = maps.float().cpu()
        own[step] = own[step] + kept if step in own else kept
        self.calls[site, step] = self.calls.get((site, step), 0) + 1

    def done(self) -> tuple[tuple[int, ...], int, dict[str, Tensor]]:
        """Return the steps that were read, the number of all steps, and the maps by layer.

        Raises `MethodError` if nothing was read.
        """
        if not self.sums:
            asked = ", ".join(map(str, self.planned.steps))
            raise MethodError(
                f"none of these layers ran at the steps {asked}, as {self.planned.sites[0].path}; choose "
                "other steps or layers."
            )
        steps = tuple(sorted({step for own in self.sums.values() for step in own}))
        data = {}
        for site in (site for site in self.planned.sites if site in self.sums):
            own = self.sums.pop(site)
            empty = torch.full_like(next(iter(own.values())), torch.nan)
            each = [own[s] / self.calls[site, s] if s in own else empty for s in steps]
            data[site.path] = torch.stack(each)
        return steps, self.count, data


def _steps(steps: Sequence[int] | None, total: int) -> tuple[int, ...]:
    """Return the steps to read; raises `MethodError` unless they are numbers from 0 to `total` - 1."""
    if steps is None:
        return tuple(range(total))
    if isinstance(steps, (str, bytes)) or not len(steps):
        raise MethodError(
            f"steps are a list of numbers from 0 to {total - 1}, got {steps!r}; leave steps out for all."
        )
    for step in steps:
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < total:
            raise MethodError(
                f"steps count from 0, and this run has {total}, got {step!r}; the last is {total - 1}."
            )
    return tuple(sorted(set(steps)))
