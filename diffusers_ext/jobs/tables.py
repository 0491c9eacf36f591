"""Define the tables of a job file. Every key is a field with a description, and no other key is taken."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..core import nearest_names
from ..settings.assign import settable
from ..settings.fields import check_bounds, fit, setting

Table = TypeVar("Table")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelTable:
    """Say what draws: the keys of `[model]`."""

    name: str = setting("shapes-sd", "", "a zoo name, a local folder or a Hub id")
    device: str | None = setting(None, "", "cpu, cuda or mps; by default cuda if there is a GPU")
    dtype: str | None = setting(None, "", "float32, bfloat16 or float16; by default that of the weights")
    threads: int | None = setting(None, "threads", "of the CPU", bounds=(1, None))
    preset: bool | None = setting(
        None, "", "require the settings that are known for the model, or leave them out"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptsTable:
    """Say what is drawn: the keys of `[prompts]`."""

    texts: Sequence[str] = setting((), "", "prompts")
    file: str | Sequence[str] = setting((), "", "a file of prompts, or several")
    format: str | None = setting(None, "", "the format of the file; by default its ending says it")
    column: str | None = setting(None, "", "the column of a table that holds the prompts")
    skip_bad: bool = setting(False, "", "leave out lines that cannot be read")
    override: bool = setting(
        False, "", "let [call] and the seeds that are given here go before those of the rows"
    )
    expand: bool = setting(
        False, "", "write out variants such as {red|blue} and wildcards such as __colour__"
    )
    wildcards: str | None = setting(None, "", "the folder of wildcards, one text file for each")
    wildcard_seed: int = setting(
        0, "", "the seed that variants and wildcards are drawn with", bounds=(0, None)
    )
    seeds: int | str | Sequence[int] = setting(
        (0,), "", "the seeds of each prompt that has none of its own: 7, [0, 1] or '0-9'"
    )
    limit: int | None = setting(None, "prompts", "that are taken at most", bounds=(1, None))


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputTable:
    """Say where files go: the keys of `[output]`."""

    folder: str | None = setting(None, "", "the folder; by default out/NAME beside the job file NAME.toml")
    layout: str | None = setting(None, "", "the tree of an evaluation, such as geneval")
    name: str | None = setting(None, "", "a template for the names of files, such as {index:05d}-{seed}")
    format: str | None = setting(
        None, "", "png, jpg, webp, mp4 or gif; by default png for pictures and mp4 for clips"
    )
    fps: float | None = setting(None, "frames/s", "of clips", bounds=(1, 240))
    embed: bool = setting(True, "", "write the settings into each file")


def read(cls: type[Table], data: Any, where: str) -> Table:
    """Build a table from TOML data; raises `ValueError` with `where`, for example "job.toml: [model]"."""
    if not isinstance(data, Mapping):
        raise ValueError(
            f"{where} must be a table of keys, got {data!r}; write {where.split()[-1]} above them"
        )
    hints, values = typing.get_type_hints(cls), {}
    for key, value in data.items():
        if key not in settable(cls):
            raise ValueError(unknown(key, settable(cls), where))
        values[key] = fit(value, hints[key], f"{where} {key}")
    table = cls(**values)
    try:
        check_bounds(table)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return table


def unknown(key: str, known: typing.Iterable[str], where: str, what: str = "key") -> str:
    """Write the sentence for a key that a table does not have."""
    known = list(known)
    (best,) = nearest_names(key, known, count=1)
    return f"{where} has no {what} {key!r}; nearest is {best!r}, valid are {', '.join(known)}"
