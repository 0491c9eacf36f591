"""`summary` says what a pipeline offers to methods, and which of them are in force."""

from dataclasses import dataclass
from typing import Any

from ..core import Site
from ..families import family_of
from ..families.denoisers import denoisers
from .checks import session_of
from .report import table


@dataclass(frozen=True)
class Summary:
    """The denoisers of a target, each as `(component, class name, family, sites, session)`."""

    denoisers: tuple[tuple[str, str, str, tuple[Site, ...], Any], ...]

    def __str__(self) -> str:
        lines = []
        for component, cls, family, sites, session in self.denoisers:
            count = "1 attention module" if len(sites) == 1 else f"{len(sites)} attention modules"
            lines.append(f"{component or 'The denoiser'} is a {cls} (family {family}) with {count}.")
            rows = [(s.name, s.kind, s.heads, s.head_dim) for s in sites]
            lines += table(("Module", "Kind", "Heads", "Channels a head"), rows)
            none = "none, but a session is open" if session else "none"
            methods = ", ".join(map(repr, session.methods if session else ()))
            lines.append(f"Methods in force: {methods or none}.")
        return "\n".join(lines)


def summary(target: Any) -> Summary:
    """Describe the denoisers of a target: family, attention modules and the methods in force.

    Raises `UnsupportedError` for a class that no family knows.
    """
    rows = []
    for component, model in denoisers(target).items():
        family = family_of(model)
        sites = tuple(family.sites(model, component))
        rows.append((component, type(model).__name__, family.name, sites, session_of(model)))
    return Summary(tuple(rows))
