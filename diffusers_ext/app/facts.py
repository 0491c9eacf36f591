"""Write what is known of a plain picture and of one with methods as a small table; all text is escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..evaluate.gain import beside_plain
from ..evaluate.report.page import render
from .pictures import Made

PLAIN, CHANGED = "plain", "with methods"


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the table; `kind` is good or bad where colour says more."""

    text: str
    kind: str = ""


def table(made: Sequence[Made]) -> str:
    """Return the HTML of one picture, or of a plain one and one with methods."""
    rows = [
        {"name": "verdict", "cells": [_verdict(each) for each in made]},
        {"name": "time", "cells": [Cell(f"{each.seconds:.2f} s") for each in made]},
        {"name": "evaluations", "cells": [_evaluations(each) for each in made]},
    ]
    if any(_kept(each) is not None for each in made):
        rows.append({"name": "density of attention", "cells": [_density(each) for each in made]})
    rows.append({"name": "seed", "cells": [Cell(str(each.seed)) for each in made]})
    labels = [{"label": label} for label, _ in zip((PLAIN, CHANGED), made, strict=False)]
    return render("facts.html", "", home=__package__, pictures=labels, rows=rows, said=sentences(made))


def sentences(made: Sequence[Made]) -> list[str]:
    """Return what was noticed, and what each method did, measured beside the plain picture."""
    said = list(dict.fromkeys(note for each in made for note in each.notes))
    if len(made) == 2 and made[1].engagement is not None:
        said += beside_plain(made[1].engagement, [made[0].seconds], [made[1].seconds])["sentences"]
    return said


def about(cls: type) -> str:
    """Return what a method does, the first sentence of its docstring; code in it is set as code."""
    first = " ".join((cls.__doc__ or "").partition("\n\n")[0].split())
    parts = [html.escape(part) for part in first.split("`")]
    words = "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
    return f"<p class='said'>{words}</p>"


def unsuited(refusals: Mapping[str, str]) -> str:
    """Return a closed list of the methods that a model does not take, each with the reason."""
    if not refusals:
        return ""
    items = "".join(f"<li>{html.escape(why)}</li>" for why in refusals.values())
    names = html.escape(", ".join(refusals))
    return f"<details class='said'><summary>Not for this model: {names}</summary><ul>{items}</ul></details>"


def _verdict(made: Made) -> Cell:
    if made.correct is None:
        return Cell(made.reason)
    return Cell(f"{'right' if made.correct else 'wrong'}: {made.reason}", "good" if made.correct else "bad")


def _evaluations(made: Made) -> Cell:
    return Cell("not known" if made.evaluations is None else str(made.evaluations))


def _kept(made: Made) -> float | None:
    """Return the share of the pairs of tokens that the sparse method kept, `None` without one."""
    methods: Sequence[Mapping[str, Any]] = (made.engagement or {}).get("methods", ())
    return next((m["kept"] for m in methods if m["kept"] is not None), None)


def _density(made: Made) -> Cell:
    kept = _kept(made)
    return Cell("1.00" if kept is None else f"{kept:.2f}")
