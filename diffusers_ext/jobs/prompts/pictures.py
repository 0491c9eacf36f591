"""Read prompts from pictures: those that this package wrote, and those with the block of AUTOMATIC1111."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...outputs.parameters import parse
from ...outputs.record import PICTURES, sources
from .entries import ARGUMENTS, Bad, Entry, entry

# What the block calls the settings that are known here. It may have any others.
_NAMES = {"Steps": "steps", "CFG scale": "cfg", "Seed": "seed", "Size": "size"}


def pictures(path: Path) -> Iterator[Entry]:
    """Yield a row for a picture, or for each picture of a folder, in the order of their names.

    A row has prompt, negative prompt, seed, steps, scale and size. `meta["picture"]` is the name of the file.
    """
    files = [path] if path.is_file() else sorted(f for f in path.iterdir() if f.suffix.lower() in PICTURES)
    for index, file in enumerate(files):
        try:
            values = _values(file)
        except (ValueError, OSError) as error:
            yield Bad(f"picture {file.name}", f"cannot be used: {error}")
        else:
            yield entry(index, values | {"meta": {"picture": file.name}}, f"picture {file.name}")


def _values(file: Path) -> dict[str, Any]:
    record, block, embedded = sources(file)
    if record is not None:  # a file beside, which a user wrote, may have a prompt alone
        return _of_record(record if embedded else {"call": {}} | record)
    if block is None:
        raise ValueError("it has no settings inside and no JSON file beside it; they may have been removed")
    prompt, negative, facts = parse(block)
    found = {ours: _number(facts[theirs]) for theirs, ours in _NAMES.items() if theirs in facts}
    return {"prompt": prompt} | found | ({"negative": negative} if negative else {})


def _of_record(record: dict[str, Any]) -> dict[str, Any]:
    call, size = record.get("call"), record.get("size")
    if not isinstance(call, dict):
        raise ValueError("its record has no call; it was changed")
    found = {key: record[key] for key in ("prompt", "seed") if key in record}
    if isinstance(size, list) and len(size) == 2:
        found |= {"width": size[0], "height": size[1]}
    return found | {key: value for key, value in call.items() if key in ARGUMENTS}


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
