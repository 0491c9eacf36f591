"""Define the options and the steps that several commands share."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..models.checkpoint import Checkpoint

MODEL = "shapes-sd"  # the model of the zoo that draws most prompts right
Model = Annotated[str, typer.Option("--model", "-m", help="A zoo name, a local folder or a Hub id.")]
Methods = Annotated[
    list[str] | None, typer.Option("--method", help="A method to apply. It may come several times.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of a method, as scale=3 or softpag.scale=3."),
]
Preset = Annotated[
    bool | None,
    typer.Option(
        "--preset/--no-preset",
        help="Require the settings that are known for the model, or leave them out. By default they are "
        "taken if there are any. --set overrides them.",
        show_default=False,
    ),
]
Suite = Annotated[str, typer.Option("--suite", help="One of train-like, held-out and tuning.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Steps = Annotated[
    int | None, typer.Option("--steps", help="Number of denoising steps. By default the model's own.")
]
Guidance = Annotated[
    float | None,
    typer.Option("--guidance-scale", help="Scale of classifier-free guidance. By default the model's own."),
]
TrueCfg = Annotated[
    float | None,
    typer.Option(
        "--true-cfg-scale",
        help="Scale of true classifier-free guidance, for models that embed a guidance scale of their own, "
        "such as FLUX.1. By default off.",
    ),
]
Height = Annotated[int | None, typer.Option("--height", help="Height in px. By default the model's own.")]
Width = Annotated[int | None, typer.Option("--width", help="Width in px. By default the model's own.")]
Negative = Annotated[
    str | None,
    typer.Option("--negative", help="The negative prompt: what not to draw. For models that read one."),
]
# Text, since an empty name as a path would be the current folder.
Out = Annotated[str, typer.Option("--out", "-o", metavar="PATH", help="The output folder.")]
Batch = Annotated[int, typer.Option("--batch", help="Number of images made at a time.")]
Device = Annotated[
    str | None,
    typer.Option("--device", help="One of cpu, cuda and mps. By default cuda if there is a GPU, else cpu."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        help="CPU threads of torch. Models of shapes world run on one, unless OMP_NUM_THREADS is set.",
        show_default=False,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="One of float32, bfloat16 and float16. By default the dtype of the weights."
    ),
]


def warn_of_texts(model: "Checkpoint", pipe: Any, prompts: Sequence[str], call: dict[str, Any]) -> None:
    """Warn if a model will not understand or read a part of its prompts, the negative one included."""
    from ..models.prompts import misread

    for sentence in misread(model, pipe, prompts, call):
        warn(sentence)


def chosen(
    model: "Checkpoint",
    names: Sequence[str],
    settings: Sequence[str],
    preset: bool | None,
) -> tuple[tuple[Any, ...], list[str]]:
    """Build methods with the settings that are known for a model, and return a line for each that says so.

    `preset` True refuses methods of which nothing is known, False leaves what is known. `settings` go first.
    """
    from ..settings.methods import build

    if preset is False or (preset is None and not names):
        return build(names, settings), []
    found = model.required_preset() if preset else model.preset
    tables = found.settings if found else {}
    methods = build(names, settings, tables, required=bool(preset))
    lines = (_source(m, tables.get(m.name), model.name, settings) for m in methods)
    return methods, [line for line in lines if line]


def _source(method: Any, table: dict[str, Any] | None, model: str, settings: Sequence[str]) -> str:
    """Return a sentence on the origin of a method's settings.

    It is empty if the user set them and no others are known.
    """
    name, usual = method.name, {f.name: f.default for f in dataclasses.fields(method)}
    given = {text.partition("=")[0].strip().removeprefix(f"{name}.") for text in settings} & usual.keys()
    if table is None:
        own = f"{name}: no settings are known for {model}, so its own defaults hold; --set changes them"
        return "" if given else own
    kept = [f"{k} {_brief(v)}" for k, v in table.items() if k not in given and v != usual[k]]
    values = f" ({', '.join(kept)})" if kept else ""
    return f"{name}: the settings that are known for {model}{values}; --no-preset leaves them"


def _brief(value: Any) -> str:
    """Write a setting in few words; heads are named by their modules."""
    if isinstance(value, dict):
        return " and ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def shard_of(text: str) -> tuple[int, int]:
    """Read `--shard I/N`; raises `ValueError` unless I is from 0 to N - 1."""
    part, _, parts = text.partition("/")
    if not (part.strip().isdecimal() and parts.strip().isdecimal() and int(part) < int(parts)):
        raise ValueError(f"--shard takes I/N with I from 0 to N - 1, got {text!r}; 0/1 does everything")
    return int(part), int(parts)


def refuse_other(out: str | Path, command: str, mark: str) -> None:
    """Raise `ValueError` if the folder `out` holds `mark`, a file of another command whose results would be
    lost.
    """
    if (Path(out).expanduser() / mark).exists():
        raise ValueError(
            f"{str(out)!r} holds the results of {command} ({mark}), which would be overwritten; choose "
            "another --out"
        )


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Write a table as lines, its columns aligned."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip() for cells in table]


def warn(text: str) -> None:
    """Print one line on stderr."""
    typer.echo(f"warning: {text}", err=True)
