"""Read the sampler of a job."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..evaluate.scorers import Scorers, scorers
from ..models.checkpoint import Checkpoint
from ..settings import samplers
from ..settings.assign import settable
from ..settings.fields import fit
from . import tables


@dataclass(frozen=True)
class Sampler:
    """The sampler of a job: its label, as `best-of-8` or `best-of-4+reno`, its settings and rewards."""

    label: str
    settings: Mapping[str, Any]
    rewards: Mapping[str, float]

    @classmethod
    def read(cls, table: Any, where: str) -> Sampler:
        """Read the table `[sampler]`; raises `ValueError` with `where` for what is not understood."""
        if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
            raise ValueError(f"{where} needs a name, got {table!r}; add name = 'best-of-8'")
        own, chain = samplers.parts(table["name"])
        if own or not chain:
            raise ValueError(
                f"{where} takes the name of a sampler, got {table['name']!r}; methods go to [[method]]"
            )
        hints = {f: h for p in reversed(chain) for f, h in typing.get_type_hints(p.cls).items()}
        known = list(dict.fromkeys(name for part in chain for name in settable(part.cls)))
        settings = {}
        for key, value in table.items():
            if key in ("name", "rewards"):
                continue
            if key not in known:
                raise ValueError(tables.unknown(key, ["name", "rewards", *known], where))
            settings[key] = fit(value, hints[key], f"{where} {key}")
        return cls(table["name"], settings, _rewards(table.get("rewards", {}), f"{where} rewards"))

    @property
    def parts(self) -> list[samplers.Named]:
        """The samplers of a chain, in their order."""
        return samplers.parts(self.label)[1]

    def scorers(self, model: Checkpoint, device: str | None = None) -> Scorers | None:
        """Return the rewards, those of shapes world by default, or `None` where the sampler needs none.

        Raises `ValueError` if it needs one and none is known for the model.
        """
        pairs = list(self.rewards.items()) or ([(model.reward, 1.0)] if model.reward else [])
        if not pairs and any(getattr(part.cls, "needs_rewards", True) for part in self.parts):
            raise ValueError(
                f"the sampler {self.label} chooses by a reward, and none is known for {model.name}; add "
                "rewards = ['clip-score'] to [sampler]"
            )
        return scorers(pairs, device) if pairs else None

    def build(self, changed: Mapping[str, Any], rewards: Any = None) -> Any:
        """Build it; a setting goes to every sampler of the chain that has it. `changed` go first."""
        values = {**self.settings, **changed}
        return samplers.chained(
            [
                samplers.build(p, {k: v for k, v in values.items() if k in settable(p.cls)}, rewards)
                for p in self.parts
            ]
        )


def _rewards(value: Any, where: str) -> dict[str, float]:
    """Read rewards with their weights: a name, a list of names, or a table of name and weight."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        value = {name: 1.0 for name in fit(value, list[str], where)}
    return fit(value, dict[str, float], where)
