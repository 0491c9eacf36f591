"""Define what a run learns, as the training loop sees it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .recipes import Recipe

if TYPE_CHECKING:
    import torch


class Objective(Protocol):
    """An objective is what one run learns.

    `inputs` depends on its arguments and the seed alone, so that runs can resume.
    """

    recipe: Recipe

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return every parameter that training moves, by a stable name."""

    def hidden(self, name: str) -> bool:
        """Return whether a matrix of that name belongs to the hidden layers, which Muon may update."""

    def prepare(self, device: torch.device) -> None:
        """Move modules to the device, switch them to training, and compile them if that saves time."""

    def inputs(self, step: int, progress: float) -> tuple[torch.Tensor, ...]:
        """Return CPU tensors of one step; `progress` is the share of the run behind us, 0..1."""

    def loss(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the scalar to lower, from tensors on the device, under autocast."""

    def evaluate(self, sheet: Path | None = None) -> Mapping[str, float]:
        """Return figures for the log, measured with the averaged weights in place.

        They are empty if there is nothing to measure. With `sheet`, the pictures that they come from are
        written as a PNG of that name.
        """
