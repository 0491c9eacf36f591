"""Score pictures that are on the disk, for `diffusers-ext eval --images`."""

from pathlib import Path
from typing import Any

import typer

from . import options as opt

FILE = "scores.json"


def score(images: Path, layout: str, out: str) -> None:
    """Print the accuracy per task of the pictures in a folder, and write every verdict into `FILE`.

    Raises `ValueError` for a folder without pictures of `layout`, and if none is of shapes world.
    """
    from ..evaluate.report.outputs import rows
    from ..evaluate.score import judge, plain_data, summarise
    from ..jobs.found import find
    from ..outputs.files import output_folder, write_json
    from ..outputs.opened import opened

    pictures = list(find(images.expanduser(), layout))
    judged = [judge(opened(found.path), found.prompt, number) for number, found in enumerate(pictures)]
    unknown = [verdict for verdict in judged if verdict.correct is None]
    if len(unknown) == len(judged):
        raise ValueError(
            f"eval reads pictures of the shapes world, and none of the {len(judged)} in {str(images)!r} is "
            f"one: {unknown[0].reason}"
        )
    folder = output_folder(out)
    found: dict[str, Any] = {"images": str(images), "layout": layout, **summarise(judged)}
    names = [picture.path.relative_to(images.expanduser()).as_posix() for picture in pictures]
    verdicts = [{"file": name, **_known(plain_data(v))} for name, v in zip(names, judged, strict=True)]
    write_json(folder / FILE, found | {"pictures": verdicts})
    (task, _, *right), *body = rows(found, "right")  # a prompt may have several pictures
    for line in opt.aligned([[task, "pictures", *right], *body]):
        typer.echo(line)
    if unknown:
        typer.echo(f"{len(unknown)} of {len(judged)} pictures are not counted: {unknown[0].reason}")
    typer.echo(f"wrote {folder / FILE}")


def _known(data: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is not known of a picture on the disk."""
    return {key: value for key, value in data.items() if key not in ("seed", "seconds")}
