"""Mark a batch while it runs: by a file that the next server finds, and a lock that ends with this server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ..errors import MethodError
from ..outputs import claim

MARK = "running"  # the file, beside the pictures
BY_VISITOR = -1  # in place of a count: a visitor started the batch


@dataclass
class Mark:
    """The mark of the batch in `folder`. It holds how many pictures were tried before a server went on."""

    folder: Path
    _file: BinaryIO | None = field(default=None, repr=False)

    def put(self, tried: int) -> None:
        """Write the mark and lock it.

        Raises `MethodError` if another server makes the batch, and `OSError` where it cannot be written.
        """
        try:
            file = claim.locked(self._path)
        except OSError:  # its text has the path
            raise OSError("the files of this batch cannot be written; try again later") from None
        if file is None:
            raise MethodError("another server makes this batch at this time; stop it there first.")
        file.truncate(0)
        file.write(str(tried).encode())
        file.flush()
        self._file = file

    def remove(self, stays: bool) -> None:
        """Unlock the mark, and remove it unless it `stays` for the next server."""
        file, self._file = self._file, None
        if file is not None and stays:
            file.close()
        elif file is not None:
            claim.release(self._path, file)

    def left(self) -> int | None:
        """Return what a server that has ended wrote; `None` without a mark, and while the batch runs."""
        if not self._path.exists() or (file := claim.locked(self._path)) is None:
            return None
        with file:
            file.seek(0)
            text = file.read()
        try:
            return int(text or BY_VISITOR)  # it is empty if the server was killed while it wrote
        except ValueError:
            return None

    @property
    def _path(self) -> Path:
        return self.folder / MARK
