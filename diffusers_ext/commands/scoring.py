"""Read `--reward`: what the pictures of a sampler are scored with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..evaluate.scorers import Scorers, scorers
from ..zoo.catalogue import REWARDS

if TYPE_CHECKING:
    from ..models.checkpoint import Checkpoint

NAMES = "shapes-clip, clip-score, pick-score, hpsv2, image-reward, aesthetic, vqa-score"
Rewards = Annotated[
    list[str] | None,
    typer.Option(
        "--reward",
        metavar="NAME[:WEIGHT]",
        help=f"What scores pictures: {NAMES}, or the folder of one. Several count by their weights, as "
        f"hpsv2:1,aesthetic:0.1. By default {REWARDS[0]} for models of shapes world.",
        show_default=False,
    ),
]


def chosen(
    texts: Sequence[str], model: Checkpoint, device: str | None, needed: bool = True
) -> Scorers | None:
    """Return the rewards that were asked for, loaded.

    Without any, a model is scored with its own `reward`. Other models raise `ValueError` if rewards
    are `needed`, and get `None` otherwise. Names that are unknown or come twice raise it too, and weights
    that are no numbers above 0.
    """
    pairs = [_pair(piece) for text in texts for piece in text.split(",") if piece.strip()]
    if not pairs and model.reward:
        pairs = [(model.reward, 1.0)]
    if not pairs and not needed:
        return None
    if not pairs:
        raise ValueError(
            f"a sampler chooses by a reward, and none is known for {model.name}; give one by --reward: "
            f"{NAMES}, or the folder of one"
        )
    names = [name for name, _ in pairs]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(
            f"--reward names each reward once, got {', '.join(names)}; add up the weights of {twice[0]}"
        )
    found = scorers(pairs, device)
    found.load()
    return found


def _pair(text: str) -> tuple[str, float]:
    """Read `name` or `name:weight`; a path may hold colons."""
    name, colon, weight = text.strip().rpartition(":")
    if not colon:
        return text.strip(), 1.0
    try:
        return name, float(weight)
    except ValueError:
        if Path(text.strip()).expanduser().exists():
            return text.strip(), 1.0
        raise ValueError(
            f"--reward takes NAME or NAME:WEIGHT, got {text.strip()!r}; for example --reward {REWARDS[0]}:0.5"
        ) from None
