"""Decide which models visitors may name: those of the package, those of the operator, or any of the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from ..core import nearest_names
from ..models.checkpoint import Checkpoint
from ..zoo import catalogue

FIRST = "shapes-sd"  # that the page begins with; it draws most prompts right
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a server: those of the package, `more` of the operator's, and any Hub id if `hub` is set.

    `more` are folders or Hub ids, which visitors see under the last part of their name.
    """

    more: tuple[str, ...] = ()
    hub: bool = False

    def __post_init__(self) -> None:
        names = [*catalogue.MODELS, *(label(name) for name in self.more)]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ValueError(f"two models are named {twice[0]!r}; rename the folder of one of them")
        for name in self.more:
            Checkpoint.resolve(name)

    def names(self) -> list[str]:
        """Return the names that a page offers."""
        return [*catalogue.MODELS, *map(label, self.more)]

    def resolve(self, name: str) -> Checkpoint:
        """Find a model by the name that a visitor gives.

        Raises `ValueError` for all others: a visitor may name neither folders nor, without `hub`, models of
        the Hub.
        """
        if name in catalogue.MODELS:
            return Checkpoint.resolve(name)
        for own in self.more:
            if name == label(own):  # records do not show the path of a folder
                found = Checkpoint.resolve(own)
                return found if found.folder is None else replace(found, name=name)
        hub_id = _HUB_ID.fullmatch(name) is not None and ".." not in name
        # The settings of a model are also looked for in a file or folder of its name.
        if self.hub and hub_id and not (name.endswith(".toml") or Path(name).exists()):
            return Checkpoint(name, None)
        if hub_id and not self.hub:
            raise ValueError(
                f"this server loads no models of the Hub, got {name[:80]!r}; choose one of "
                f"{', '.join(self.names())}, or start a server of your own with --hub"
            )
        best = nearest_names(name, self.names(), count=1)[0]
        raise ValueError(
            f"unknown model {name[:80]!r}; nearest is {best!r}, valid are {', '.join(self.names())}"
        )


def label(name: str) -> str:
    """Return the name under which visitors see a model of the operator; folders do not show their path."""
    return name.rstrip("/").rpartition("/")[2]
