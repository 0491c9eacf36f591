"""Report what a session did, for people and for sidecar files."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from .engagement import AttentionTime, Engaged
from .sentences import sentences


@dataclass(frozen=True)
class SiteReport:
    """One attention module that runs our processor.

    `calls` counts outside compiled regions. `density` is the number of visible pairs of tokens, divided by
    the number of pairs in dense attention; extra keys can bring it above 1. `full_share` is the share of the
    visited blocks that need no check inside. `pairs` are those of dense attention, for a head and a row; 0 if
    they are not known. `why` says why this back-end runs, and `order` how tokens came into the order of the
    blocks.
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
    pairs: int = 0
    order: str = ""


@dataclass(frozen=True)
class Report:
    """The report of a session: settings, sites, passes, calls with a second text and seconds.

    `engaged` says where and when each method really ran, and `attention` what attention cost there; it is
    `None` without a sparse method. As text, sites that differ only by their names share a line.
    """

    methods: tuple[Any, ...]
    sites: tuple[SiteReport, ...]
    denoiser_calls: int
    extra_passes: int
    seconds: float
    extra_seconds: float
    second_texts: int = 0
    engaged: tuple[Engaged, ...] = ()
    attention: AttentionTime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        methods = [{"name": m.name, **(asdict(m) if is_dataclass(m) else {})} for m in self.methods]
        found = {
            "methods": methods,
            "sites": [asdict(s) for s in self.sites],
            "engagement": self.engagement(),
        }
        return {k: v for k, v in vars(self).items() if k not in ("engaged", "attention")} | found

    def engagement(self) -> dict[str, Any]:
        """Return where and when each method ran, and what attention cost, as plain data.

        `measured` is `None`: to know it takes a plain run beside this one, as `compare` makes it.
        """
        time = self.attention
        found = {
            "methods": [asdict(each) for each in self.engaged],
            "attention": None if time is None else asdict(time) | {"dense_share": time.dense_share},
            "ideal": None if time is None else time.ideal,
            "estimated": None if time is None else time.estimated,
            "measured": None,
        }
        return found | {"sentences": sentences(found)}

    def __str__(self) -> str:
        methods = ", ".join(map(repr, self.methods)) or "none, so attention is that of diffusers, bit for bit"
        share = self.extra_seconds / self.seconds if self.extra_passes else 0.0
        cost = f", which took {share:.2f} times as long as those calls" if self.extra_passes else ""
        cost += f"; {_times(self.second_texts)} a second text came along" if self.second_texts else ""
        notes: dict[str, int] = {}  # each reason once, below the table, by its number there
        computed = any(each.sparse for each in self.engaged)
        alike: dict[tuple[Any, ...], list[str]] = {}
        for site in self.sites:
            row: tuple[Any, ...] = site.kind, site.heads, " + ".join(site.methods) or "none", site.calls
            if computed:
                marks = [f"({notes.setdefault(text, len(notes) + 1)})" for text in _reasons(site)]
                row += site.backend, f"{site.density:.2f}", f"{site.full_share:.0%}", " ".join(marks)
            alike.setdefault(row, []).append(site.path)
        rows = [(pattern(paths), len(paths), *row) for row, paths in alike.items()]
        return "\n".join(
            [
                f"Methods: {methods}.",
                f"The pipeline called the denoiser {_times(self.denoiser_calls)}; guidance added "
                f"{self.extra_passes} extra pass{'' if self.extra_passes == 1 else 'es'}{cost}.",
                *self.engagement()["sentences"],
                *table(COLUMNS + COMPUTED if computed else COLUMNS, rows),
                *(f"({number}) {text}." for text, number in notes.items()),
            ]
        )


COLUMNS = ("Modules", "Count", "Kind", "Heads", "Methods", "Calls")
COMPUTED = ("Back-end", "Density", "Full blocks", "Notes")  # where a method computes attention


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the lines of a text table with its headings; no line if there are no rows."""
    cells = [[str(cell) for cell in row] for row in ([columns, *rows] if rows else [])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(c.ljust(n) for c, n in zip(row, widths, strict=True)).rstrip() for row in cells]


def pattern(paths: Sequence[str]) -> str:
    """Name modules by what their paths have in common, with `*` between; one path stays as it is."""
    first, *others = (path.split(".") for path in paths)
    if not others:
        return paths[0]
    most = min(map(len, [first, *others])) - 1  # the star stands for a part at least
    start = next((i for i in range(most) if any(o[i] != first[i] for o in others)), most)
    rest = most - start
    end = next((i for i in range(rest) if any(o[-1 - i] != first[-1 - i] for o in others)), rest)
    return ".".join([*first[:start], "*", *first[len(first) - end :]])


def _reasons(site: SiteReport) -> list[str]:
    """Return why the back-end runs at a site, and how tokens came into order, where something did."""
    return [f"{site.backend}: {site.why}", *([site.order] if site.order else [])]


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
