"""Report what a session did, for people and for sidecar files."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any


@dataclass(frozen=True)
class SiteReport:
    """One attention module that runs our processor.

    `calls` counts outside compiled regions. `density` is the number of visible pairs of tokens, divided by
    the number of pairs in dense attention; extra keys can bring it above 1. `full_share` is the share of the
    visited blocks that need no check inside. `why` says why this back-end runs, and `order` how tokens came
    into the order of the blocks.
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
    """The report of a session: settings, sites, passes, calls with a second text and seconds."""

    methods: tuple[Any, ...]
    sites: tuple[SiteReport, ...]
    denoiser_calls: int
    extra_passes: int
    seconds: float
    extra_seconds: float
    second_texts: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        methods = [{"name": m.name, **(asdict(m) if is_dataclass(m) else {})} for m in self.methods]
        return vars(self) | {"methods": methods, "sites": [asdict(s) for s in self.sites]}

    def __str__(self) -> str:
        methods = ", ".join(map(repr, self.methods)) or "none, so attention is that of diffusers, bit for bit"
        share = self.extra_seconds / self.seconds if self.extra_passes else 0.0
        cost = f", which took {share:.2f} times as long as those calls" if self.extra_passes else ""
        cost += f"; {_times(self.second_texts)} a second text came along" if self.second_texts else ""
        notes: dict[str, int] = {}  # each reason once, below the table, by its number there
        rows = [
            (
                site.path,
                site.kind,
                site.heads,
                " + ".join(site.methods) or "none",
                site.calls,
                site.backend,
                f"{site.density:.2f}",
                f"{site.full_share:.0%}",
                " ".join(f"({notes.setdefault(text, len(notes) + 1)})" for text in _reasons(site)),
            )
            for site in self.sites
        ]
        return "\n".join(
            [
                f"Methods: {methods}.",
                f"The pipeline called the denoiser {_times(self.denoiser_calls)}; guidance added "
                f"{self.extra_passes} extra pass{'' if self.extra_passes == 1 else 'es'}{cost}.",
                *table(COLUMNS, rows),
                *(f"({number}) {text}." for text, number in notes.items()),
            ]
        )


COLUMNS = ("Module", "Kind", "Heads", "Methods", "Calls", "Back-end", "Density", "Full blocks", "Notes")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the lines of a text table with its headings; no line if there are no rows."""
    cells = [[str(cell) for cell in row] for row in ([columns, *rows] if rows else [])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(c.ljust(n) for c, n in zip(row, widths, strict=True)).rstrip() for row in cells]


def _reasons(site: SiteReport) -> list[str]:
    """Return why the back-end runs at a site, and how tokens came into order, where something did."""
    return [f"{site.backend}: {site.why}", *([site.order] if site.order else [])]


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
