"""Keep the files of a server: what visitors made for a day, and batches until they are deleted."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ..outputs.files import output_folder

KEPT_S = 24 * 3600  # seconds for which a picture can be fetched
YOUNG_S = 600  # seconds for which a file may be in use
EVERY_S = 60  # seconds between two sweeps
MOST = 8 * 2**30  # bytes of what can be fetched


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of a server. `cache` is what gradio may serve; names in it cannot be guessed."""

    path: Path

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Folder:
        """Make the folder. Raises `OSError` in one sentence if it cannot be written to."""
        found = cls(output_folder(path).resolve())
        found.made.mkdir(parents=True, exist_ok=True)
        found.batches.mkdir(exist_ok=True)
        return found

    @property
    def cache(self) -> Path:
        """The part that may be served."""
        return self.path / "cache"

    @property
    def made(self) -> Path:
        """The folder that jobs write to. Gradio serves from it what a job returned."""
        return self.cache / "made"

    @property
    def batches(self) -> Path:
        """The folder of batches, which a restart finds again."""
        return self.path / "batches"

    def fresh(self) -> Path:
        """Return a new empty folder for the files of one job. Raises `OSError` if it cannot be made."""
        return self._made(secrets.token_hex(16))

    def of_batch(self, id: str) -> Path:
        """Return the folder of what is written of a batch, again and again; only who has its id knows it."""
        return self._made(sha256(f"batch {id}".encode()).hexdigest()[:32])

    def sweep(self, older_s: float = KEPT_S, most: int = MOST) -> int:
        """Delete what is older, and the oldest of the rest where all of it takes more than `most` bytes.

        Files that may be in use stay. Returns the bytes that are left.
        """
        now = time.time()
        paths = [*self.made.iterdir(), *(path for path in self.cache.iterdir() if path != self.made)]
        held = sorted((_changed_and_size(path), path) for path in paths)
        left = sum(size for (_, size), _ in held)
        for (changed, size), path in held:
            if now - changed < older_s and (left <= most or now - changed < YOUNG_S):
                break
            shutil.rmtree(path, ignore_errors=True)
            left -= size
        return left

    def _made(self, name: str) -> Path:
        folder = self.made / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)  # a folder that is used again is a young one
            full = self._fills()
        except OSError as error:  # its text has the path
            raise OSError(
                f"the server cannot write its files ({error.strerror}); its operator has to look"
            ) from error
        if full:
            raise OSError(f"the files of the last {YOUNG_S // 60} minutes fill the server; try again later")
        return folder

    def _fills(self) -> bool:
        """Sweep now and then; return whether that did not make enough room."""
        last = self.path / "swept"  # its time is that of the last sweep which did
        if last.exists() and time.time() - last.stat().st_mtime < EVERY_S:
            return False
        if self.sweep() > MOST:
            return True
        last.touch()
        return False


def _changed_and_size(path: Path) -> tuple[float, int]:
    """Return when a file or a folder was changed, in seconds, and its bytes; zeros for one that is gone."""
    below = (os.path.join(top, name) for top, _, names in os.walk(path) for name in names)
    changed, size = 0.0, 0
    for found in (path, *below):
        with suppress(OSError):
            facts = os.lstat(found)
            changed, size = max(changed, facts.st_mtime), size + facts.st_size
    return changed, size
