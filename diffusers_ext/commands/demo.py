"""Run `diffusers-ext demo`: the plain model, SoftPAG and the best of eight on ten prompts.

It takes a minute or two on a laptop.
"""

from typing import Any

import typer

from . import options as opt
from .compare import side_by_side

MODEL = "shapes-sd3"
COLUMNS = "plain,softpag,best-of-8"
SUITE = "train-like"
# The first two of five tasks of the suite, so that nobody chose; fixed, so that everybody sees the same.
PROMPTS = (
    "an orange star",
    "a red triangle",
    "a blue triangle and an orange triangle",
    "an orange triangle and a red circle",
    "a green cross, a green triangle and an orange square",
    "a pink circle, an orange star and a yellow cross",
    "two cyan crosses",
    "three yellow crosses",
    "a pink circle above a green triangle",
    "a green triangle below a blue cross",
)
NOTE = "Ten pictures a column illustrate and prove nothing. The prompts are the first two of five tasks."
REWARD = (
    "The reward that chooses among eight pictures is learned, and errs; right and wrong are from a program."
)


def demo(out: opt.Out = "out/demo") -> None:
    """Compare plain, SoftPAG and the best of eight on ten prompts of shapes-sd3."""
    notes = made(out)
    for note in notes:
        typer.echo(note)


def made(out: str) -> tuple[str, ...]:
    """Make the pictures and the page; return the sentences about them."""
    from ..evaluate.committed import committed
    from ..models.checkpoint import Checkpoint

    notes = (NOTE, REWARD, *committed(MODEL, SUITE))
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
