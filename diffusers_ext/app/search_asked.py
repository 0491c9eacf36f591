"""Check the search that a visitor asks for, as plain data, and build its sampler."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from reprlib import repr as repr_of
from typing import Any

from ..errors import MethodError
from ..evaluate.scorers import Scorers, scorers
from ..models.checkpoint import Checkpoint
from ..settings import samplers
from ..settings.assign import settable
from ..settings.fields import fit
from ..settings.registry import SAMPLERS
from ..zoo.catalogue import NOISES, REWARDS
from .asked import Asked

KEYS = ("sampler", "settings", "rewards", "budget", "seconds")  # beside those of a picture
OTHERS = ("clip-score", "pick-score", "hpsv2", "image-reward", "aesthetic", "vqa-score")
SHARED = ("micro_batch", "keep_pictures", "budget", "seconds")  # which the server sets for all samplers
USUAL, MOST = 240, 5000  # evaluations
MOST_S = 600.0  # seconds of a search
MOST_COUNT = 1000  # candidates, rounds and other numbers
GROUP = 4  # candidates at a time, so that a search that is cancelled has finished some


@dataclass(frozen=True)
class SearchAsked:
    """A search that a visitor asks for.

    `sampler` is a label, as `best-of-n` or `best-of-n+reno`. `settings` are by the names in it. `rewards` are
    names with weights; none means the model's own. `budget` is in evaluations of the denoiser. A search ends
    after `seconds` with the best picture until then.
    """

    picture: Asked
    sampler: str = "best-of-n"
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rewards: Mapping[str, float] = field(default_factory=dict)
    budget: int = USUAL
    seconds: float = MOST_S

    @classmethod
    def of(cls, data: Any) -> SearchAsked:
        """Read plain data. Raises `ValueError` in one sentence for all that a visitor may not ask for."""
        own = {} if not isinstance(data, Mapping) else {key: data[key] for key in KEYS if key in data}
        rest = data if not own else {key: value for key, value in data.items() if key not in own}
        picture = Asked.of(rest)
        label = fit(own.get("sampler", cls.sampler), str, "sampler")
        seconds = own.get("seconds")
        return cls(
            picture,
            label,
            settings_of(label, own.get("settings") or {}),
            rewards_of(own.get("rewards") or {}),
            _within("budget", fit(_whole(own.get("budget") or USUAL), int, "budget"), MOST),
            MOST_S if seconds is None else _within("seconds", fit(seconds, float, "seconds"), MOST_S),
        )

    @property
    def needy(self) -> bool:
        """True if the search chooses by a reward."""
        return any(getattr(part.cls, "needs_rewards", True) for part in samplers.parts(self.sampler)[1])

    @property
    def fills(self) -> bool:
        """True if the search takes as many candidates or rounds as its budget pays for."""
        chain = samplers.parts(self.sampler)[1]
        growing = {part.label: samplers.main_count(part.cls) for part in chain if part.count is None}
        return any(most and most not in self.settings.get(name, {}) for name, most in growing.items())

    def scorers(self, model: Checkpoint, device: str | None = None) -> Scorers | None:
        """Return the rewards, loaded; those of shapes world for its models.

        Raises `ValueError` where the search needs a reward and none is known for the model, and `OSError` for
        weights that are not here.
        """
        pairs = list(self.rewards.items()) or ([(model.reward, 1.0)] if model.reward else [])
        if not pairs and self.needy:
            raise MethodError(
                f"a search chooses by a reward, and none is known for {model.name}; choose one of "
                f"{', '.join(OTHERS)}."
            )
        if not pairs:
            return None
        found = scorers(pairs, device)
        found.load()
        return found

    def build(self, rewards: Any = None) -> Any:
        """Build the sampler, with as many candidates or rounds as the budget pays for if none are given.

        The samplers of a chain share the budget. Raises `ValueError` for settings out of bounds.
        """
        chain = samplers.parts(self.sampler)[1]
        count = sum(not samplers.transforms(part.cls) for part in chain)
        share = max(self.budget // max(count, 1), 1)
        built = []
        for part in chain:
            values = {"budget": share, "seconds": self.seconds, "keep_pictures": True, "micro_batch": GROUP}
            most = samplers.main_count(part.cls)
            if most is not None and part.count is None:
                values[most] = min(share, MOST_COUNT)
            built.append(samplers.build(part, {**values, **self.settings.get(part.label, {})}, rewards))
        return samplers.chained(built)


def settings_of(label: str, given: Any) -> dict[str, dict[str, Any]]:
    """Check the settings of the samplers in a label, by their names.

    Raises `ValueError` for unknown names and settings, for wrong types, for numbers that would hold the
    server for hours, and for the path of a file.
    """
    methods, chain = samplers.parts(label)
    if methods or not chain:
        raise MethodError(
            f"sampler takes the name of a search, got {label[:60]!r}; valid are {', '.join(SAMPLERS)}."
        )
    if not isinstance(given, Mapping):
        raise MethodError(f"settings of a search are tables by the names of samplers, got {repr_of(given)}.")
    names = [part.label for part in chain]
    if stray := [str(name) for name in given if name not in names]:
        raise MethodError(
            f"settings are for {', '.join(names)}, got some for {stray[0][:60]!r}; leave it out."
        )
    for part in chain:
        if part.count is not None and part.count > MOST_COUNT:
            _within(part.label, part.count, MOST_COUNT)
    return {part.label: _settings(part, given.get(part.label) or {}) for part in chain}


def _settings(part: samplers.Named, given: Any) -> dict[str, Any]:
    hints, found = typing.get_type_hints(part.cls), {}
    known = {name: facts for name, facts in settable(part.cls).items() if name not in SHARED}
    for name, value in fit(given, dict[str, Any], f"the settings of {part.label}").items():
        if name not in known:
            raise MethodError(
                f"{part.label} has no setting {repr_of(name)} here; valid are {', '.join(known)}."
            )
        if known[name].metadata.get("file") and value not in NOISES:
            raise MethodError(
                f"{part.label} {name} is one of {', '.join(NOISES)} here, got {repr_of(value)}."
            )
        found[name] = fit(value, hints[name], f"{part.label} {name}")
        if isinstance(value, int) and not isinstance(value, bool):
            _within(f"{part.label} {name}", value, MOST_COUNT)
    for name, facts in known.items():  # a search of noise has one network here
        if facts.metadata.get("file"):
            found.setdefault(name, NOISES[0])
    return found


def rewards_of(given: Any) -> dict[str, float]:
    """Check names of rewards, with weights or without; a visitor names no folder."""
    if isinstance(given, str):
        given = [given]
    if isinstance(given, Sequence):
        given = dict.fromkeys(fit(list(given), list[str], "rewards"), 1.0)
    found = fit(given, dict[str, float], "rewards")
    for name in found:
        if name not in (*REWARDS, *OTHERS):
            raise MethodError(f"unknown reward {repr_of(name)}; valid are {', '.join((*REWARDS, *OTHERS))}.")
    return found


def _within(name: str, value: Any, most: Any) -> Any:
    if not 0 < value <= most:
        raise MethodError(f"{name} is above 0 and up to {most:g} here, got {value:g}; ask for less.")
    return value


def _whole(value: Any) -> Any:
    """Return a number without a fraction as a whole one, as JavaScript sends it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
