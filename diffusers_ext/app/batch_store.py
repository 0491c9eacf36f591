"""Keep the batches of a server on the disk, so that a restart finds them."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import MethodError
from ..outputs.files import write_json
from . import batch_check
from .batch_mark import MARK
from .batch_state import OUT, Batch
from .engine import Engine

FILE = "batch.json"
RUNNING, KEPT, READ = 20, 500, 50  # batches at a time, on the disk, and in memory
OLD_S = 7 * 24 * 3600  # a batch of this age may make room for another
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass
class Batches:
    """All batches of a server. One that is on the disk is read when someone asks for it."""

    engine: Engine
    home: Path
    _known: dict[str, Batch] = field(default_factory=dict, repr=False)
    _closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def create(self, data: Mapping[str, Any], files: Mapping[str, Path], title: str) -> Batch:
        """Make a batch of the tables of a job and of the prompt files that came with it, and start it.

        Raises `ValueError` in one sentence for what is refused; then nothing of it stays.
        """
        self._check_running()
        if sum(1 for _ in self.home.iterdir()) >= KEPT and not self._make_room():
            raise MethodError(f"the server holds {KEPT} batches, which is the most; try again later.")
        found, notes = batch_check.checked(data, files, self.engine.models)
        folder = self.home / secrets.token_hex(16)
        folder.mkdir()
        try:
            (folder / OUT).mkdir()
            names: dict[str, str] = {}
            for name, path in files.items():
                names[name] = batch_check.safe_name(name, (FILE, OUT, MARK, *names.values()))
                shutil.copyfile(path, folder / names[name])
            if "file" in (table := found.get("prompts", {})):
                asked = table["file"]
                listed = [asked] if isinstance(asked, str) else asked
                table["file"] = [names[name] for name in listed]
            facts = {"title": title[:80], "data": found, "notes": notes}
            batch = self._batch(folder, facts)
            write_json(folder / FILE, facts)
            with self._lock:  # it runs before anyone can take it for one that is idle
                self._check_running()
                batch.start()
                self._known[batch.id] = batch
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return batch

    def start(self, text: str) -> Batch:
        """Go on with a batch. Raises `ValueError` if there is none, and where `RUNNING` others run."""
        batch = self.get(text)
        with self._lock:
            batch = self._known.setdefault(batch.id, batch)  # it may just have left the memory
            if not batch.running:
                self._check_running()
                batch.start()
        return batch

    def _check_running(self) -> None:
        if sum(batch.running for batch in list(self._known.values())) >= RUNNING:
            raise MethodError(f"{RUNNING} batches run at this time, which is the most; try again later.")

    def _make_room(self) -> bool:
        """Delete the oldest batch that does not run, if it is a week old; return whether there was one."""
        running = {batch.id for batch in list(self._known.values()) if batch.running}
        idle = [folder for folder in self.home.iterdir() if folder.name not in running]
        oldest = min(idle, key=lambda folder: folder.stat().st_mtime, default=None)
        if oldest is None or time.time() - oldest.stat().st_mtime < OLD_S:
            return False
        with self._lock:
            self._known.pop(oldest.name, None)
        shutil.rmtree(oldest, ignore_errors=True)
        return True

    def has(self, text: str) -> bool:
        """Return whether there is a batch of this id."""
        return _ID.fullmatch(text) is not None and (self.home / text / FILE).is_file()

    def get(self, text: str) -> Batch:
        """Return a batch by its id, or by a link with the id in it. Raises `ValueError` if there is none."""
        found = _ID.search(str(text)[-300:])
        if found is None or not (self.home / found[0] / FILE).is_file():
            raise MethodError("there is no such batch; it was deleted, or its link is not complete.")
        # Reading may take a minute, so others do not wait for it.
        batch = self._known.get(found[0]) or self._read(found[0])
        with self._lock:
            batch = self._known.setdefault(found[0], batch)
            idle = [b.id for b in self._known.values() if not b.running and b is not batch]
            for name in idle[: max(len(self._known) - READ, 0)]:
                del self._known[name]
        return batch

    def _read(self, name: str) -> Batch:
        try:
            facts = json.loads((self.home / name / FILE).read_text(encoding="utf-8"))
            return self._batch(self.home / name, facts)
        except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise MethodError("the files of this batch are damaged; delete it.") from error

    def delete(self, text: str) -> None:
        """Stop a batch, and remove its files."""
        batch = self.get(text)
        batch.stop()
        batch.join(60)
        if batch.running:
            raise MethodError("the batch has not stopped yet; delete it in a minute.")
        with self._lock:
            self._known.pop(batch.id, None)
        shutil.rmtree(batch.folder)

    def resume(self) -> None:
        """Go on with the batches that ran when the last server ended, in the background."""

        def go_on() -> None:
            for mark in list(self.home.glob(f"*/{MARK}")):
                with suppress(ValueError, OSError):  # of a batch that was damaged or deleted
                    batch = self.get(mark.parent.name)
                    with self._lock:
                        if batch.interrupted and not self._closed:
                            batch.start(again=True)

        threading.Thread(target=go_on, daemon=True).start()

    def close(self) -> None:
        """Stop all batches; a later server goes on with them."""
        with self._lock:
            self._closed = True
        for batch in list(self._known.values()):
            batch.stop(stays=True)
        for batch in list(self._known.values()):
            batch.join(10)

    def _batch(self, folder: Path, facts: Mapping[str, Any]) -> Batch:
        title, notes = str(facts["title"]), tuple(facts["notes"])
        return Batch(folder.name, folder, self.engine, title, facts["data"], notes)
