"""Build the rewards that a sampler chooses by, from their names and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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

    def load(self) -> None:
        """Load their weights, so that weights that are missing are missed before the first picture."""
        from ..rewards.names import load

        for (reward, _), fact in zip(self.rewards, self.facts, strict=True):
            load(reward, fact["name"])


def scorers(pairs: Sequence[tuple[str, float]], device: str | None = None) -> Scorers:
    """Find rewards by names or folders, each with a weight.

    Raises `ValueError` for unknown names, and for weights that are no numbers above 0.
    """
    from ..models.logs import quiet_libraries
    from ..rewards.base import ensemble
    from ..rewards.names import named

    quiet_libraries()
    rewards = [(named(name, device), weight) for name, weight in pairs]
    ensemble(rewards)  # checks the weights
    return Scorers(rewards, facts([(n, r, w) for (n, w), (r, _) in zip(pairs, rewards, strict=True)]))


def facts(rewards: Sequence[tuple[str, Any, float]]) -> tuple[dict[str, Any], ...]:
    """Return what a record says of rewards, each with its name and its weight."""
    return tuple({"name": n, "weight": w, "weights": _weights(n, r)} for n, r, w in rewards)


def _weights(name: str, reward: Any) -> str:
    """Return the checksum of a reward's weights, or their name on the Hub."""
    from ..models.fingerprint import fingerprint

    place = Path(name).expanduser()
    if not place.is_dir():
        place = Path(getattr(reward, "place", name))
    return fingerprint(place) if place.is_dir() else str(place)
