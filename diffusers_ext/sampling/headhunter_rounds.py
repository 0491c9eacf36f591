"""Score heads on pairs of prompt and seed, pack by pack, with a log, a bar and a way to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import MethodError
from ..processors.head_set import Head
from .headhunter_log import Entry, HeadLog, Pack, Picture
from .headhunter_packs import Painter


class Waiting(Exception):
    """A shard of a search has done its part, and scores of others are missing."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Mean scores by head, minus infinity where a picture had none, and that of plain pictures, if drawn."""

    means: Mapping[Head, float]
    plain: float | None = None


class Rounds:
    """Scores heads for one search; `used` has the entry of every picture, whichever process drew it."""

    def __init__(
        self,
        painter: Painter,
        log: HeadLog,
        pack: int,
        shard: tuple[int, int],
        stop: Callable[[], bool] | None,
        planned: int,
    ) -> None:
        self.painter, self.log, self.pack, self.shard, self.stop = painter, log, pack, shard, stop
        self.planned = planned
        self.used: dict[Picture, Entry] = {}
        self.finished = self.probed = 0  # pictures; evaluations of `moves`
        self._counted: set[Picture] = set()
        self._bar = None

    @property
    def unscored(self) -> list[Picture]:
        """The pictures whose score was no finite number."""
        return [picture for picture, entry in self.used.items() if entry.score is None]

    @contextmanager
    def bar(self, show: bool) -> Iterator[None]:
        """Show pictures and the estimated end while the context is open."""
        from tqdm import tqdm

        self._bar = tqdm(total=self.planned, desc="headhunter", unit="picture", disable=not show, leave=False)
        with self._bar:
            yield

    def scores(
        self, base: tuple[Head, ...], heads: Sequence[Head], pairs: Sequence[int], number: int
    ) -> Scores:
        """Return the mean scores of heads over pairs, each head perturbed together with `base`.

        Without a base the plain pictures are drawn, too. Raises `Waiting` where other shards are missing, and
        `MethodError` where someone asked to stop, or no head has a score.
        """
        tried: list[Head | None] = [*([] if base else [None]), *heads]
        entries = self.entries(base, tried, pairs, number)
        means = {head: _mean(entries[head]) for head in tried}
        plain = means.pop(None, None)
        if all(math.isinf(mean) for mean in means.values()):
            raise MethodError(
                f"the reward gave no finite number for any of {len(means)} heads; check the reward, or the "
                "pictures in float32."
            )
        return Scores(means, plain if plain is None or math.isfinite(plain) else None)

    def entries(
        self, base: tuple[Head, ...], tried: Sequence[Head | None], pairs: Sequence[int], number: int
    ) -> dict[Head | None, list[Entry]]:
        """Return the entries of heads over pairs, and draw what is missing of this shard."""
        packs = [
            Pack(base, tuple(tried[first : first + self.pack]), pair)
            for pair in pairs
            for first in range(0, len(tried), self.pack)
        ]
        self._fill(packs, self.painter.draw, number)
        found: dict[Head | None, list[Entry]] = {head: [] for head in tried}
        for pack in packs:
            entries = self.log.scores(pack)
            self.used |= zip(pack.pictures, entries, strict=True)
            for head, entry in zip(pack.heads, entries, strict=True):
                found[head].append(entry)
        return found

    def moves(self, heads: Sequence[Head], pairs: Sequence[int]) -> dict[Head, float]:
        """Return by head how much it moves the latents in the first step, a mean over pairs."""
        packs = [
            Pack((), tuple(heads[first : first + self.pack]), pair, kind="move")
            for pair in pairs
            for first in range(0, len(heads), self.pack)
        ]
        self._fill(packs, self.painter.move, 0)
        found: dict[Head, list[Entry]] = {head: [] for head in heads}
        for pack in packs:
            for head, entry in zip(pack.heads, self.log.scores(pack), strict=True):
                found[head].append(entry)
        self.probed = sum(entry.cost for entries in found.values() for entry in entries)
        return {head: _mean(entries) for head, entries in found.items()}

    def _fill(self, packs: Sequence[Pack], draw: Callable[[Pack], list[Entry]], number: int) -> None:
        """Draw the packs of this shard that the log lacks; raises `Waiting` where others are missing."""
        part, parts = self.shard
        for place, pack in enumerate(packs):
            if place % parts == part and not self.log.has(pack):
                self._check_stop()
                self.log.add(pack, draw(pack), number)
            if self.log.has(pack):
                self._count(pack)
        if not all(map(self.log.has, packs)):
            raise Waiting

    def _count(self, pack: Pack) -> None:
        """Count the pictures of a pack that were not counted before."""
        new = set(pack.pictures) - self._counted
        self._counted |= new
        if pack.kind == "score":
            self.finished += len(new)
            self._bar.update(len(new))

    def complaint(self) -> str:
        """Return the sentence about pictures without a score."""
        _, head, pair = self.unscored[0]
        return (
            f"the reward gave no finite number for {len(self.unscored)} of {len(self.used)} pictures, first "
            f"for {head or 'the plain picture'} and {self.painter.pairs[pair].prompt!r}; such heads are last."
        )

    def _check_stop(self) -> None:
        if self.stop is not None and self.stop():
            raise MethodError(
                f"the search stopped after {self.finished} of {self.planned} pictures, since someone asked "
                "for it; with a log in out, the same search goes on."
            )


def ranked(means: Mapping[Head, float], order: Sequence[Head]) -> list[Head]:
    """Return heads by falling score; of equals the one that comes first in `order`."""
    return sorted((head for head in order if head in means), key=lambda head: -means[head])


def _mean(entries: Sequence[Entry]) -> float:
    scores = [entry.score for entry in entries]
    return -math.inf if None in scores else math.fsum(scores) / len(scores)
