"""Run `diffusers-ext show`: print how a picture was made, make it again, or copy it without that."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as opt

_TEXTS = dict.fromkeys(("prompt", "model", "pipeline", "dtype", "device"), str)
_KINDS = _TEXTS | {"call": dict, "methods": list, "versions": dict, "size": list, "fps": (int, float)}


def show(
    picture: Annotated[
        Path, typer.Argument(metavar="FILE", help="A picture or clip that was made here.", show_default=False)
    ],
    again: Annotated[
        bool, typer.Option("--again", help="Make it once more from its record, and compare the two files.")
    ] = False,
    strip: Annotated[
        bool, typer.Option("--strip", help="Write a copy without record, comments and EXIF.")
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="The file that --again or --strip writes, or a folder for it. By default it is beside, "
            "with -again or -stripped in its name.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="The model for --again, if it has another name or folder here, or must be fetched.",
        ),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Print how a picture was made, with all settings.

    The record is in the file itself, or in the JSON file beside it.
    """
    if again and strip:
        raise ValueError("--again and --strip do not go together, got both; run them one after the other")
    if json and (again or strip):
        raise ValueError("--json prints the record alone; leave out --again and --strip")
    if not (again or strip) and (out or model):
        raise ValueError(f"--{'out' if out else 'model'} needs --again or --strip; add one of them")
    if strip and model:
        raise ValueError("--model is for --again; leave it out")
    if strip:
        _strip(picture, _target(picture, out, "-stripped"))
        return
    record, embedded = _record(picture)
    _check(picture, record)
    if again:
        from .again import make

        make(picture, record, embedded, _target(picture, out, "-again"), model)
    elif json:
        from json import dumps

        typer.echo(dumps(record, indent=2))
    else:
        for line in opt.aligned(rows(record)):
            typer.echo(line)


def rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Put a record into rows of two cells: what, and its value on one line. The report is left out."""
    left = {key: value for key, value in record.items() if key != "report"}
    call = dict(left.pop("call", {}))
    found = [["prompt", left.pop("prompt", None)], ["negative prompt", call.pop("negative_prompt", None)]]
    found += [[key, left.pop(key, None)] for key in ("seed", "model", "pipeline")]
    found += [["size", " x ".join(map(str, left.pop("size", []))) or None], ["call", _pairs(call)]]
    for method in left.pop("methods", []):
        settings = {k: v for k, v in method.items() if k != "name"}
        found.append([str(method.get("name")), _pairs(settings) or "no settings"])
    found += [[key, left.pop(key, None)] for key in ("dtype", "device", "weights", "configs")]
    found.append(["versions", _pairs(left.pop("versions", {}))])
    found += [[key, _short(value)] for key, value in left.items() if value != []]
    return [[_printable(key), _printable(str(value))] for key, value in found if value not in (None, "")]


def _record(path: Path) -> tuple[dict[str, Any], bool]:
    """Return the record of a picture, and whether it is in the file itself."""
    from ..outputs.parameters import parse
    from ..outputs.record import sources

    record, block, embedded = sources(path)
    if record is not None:
        return record, embedded
    if block is None:
        raise ValueError(
            f"{str(path)!r} holds no record and has no JSON file beside it; it was made by another program, "
            "or its record was removed"
        )
    prompt, negative, facts = parse(block)
    return {"prompt": prompt, "call": {"negative_prompt": negative} if negative else {}, **facts}, True


def _check(path: Path, record: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a record that somebody has changed."""
    wrong = [key for key, kind in _KINDS.items() if key in record and not isinstance(record[key], kind)]
    methods = [] if wrong else record.get("methods", [])
    if not all(isinstance(method, dict) and isinstance(method.get("name"), str) for method in methods):
        wrong = ["methods"]
    if wrong:
        raise ValueError(f"the record of {str(path)!r} was changed: its {wrong[0]} cannot be read")


def _target(path: Path, out: str | None, mark: str) -> Path:
    """Return the file to write: `out`, or one of the same kind in the folder `out`, or one beside.

    Raises `ValueError` for the picture itself, which stays as it is.
    """
    from ..outputs.files import is_media, output_folder

    if out is None:
        return path.with_name(f"{path.stem}{mark}{path.suffix}")
    target = Path(out).expanduser()
    if not is_media(target):
        target = output_folder(out) / path.name
    elif target.suffix.lower() != path.suffix.lower():
        raise ValueError(f"--out has the ending of the picture, {path.suffix}, got {out!r}; change it")
    else:
        output_folder(target.parent)
    if path.exists() and target.exists() and target.samefile(path):
        raise ValueError(
            f"--again and --strip write a second file, and --out {out} is the picture itself; choose another"
        )
    return target


def _strip(path: Path, target: Path) -> None:
    from ..outputs import inside
    from ..outputs.files import write_bytes

    write_bytes(target, inside.without(path))
    beside = target.with_suffix(".json")
    still = f"; {beside.name} beside it still has the record" if beside.is_file() else ""
    typer.echo(f"{target}  holds the picture alone{still}")


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in values.items() if value is not None)


def _short(value: Any) -> str:
    from json import dumps

    return value if isinstance(value, str) else dumps(value, ensure_ascii=False)


def _printable(text: str) -> str:
    """Write characters that a terminal would act on as escapes; a picture may come from anywhere."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
