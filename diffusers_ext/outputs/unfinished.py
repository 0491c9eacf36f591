"""Find the random seed of a run that was stopped, so that the same command goes on with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from . import claim


class Unfinished:
    """Find the seed of an earlier run of the same pictures that did not end.

    In `with Unfinished(folder, record, count, seed) as run:`, `run.seed` is that seed, or `seed` if there was
    no such run. `run.found` says which. A hidden file in `folder` stands for the run. It is locked while the
    run goes on, so a second run beside it takes its own seed. The file stays after `keep` and after
    exceptions other than `ValueError`, which refuses a run before anything was made.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any], count: int, seed: int) -> None:
        text = json.dumps([record, count], sort_keys=True, default=str)
        self._start = f".unfinished-{hashlib.sha256(text.encode()).hexdigest()[:12]}-"
        self._folder, self.seed, self.found, self._keep = folder, seed, False, False

    def __enter__(self) -> Unfinished:
        for path in sorted(self._folder.glob(f"{self._start}*")):
            number = path.name.removeprefix(self._start)
            if number.isdigit() and (file := claim.locked(path)) is not None:
                self.seed, self.found, self._path, self._file = int(number), True, path, file
                return self
        self._path = self._folder / f"{self._start}{self.seed}"
        self._file = claim.locked(self._path)
        return self

    def keep(self) -> None:
        """Keep the file, since pictures are missing that the next run of the same command is to make."""
        self._keep = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        refused = kind is not None and issubclass(kind, ValueError)  # before anything was made
        if refused or (kind is None and not self._keep):
            claim.release(self._path, self._file)
        else:
            self._file.close()
