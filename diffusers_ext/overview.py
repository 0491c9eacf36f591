"""`summary`: what a pipeline offers to methods and what is applied to it now."""

from dataclasses import dataclass
from typing import Any

from .admission import denoisers, session_of
from .core import Site
from .families import family_of


@dataclass(frozen=True)
class Summary:
    """Denoisers of a target: `(component, class name, family, sites, session)` each."""

    denoisers: tuple[tuple[str, str, str, tuple[Site, ...], Any], ...]

    def __str__(self) -> str:
        lines = []
        for component, cls, family, sites, session in self.denoisers:
            lines.append(
                f"{component or 'denoiser'}: {cls} (family {family}), {len(sites)} attention modules"
            )
            lines += [f"  {s.name}  {s.kind}  {s.heads} heads x {s.head_dim}" for s in sites]
            lines.append(
                f"  applied: {', '.join(map(repr, session.methods)) or 'no method' if session else 'nothing'}"
            )
        return "\n".join(lines)


def summary(target: Any) -> Summary:
    """Families, sites, heads and the methods in force; raises `UnsupportedError` for a class no family "
    "knows."""
    rows = []
    for component, model in denoisers(target).items():
        family = family_of(model)
        sites = tuple(family.sites(model, component))
        rows.append((component, type(model).__name__, family.name, sites, session_of(model)))
    return Summary(tuple(rows))
