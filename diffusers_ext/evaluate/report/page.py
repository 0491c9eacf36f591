"""Render HTML pages from Jinja templates. A page needs no other file."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from ..score import Judged

OWN = "diffusers_ext.evaluate.report"


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


def render(template: str, title: str, home: str = OWN, **facts: Any) -> str:
    """Fill a template with facts; all text is escaped.

    `home` is the package with the template. The templates here, such as the frame of a page, may be used too.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in dict.fromkeys((home, OWN))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return pages.get_template(template).render(title=title, **facts)
