"""Score heads on pairs of prompt and seed, pack by pack, with a log, a bar and a way to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ...errors import MethodError
from ...processors.head_set import Head
from .log import Entry, HeadLog, Pack, Picture
from .packs import Painter


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
        self.finished = 0  # pictures, for the bar
        self._probes: dict[Picture, Entry] = {}
        self._counted: set[Picture] = set()
        self._bar = None

    @property
    def unscored(self) -> list[Picture]:
        """The pictures whose score was no finite number."""
        return [picture for picture, entry in self.used.items() if entry.score is None]

    @property
    def evaluations(self) -> int:
        """The evaluations of the denoiser that the search took, its first steps included."""
        return sum(entry.cost for entry in [*self.used.values(), *self._probes.values()])

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
        found = self._entries(self._packs(base, tried, pairs), self.painter.draw, number, self.used)
        means = {head: _mean(entries) for head, entries in found.items()}
        plain = means.pop(None, None)
        if all(math.isinf(mean) for mean in means.values()):
            raise MethodError(
                f"the reward gave no finite number for any of {len(means)} heads; check the reward, or the "
                "pictures in float32."
            )
        return Scores(means, plain if plain is None or math.isfinite(plain) else None)

    def moves(self, heads: Sequence[Head], pairs: Sequence[int]) -> dict[Head, float]:
        """Return by head how much it moves the latents in the first step, a mean over pairs."""
        packs = self._packs((), heads, pairs, kind="move")
        found = self._entries(packs, self.painter.move, 0, self._probes)
        return {head: _mean(entries) for head, entries in found.items()}

    def _packs(
        self,
        base: tuple[Head, ...],
        tried: Sequence[Head | None],
        pairs: Sequence[int],
        kind: str = "score",
    ) -> list[Pack]:
        firsts = range(0, len(tried), self.pack)
        return [Pack(base, tuple(tried[i : i + self.pack]), pair, kind) for pair in pairs for i in firsts]

    def _entries(
        self,
        packs: Sequence[Pack],
        draw: Callable[[Pack], list[Entry]],
        number: int,
        used: dict[Picture, Entry],
    ) -> dict[Head | None, list[Entry]]:
        """Return entries by head, and note them in `used`; what this shard lacks is drawn."""
        self._fill(packs, draw, number)
        found: dict[Head | None, list[Entry]] = {}
        for pack in packs:
            for picture, entry in zip(pack.pictures, self.log.scores(pack), strict=True):
                found.setdefault(picture[1], []).append(entry)
                used[picture] = entry
        return found

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
        what, prompt = head or "the plain picture", self.painter.pairs[pair].prompt
        return (
            f"the reward gave no finite number for {len(self.unscored)} of {len(self.used)} pictures, first "
            f"for {what} and {prompt!r}; such heads are not taken."
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
