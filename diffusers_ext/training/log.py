"""Write the log of a run: one JSON object a line, on the disk before the next step begins."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import unwritable
from ..outputs.files import replacing


class Log:
    """The log is one file; a line that was written survives a crash."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path

    def write(self, **fields: Any) -> None:
        """Append a line with the fields, floats to six digits, and the current time."""
        line = {k: round(v, 6) if isinstance(v, float) else v for k, v in fields.items()}
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({**line, "time": round(time.time(), 1)}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from error

    def read(self) -> list[dict[str, Any]]:
        """Return the lines, without a line that a crash cut short; without a log there are none."""
        lines = []
        for line in self.path.read_text(errors="replace").splitlines() if self.path.exists() else ():
            with suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
        return lines

    def rewind(self, step: int) -> None:
        """Go back to `step`: drop the lines of later steps, and what a crash left of a line."""
        kept = [line for line in self.read() if line["step"] <= step]
        with replacing(self.path) as file:
            file.writelines(f"{json.dumps(line)}\n".encode() for line in kept)
