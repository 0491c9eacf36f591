"""What both runs share: checkpoints that survive kill -9, averaged weights, the log."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import TYPE_CHECKING, Any, BinaryIO

from ...errors import unwritable
from .stop import Stopped as Stopped  # what a run stops by is found with the rest of its loop
from .stop import StopRequest as StopRequest

if TYPE_CHECKING:
    import torch


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path`, flushed to the disk, then renamed: a reader sees the old file or the new one."""
    fresh = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        fresh.unlink(missing_ok=True)


def save_atomically(state: Mapping[str, Any], path: Path) -> None:
    """torch.save by way of `replacing`."""
    import torch

    with replacing(path) as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:
            if "PytorchStreamWriter" not in str(error):
                raise
            raise OSError(str(error).splitlines()[0]) from error  # how its writer says that the disk is full


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_atomically` wrote; raises `ValueError` for a file that was damaged since."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, OSError, RuntimeError, UnpicklingError) as error:  # by where the file ends
        reason = shorten(str(error) or type(error).__name__, 80, placeholder="...")
        raise ValueError(
            f"the checkpoint {str(path)!r} cannot be read ({reason}); restore it, or begin anew with "
            "--restart"
        ) from error


def generator(seed: int, step: int) -> torch.Generator:
    """Random numbers of one step; a resumed run therefore sees the very same batches and noise."""
    import torch

    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


class Average:
    """Exponential moving average of parameters, in fp32, with a short memory while the run is young."""

    def __init__(self, parameters: Iterable[torch.Tensor], decay: float):
        self.live = list(parameters)
        self.mean = [p.detach().float().clone() for p in self.live]
        self.decay = decay

    def update(self, step: int) -> None:
        import torch

        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.live], 1 - decay)

    def swap(self) -> None:
        """Exchange live and averaged values in place; call it again to undo."""
        import torch

        with torch.no_grad():
            for live, mean in zip(self.live, self.mean, strict=True):
                kept = live.clone()
                live.copy_(mean)
                mean.copy_(kept)


class Log:
    """One JSON object a line; each line is on the disk before the next step begins."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path

    def write(self, **fields: Any) -> None:
        line = {k: round(v, 6) if isinstance(v, float) else v for k, v in fields.items()}
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({**line, "time": round(time.time(), 1)}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from error

    def read(self) -> list[dict[str, Any]]:
        """What was written, without lines that a crash cut short; empty where there is no log."""
        lines = []
        for line in self.path.read_text(errors="replace").splitlines() if self.path.exists() else ():
            with suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
        return lines

    def rewind(self, step: int) -> None:
        """Go back to `step`: the lines of later ones, and what a crash left of a line, are dropped."""
        kept = [line for line in self.read() if line["step"] <= step]
        with replacing(self.path) as file:
            file.writelines(f"{json.dumps(line)}\n".encode() for line in kept)


def cpu_precision() -> str:
    """accelerate's mixed_precision for this machine: bf16 where matrix units make it faster, else fp32."""
    import torch

    if torch.cuda.is_available():
        return "bf16"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "no"
