"""Keep the scores of a search for heads on the disk, a JSON line for each picture, so that it can go on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import MethodError, unwritable
from ...processors.head_set import Head

ALL = 0, 1  # the shard of a search that is not shared
Picture = tuple[str, Head | None, int]  # mark of the base, head and pair


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry is the score of one picture, `None` if it is no finite number, and its evaluations."""

    score: float | None
    cost: int


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack is what one call of the pipeline draws: a pair of prompt and seed under several heads.

    `base` are the heads that are perturbed in each picture. A head that is `None` adds nothing to them.
    """

    base: tuple[Head, ...]
    heads: tuple[Head | None, ...]
    pair: int
    kind: str = "score"

    @property
    def pictures(self) -> list[Picture]:
        """The keys of its pictures."""
        return [(self.mark, head, self.pair) for head in self.heads]

    @property
    def mark(self) -> str:
        """A short text that the kind of score and the heads in `base` fix, in whatever order."""
        if not self.base:
            return self.kind
        text = "\n".join(sorted(map(str, self.base)))
        return f"{self.kind} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


class HeadLog:
    """Scores of a search by picture, in memory, and in a folder if there is one.

    The folder holds `log.jsonl`, or `log-I-of-N.jsonl` for each of N processes that share a search. Each
    begins with a line that says what is searched. A search reads all of them and writes its own. Lines that a
    crash cut short are dropped. Raises `MethodError` for the log of another search.
    """

    def __init__(
        self, folder: Path | None, identity: Mapping[str, Any], shard: tuple[int, int] = ALL
    ) -> None:
        self.identity = json.loads(json.dumps(identity, default=str))
        name = "log.jsonl" if shard == ALL else f"log-{shard[0]}-of-{shard[1]}.jsonl"
        self.path = None if folder is None else folder / name
        self.found: dict[Picture, Entry] = {}
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritable(self.path, error) from error
        for file in sorted(folder.glob("log*.jsonl")) if folder is not None else ():
            self._read(file)

    def has(self, pack: Pack) -> bool:
        """Return whether every picture of a pack has its score."""
        return self.found.keys() >= set(pack.pictures)

    def scores(self, pack: Pack) -> list[Entry]:
        """Return the entries of a pack that is complete."""
        return [self.found[key] for key in pack.pictures]

    def add(self, pack: Pack, entries: Sequence[Entry], round_number: int) -> None:
        """Add the scores of a pack; they are on the disk when this returns."""
        self.found |= zip(pack.pictures, entries, strict=True)
        if self.path is not None:
            self._append(
                {
                    "round": round_number,
                    "base": pack.mark,
                    "path": head and head.path,
                    "head": head and head.number,
                    "pair": pack.pair,
                    "score": entry.score,
                    "cost": entry.cost,
                }
                for head, entry in zip(pack.heads, entries, strict=True)
            )

    def _append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        try:
            with self.path.open("a+b") as file:
                if not file.tell():
                    text = json.dumps(self.identity, ensure_ascii=False) + "\n" + text
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _read(self, file: Path) -> None:
        raw = file.read_bytes()
        complete = raw[: raw.rfind(b"\n") + 1]
        if len(complete) < len(raw) and file == self.path:  # others may be writing theirs
            os.truncate(file, len(complete))
        lines = complete.splitlines()
        if not lines:
            return
        self._check(file, lines[0])
        for number, line in enumerate(lines[1:], start=2):
            try:
                row = json.loads(line)
                head = None if row["path"] is None else Head(row["path"], row["head"])
                self.found[row["base"], head, row["pair"]] = Entry(row["score"], row["cost"])
            except (ValueError, KeyError, TypeError) as error:
                raise MethodError(
                    f"line {number} of {str(file)!r} is no score of a head; delete the line, or choose "
                    "another folder."
                ) from error

    def _check(self, file: Path, line: bytes) -> None:
        try:
            there = json.loads(line)
        except ValueError:
            there = None
        if not isinstance(there, dict):
            raise MethodError(
                f"line 1 of {str(file)!r} does not say what was searched; choose another folder."
            )
        for key in [*self.identity, *there]:
            if there.get(key) != self.identity.get(key):
                theirs, ours = (
                    json.dumps(d.get(key), ensure_ascii=False)[:60] for d in (there, self.identity)
                )
                raise MethodError(
                    f"{str(file)!r} is the log of a search with another {key} ({theirs}, now {ours}); scores "
                    "must not mix, so choose another folder."
                )
