"""Run `diffusers-ext demo`: the plain model against SoftPAG on a dozen held-out prompts.

It takes a minute or two on a laptop.
"""

import typer

from . import options as opt
from .compare import side_by_side

MODEL = "shapes-sd3"
# Fixed, so that everybody sees the same pictures; each names a combination that training never saw.
PROMPTS = (
    "a red square",
    "a cyan star",
    "a green circle and a blue star",
    "a yellow circle and a purple cross",
    "an orange cross and a cyan square",
    "a red square, a green star and a blue circle",
    "a pink triangle, a yellow square and a purple circle",
    "two blue squares",
    "three yellow triangles",
    "a cyan star left of a red circle",
    "a purple square below a green circle",
    "a pink triangle right of a blue cross",
)
NOTE = (
    "Twelve pictures a column illustrate and prove nothing; each prompt names something training never saw."
)


def demo(out: opt.Out = "out/demo") -> None:
    """Compare plain and SoftPAG on a dozen held-out prompts of shapes-sd3."""
    from ..evaluate.committed import committed
    from ..models.checkpoint import Checkpoint

    notes = (NOTE, *committed(MODEL, "held-out"))
    side_by_side(
        Checkpoint.resolve(MODEL),
        list(PROMPTS),
        [0],
        methods="plain,softpag",
        preset=True,
        batch=6,
        device="cpu",  # the same pictures everywhere
        out=out,
        title=f"{MODEL}: plain against SoftPAG",
        notes=notes,
    )
    for note in notes:
        typer.echo(note)
