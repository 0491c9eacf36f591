"""What the HTML pages share: frame, style, a picture with its verdict. No scripts and no other files."""

from __future__ import annotations

import base64
from html import escape

from .grid import verdict_text
from .score import Judged

_STYLE = """
:root { color-scheme: light dark; --good: #1b7f3b; --bad: #b3261e; --line: #8884 }
@media (prefers-color-scheme: dark) { :root { --good: #6fcf8f; --bad: #ff8a80 } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
h3 { font-size: 1rem; margin-top: 1.6rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .8rem .35rem 0; text-align: left }
th, td { vertical-align: top }
th { max-width: 16rem; overflow-wrap: anywhere } th:first-child { min-width: 5rem }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap }
.shelf { display: flex; flex-wrap: wrap; gap: 1.2rem 1.6rem; padding: 0; list-style: none }
.shelf li { width: min-content } .shelf p { margin: 0 0 .3rem } .pair { display: flex; gap: .5rem }
figure { margin: 0; width: 12rem } figcaption { font-size: .85rem; line-height: 1.35 }
img { width: 12rem; height: auto; display: block; border: 3px solid var(--line) }
img.small { image-rendering: pixelated }
img.good { border-color: var(--good) } img.bad { border-color: var(--bad) }
.good figcaption, b.good { color: var(--good) } .bad figcaption, b.bad { color: var(--bad) }
.note { opacity: .8; max-width: 48rem } pre { overflow-x: auto; font-size: .85rem }
""".strip()


def page(title: str, body: str) -> str:
    """A whole HTML document; `body` is HTML already."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>
{_STYLE}
</style></head><body>
<h1>{escape(title)}</h1>
{body}
</body></html>
"""


def notes(texts: tuple[str, ...] | list[str]) -> str:
    """One muted paragraph for each text."""
    return "".join(f'<p class="note">{escape(text)}</p>' for text in texts)


def figure(judged: Judged, label: str, png: bytes, width: int) -> str:
    """The picture of one variant, `width` px wide in its file, over its verdict in words and colour."""
    kind = "" if judged.correct is None else ("good" if judged.correct else "bad")
    text = judged.reason if judged.correct is None else verdict_text(judged.correct, judged.reason)
    if judged.correct:
        text = f"right: {judged.reason}"
    size = "small" if width < 192 else ""
    alt = escape(f"{judged.prompt}, {label}, seed {judged.seed}", quote=True)
    source = "data:image/png;base64," + base64.b64encode(png).decode()
    return (
        f'<figure class="{kind}"><img class="{kind} {size}" alt="{alt}" src="{source}">'
        f"<figcaption>{escape(text)}</figcaption></figure>"
    )
