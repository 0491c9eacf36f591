"""Render HTML pages from Jinja templates. A page has no scripts and needs no other file."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from ..score import Judged


@dataclass(frozen=True)
class Figure:
    """A figure is a picture over its verdict, in words (`text`) and in colour (`kind`: good, bad or empty).

    `source` is a data URL, empty if no picture was made. `size` is `small` for pictures that are enlarged
    without smoothing.
    """

    text: str
    source: str = ""
    alt: str = ""
    kind: str = ""
    size: str = ""


def data_url(png: bytes) -> str:
    """Return a PNG as the address that a page shows it by."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def figure(judged: Judged, label: str, png: bytes) -> Figure:
    """Prepare the picture of the variant `label`."""
    from PIL import Image

    with Image.open(BytesIO(png)) as image:
        width = image.width
    looks = {None: ("", ""), True: ("good", "right: "), False: ("bad", "wrong: ")}
    kind, verdict = looks[judged.correct]
    scored = "" if judged.reward is None else f"; reward {judged.reward:.3f}"
    return Figure(
        text=verdict + judged.reason + scored,
        source=data_url(png),
        alt=f"{judged.prompt}, {label}, seed {judged.seed}",
        kind=kind,
        size="small" if width < 192 else "",
    )


def render(template: str, title: str, **facts: Any) -> str:
    """Fill a template with facts; all text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("diffusers_ext.evaluate.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return pages.get_template(template).render(title=title, **facts)
