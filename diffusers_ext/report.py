"""What a session did, for people and for sidecar files."""

from dataclasses import asdict, dataclass, is_dataclass
from typing import Any


@dataclass(frozen=True)
class SiteReport:
    """One swapped attention module. `calls` counts outside compiled regions; `density` is the number of pairs
    of tokens that see each other over that of dense attention, more than 1 where far tokens, extra keys, add
    more than is hidden; `full_share` is the share of visited blocks which need no check inside; `order` tells
    how tokens came into the order of the blocks.
    """

    path: str
    kind: str
    heads: int
    methods: tuple[str, ...]
    calls: int
    backend: str = "dense"
    why: str = "no sparse method at this site"
    density: float = 1.0
    full_share: float = 1.0
    order: str = ""


@dataclass(frozen=True)
class Report:
    """A session so far: settings, sites, passes and seconds in the denoiser."""

    methods: tuple[Any, ...]
    sites: tuple[SiteReport, ...]
    denoiser_calls: int
    extra_passes: int
    seconds: float
    extra_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "methods": [{"name": m.name, **(asdict(m) if is_dataclass(m) else {})} for m in self.methods],
            "sites": [asdict(s) for s in self.sites],
            "denoiser_calls": self.denoiser_calls,
            "extra_passes": self.extra_passes,
            "seconds": self.seconds,
            "extra_seconds": self.extra_seconds,
        }

    def __str__(self) -> str:
        lines = [
            "methods: "
            f"{', '.join(map(repr, self.methods)) or 'none (dense processors, bit-equal to the host)'}"
        ]
        width = max((len(s.path) for s in self.sites), default=0)
        for s in self.sites:
            lines.append(
                f"  {s.path:<{width}}  {s.kind:<5}  {s.heads} heads  {s.backend} ({s.why}), density "
                f"{s.density:.2f} ({s.full_share:.0%} of the blocks full), {s.order}{', ' if s.order else ''}"
                f"{'+'.join(s.methods) or 'plain'}, {s.calls} calls"
            )
        cost = (
            f", {self.extra_seconds / self.seconds:.2f} of the time of the host's"
            if self.extra_passes
            else ""
        )
        lines.append(
            f"  denoiser: {self.denoiser_calls} calls of the host, {self.extra_passes} extra passes{cost}"
        )
        return "\n".join(lines)
