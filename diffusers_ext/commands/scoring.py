"""Read `--reward`: what the pictures of a sampler are scored with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..models.checkpoint import Checkpoint

USUAL = "shapes-clip"  # what models of shapes world are scored with
NAMES = "shapes-clip, clip-score, pick-score, hpsv2, image-reward, aesthetic, vqa-score"
Rewards = Annotated[
    list[str] | None,
    typer.Option(
        "--reward",
        metavar="NAME[:WEIGHT]",
        help=f"What scores pictures: {NAMES}, or the folder of one. Several count by their weights, as "
        f"hpsv2:1,aesthetic:0.1. By default {USUAL} for models of shapes world.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Scorers:
    """Hold rewards with their weights, and what a record says of them."""

    rewards: list[tuple[Any, float]]
    facts: tuple[dict[str, Any], ...]

    @property
    def label(self) -> str:
        """The names, as `hpsv2` or `2 hpsv2 + aesthetic`."""
        return " + ".join(
            f"{f['weight']:g} {f['name']}" if f["weight"] != 1 else f["name"] for f in self.facts
        )


def chosen(
    texts: Sequence[str], model: Checkpoint, device: str | None, needed: bool = True
) -> Scorers | None:
    """Return the rewards that were asked for, loaded.

    Without any, a model of shapes world is scored with `USUAL`. Other models raise `ValueError` if rewards
    are `needed`, and get `None` otherwise. Names that are unknown or come twice raise it too, and weights
    that are no numbers above 0.
    """
    pairs = [_pair(piece) for text in texts for piece in text.split(",") if piece.strip()]
    if not pairs and model.of_world:
        pairs = [(USUAL, 1.0)]
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
    from ..models.logs import quiet_libraries
    from ..rewards.base import ensemble
    from ..rewards.names import named

    quiet_libraries()
    rewards = [(named(name, device), weight) for name, weight in pairs]
    ensemble(rewards)  # checks the weights
    for reward, _ in rewards:
        getattr(reward, "model", None)  # weights that are missing are missed before the first picture
    found = facts([(n, r, w) for (n, w), (r, _) in zip(pairs, rewards, strict=True)])
    return Scorers(rewards, found)


def facts(rewards: Sequence[tuple[str, Any, float]]) -> tuple[dict[str, Any], ...]:
    """Return what a record says of rewards, each with its name and its weight."""
    return tuple({"name": n, "weight": w, "weights": _weights(n, r)} for n, r, w in rewards)


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
            f"--reward takes NAME or NAME:WEIGHT, got {text.strip()!r}; for example --reward {USUAL}:0.5"
        ) from None


def _weights(name: str, reward: Any) -> str:
    """Return the checksum of a reward's weights, or their name on the Hub."""
    from ..models.fingerprint import fingerprint

    place = Path(name).expanduser()
    if not place.is_dir():
        place = Path(getattr(reward, "place", name))
    return fingerprint(place) if place.is_dir() else str(place)
