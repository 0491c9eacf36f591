"""Let a run stop and go on as if it had never stopped.

This takes its checkpoint, and random numbers that depend on the step alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from ..outputs.files import replacing

if TYPE_CHECKING:
    import torch


def save_atomically(state: Mapping[str, Any], path: Path) -> None:
    """Write `state` with torch.save, so that `path` holds the old checkpoint or the new one."""
    import torch

    with replacing(path, parents=True) as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:
            if "PytorchStreamWriter" not in str(error):
                raise
            # That is the error of torch's writer for a full disk.
            raise OSError(str(error).splitlines()[0]) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_atomically` wrote; raises `ValueError` for a file that was damaged since."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, OSError, RuntimeError, UnpicklingError) as error:  # depends on the place of the damage
        reason = shorten(str(error) or type(error).__name__, 80, placeholder="...")
        raise ValueError(
            f"the checkpoint {str(path)!r} cannot be read ({reason}); restore it, or begin anew with "
            "--restart"
        ) from error


def generator(seed: int, step: int) -> torch.Generator:
    """Return the random numbers of one step; a resumed run therefore sees the very same batches and noise."""
    import torch

    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
