"""The comparison as one HTML file that needs no other: pictures inside, text escaped, no scripts."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

from .compare import difference, percent
from .grid import verdict_text

if TYPE_CHECKING:
    from PIL.Image import Image

    from .compare import Cell, Comparison

_STYLE = """
:root { color-scheme: light dark; --good: #1b7f3b; --bad: #b3261e; --line: #8884 }
@media (prefers-color-scheme: dark) { :root { --good: #6fcf8f; --bad: #ff8a80 } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .8rem .35rem 0; text-align: left }
th, td { vertical-align: top }
th { max-width: 16rem; overflow-wrap: anywhere }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap }
figure { margin: 0; max-width: 12rem } figcaption { font-size: .85rem; line-height: 1.35 }
img { width: 12rem; height: auto; display: block; border: 3px solid var(--line) }
img.small { image-rendering: pixelated }
img.good { border-color: var(--good) } img.bad { border-color: var(--bad) }
.good figcaption, b.good { color: var(--good) } .bad figcaption, b.bad { color: var(--bad) }
.note { opacity: .8; max-width: 48rem } pre { overflow-x: auto; font-size: .85rem }
""".strip()


def html(comparison: Comparison, results: Mapping[str, Any], title: str, notes: Sequence[str] = ()) -> str:
    """The whole page; `results` is `comparison.to_dict()` with whatever else belongs into `results.json`."""
    settings = {label: facts["methods"] for label, facts in results["methods"].items()}
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>
{_STYLE}
</style></head><body>
<h1>{escape(title)}</h1>
{"".join(f'<p class="note">{escape(n)}</p>' for n in notes)}
<h2>Right pictures, with 95 % intervals</h2>
<div class="scroll">{_accuracies(results)}</div>
{_pairs(results)}
<h2>Pictures</h2>
<div class="scroll">{_pictures(comparison)}</div>
<h2>Settings</h2>
<pre>{escape(json.dumps({"call": results.get("call"), "variants": settings}, indent=1))}</pre>
<pre>{escape(json.dumps(results.get("versions", {})))}</pre>
</body></html>
"""


def _accuracies(results: Mapping[str, Any]) -> str:
    tasks = list(dict.fromkeys(t for facts in results["methods"].values() for t in facts["tasks"]))
    rows = []
    for label, facts in results["methods"].items():
        entries = [facts["overall"], *(facts["tasks"].get(t) for t in tasks)]
        numbers = "".join(f'<td class="number">{_share(e)}</td>' for e in entries)
        pace = f"{facts['seconds_per_image']:.2f}"
        rows.append(f'<tr><th>{escape(label)}</th>{numbers}<td class="number">{pace}</td></tr>')
    heads = "".join(f"<th>{escape(t.replace('_', ' '))}</th>" for t in ["overall", *tasks])
    return f"<table><tr><th></th>{heads}<th>s an image</th></tr>{''.join(rows)}</table>"


def _share(entry: Mapping[str, Any] | None) -> str:
    return f"{escape(percent(entry))}<br>of {entry['n']}" if entry else "no ground truth"


def _pairs(results: Mapping[str, Any]) -> str:
    lines = [
        f"<li>{escape(label)} minus {escape(facts['against'])}: {escape(difference(facts['overall']))}</li>"
        for label, facts in results["paired"].items()
        if facts["overall"]
    ]
    if not lines:
        return ""
    note = "Same prompts and seeds; a win is right where the other is wrong; p is McNemar's exact test."
    return f'<ul>{"".join(lines)}</ul><p class="note">{note}</p>'


def _pictures(comparison: Comparison) -> str:
    heads = "".join(f"<th>{escape(v.label)}</th>" for v in comparison.variants)
    rows = []
    for r, item in enumerate(comparison.items):
        cells = "".join(f"<td>{_figure(row[r])}</td>" for row in comparison.cells)
        rows.append(f"<tr><th>{escape(item.prompt)}<br><small>seed {item.seed}</small></th>{cells}</tr>")
    return f"<table><tr><th></th>{heads}</tr>{''.join(rows)}</table>"


def _figure(cell: Cell) -> str:
    judged = cell.judged
    kind = "" if judged.correct is None else ("good" if judged.correct else "bad")
    text = judged.reason if judged.correct is None else verdict_text(judged.correct, judged.reason)
    if judged.correct:
        text = f"right: {judged.reason}"
    size = "small" if cell.image.width < 192 else ""
    alt = escape(f"{judged.prompt}, {cell.label}, seed {judged.seed}", quote=True)
    return (
        f'<figure class="{kind}"><img class="{kind} {size}" alt="{alt}" src="{data_url(cell.image)}">'
        f"<figcaption>{escape(text)}</figcaption></figure>"
    )


def data_url(image: Image) -> str:
    """The picture as a PNG inside a URL."""
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
