"""Run `diffusers-ext demo`: the plain model, SoftPAG and the best of eight on ten held-out prompts.

It takes a minute or two on a laptop.
"""

from typing import Any

import typer

from . import options as opt
from .compare import side_by_side

MODEL = "shapes-sd3"
COLUMNS = "plain,softpag,best-of-8"
# Fixed, so that everybody sees the same pictures; each names a combination that training never saw.
PROMPTS = (
    "a cyan star",
    "a green circle and a blue star",
    "a yellow circle and a purple cross",
    "an orange cross and a cyan square",
    "a red square, a green star and a blue circle",
    "a pink triangle, a yellow square and a purple circle",
    "three yellow triangles",
    "a cyan star left of a red circle",
    "a purple square below a green circle",
    "a pink triangle right of a blue cross",
)
NOTE = "Ten pictures a column illustrate and prove nothing; each prompt names something training never saw."
REWARD = (
    "The reward that chooses among eight pictures is learned, and errs; right and wrong are from a program."
)


def demo(out: opt.Out = "out/demo") -> None:
    """Compare plain, SoftPAG and the best of eight on ten held-out prompts of shapes-sd3."""
    notes = made(out)
    for note in notes:
        typer.echo(note)


def made(out: str) -> tuple[str, ...]:
    """Make the pictures and the page; return the sentences about them."""
    from ..evaluate.committed import committed
    from ..models.checkpoint import Checkpoint

    notes = (NOTE, REWARD, *committed(MODEL, "held-out"))
    asked: dict[str, Any] = {"preset": True, "batch": 5, "wide": True}
    side_by_side(
        Checkpoint.resolve(MODEL),
        list(PROMPTS),
        [0],
        names=COLUMNS,
        device="cpu",  # the same pictures everywhere
        out=out,
        title=f"{MODEL}: plain, SoftPAG and the best of eight",
        notes=notes,
        **asked,
    )
    return notes
