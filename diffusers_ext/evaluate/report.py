"""The comparison as one HTML file that needs no other: pictures inside, text escaped, no scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

from .page import figure, notes, page
from .words import difference, enough, percent

if TYPE_CHECKING:
    from .cells import Cell
    from .compare import Comparison


def html(comparison: Comparison, results: Mapping[str, Any], title: str, remarks: Sequence[str] = ()) -> str:
    """The whole page; `results` is `comparison.to_dict()` with whatever else belongs into `results.json`."""
    settings = {label: facts["methods"] for label, facts in results["methods"].items()}
    entries = [facts["overall"] for facts in results["methods"].values()]
    intervals = ", with 95 % intervals" * any(e and enough(e) for e in entries)
    body = f"""{notes(remarks)}
<h2>Right pictures{intervals}</h2>
<div class="scroll">{_accuracies(results)}</div>
{_pairs(results)}
<h2>Pictures</h2>
<div class="scroll">{_pictures(comparison)}</div>
<h2>Settings</h2>
<pre>{escape(json.dumps({"call": results.get("call"), "variants": settings}, indent=1))}</pre>
<pre>{escape(json.dumps(results.get("versions", {})))}</pre>"""
    return page(title, body)


def _accuracies(results: Mapping[str, Any]) -> str:
    tasks = list(dict.fromkeys(t for facts in results["methods"].values() for t in facts["tasks"]))
    rows = []
    for label, facts in results["methods"].items():
        entries = [facts["overall"], *(facts["tasks"].get(t) for t in tasks)]
        numbers = "".join(f'<td class="number">{_share(e)}</td>' for e in entries)
        pace = "" if facts["seconds_per_image"] is None else f"{facts['seconds_per_image']:.2f}"
        rows.append(f'<tr><th>{escape(label)}</th>{numbers}<td class="number">{pace}</td></tr>')
    heads = "".join(f"<th>{escape(t.replace('_', ' '))}</th>" for t in ["overall", *tasks])
    return f"<table><tr><th></th>{heads}<th>s an image</th></tr>{''.join(rows)}</table>"


def _share(entry: Mapping[str, Any] | None) -> str:
    if not entry:
        return "no ground truth"
    if not enough(entry):
        return escape(percent(entry))
    share, interval = escape(percent(entry)).split(" (")
    return f"{share} of {entry['n']}<br>({interval}"


def _pairs(results: Mapping[str, Any]) -> str:
    lines = [
        f"<li>{escape(label)} minus {escape(facts['against'])}: {escape(difference(facts['overall']))}</li>"
        for label, facts in results["paired"].items()
        if facts["overall"]
    ]
    if not lines:
        return ""
    note = "Same prompts and seeds; a win is right where the other is wrong."
    if any(f["overall"] and enough(f["overall"]) for f in results["paired"].values()):
        note += " p is McNemar's exact test."
    return f'<ul>{"".join(lines)}</ul><p class="note">{note}</p>'


def _pictures(comparison: Comparison) -> str:
    heads = "".join(f"<th>{escape(v.label)}</th>" for v in comparison.variants)
    rows = []
    for r, item in enumerate(comparison.items):
        cells = "".join(f"<td>{_figure(row[r])}</td>" for row in comparison.cells)
        rows.append(f"<tr><th>{escape(item.prompt)}<br><small>seed {item.seed}</small></th>{cells}</tr>")
    return f"<table><tr><th></th>{heads}</tr>{''.join(rows)}</table>"


def _figure(cell: Cell) -> str:
    if cell.image is None:
        return f'<b class="bad">could not be made</b><br>{escape(cell.judged.reason)}'
    buffer = BytesIO()
    cell.image.save(buffer, format="PNG")
    return figure(cell.judged, cell.label, buffer.getvalue(), cell.image.width)
