"""Share what commands that make pictures need: the progress of a run, and its end if some failed."""

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..sampling.progress import Progress


debug: ContextVar[bool] = ContextVar("debug", default=False)  # --debug of the command that runs


# diffusers and other tools name this option; here prompts need no name.
Prompt = Annotated[list[str] | None, typer.Option("--prompt", hidden=True)]


def one_prompt(command: str, found: list[str]) -> str:
    """Return the prompt, with or without `--prompt`; raises `ValueError` for none and for several."""
    if not found:
        raise ValueError(f'{command} needs a prompt, got none; write one, as {command} "a red circle"')
    if len(found) > 1:
        raise ValueError(
            f"{command} takes 1 prompt, got {len(found)}: {', '.join(map(repr, found))}; put quotes "
            "around it, or use compare for several"
        )
    return found[0]


def progress(total: int, unit: str = "image") -> "Progress":
    """Make the progress of a run of `total` items, with a bar on a terminal.

    `--debug` shows causes of failures.
    """
    from ..sampling.progress import Progress

    return Progress(total, unit, show=sys.stderr.isatty(), debug=debug.get())


def lost(progress: "Progress") -> dict[str, Any]:
    """Return `failed` for a results file: prompt, seed and reason of what could not be made."""
    rows = [{"prompt": f.item.prompt, "seed": f.item.seed, "reason": f.reason} for f in progress.failures]
    return {"failed": rows} if rows else {}


def end(progress: "Progress") -> None:
    """Exit with code 1 if a picture could not be made; each was named before."""
    if count := len(progress.failures):
        rest = "the others are complete" if progress.finished else "nothing was written"
        which = f"{count} of {progress.total} {progress.unit}s"
        typer.echo(
            f"error: {which} could not be made, {rest}; the same command tries these again and no others",
            err=True,
        )
        raise typer.Exit(1)
