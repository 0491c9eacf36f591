"""Describe all that shapes a picture in one record.

The record names the file, is stored in it, and marks it as finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..models.checkpoint import Checkpoint
from ..outputs.files import slug
from ..outputs.record import versions
from ..settings.methods import as_dict
from .items import Item

# Packages whose versions move pixels; a later one makes its pictures beside the earlier ones.
_MOVING = ("diffusers_ext", "torch", "diffusers", "transformers")
# `model` is left out: the same weights under another name or path make the same picture.
_SHAPING = (
    *("prompt", "seed", "pipeline", "weights", "configs", "methods", "call", "dtype", "device"),
    *("versions", "fps"),
)


def shared(pipe: Any, model: Checkpoint, methods: Sequence[Any], call: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the pictures of one run have in common. Reads the model's files, large ones in part."""
    return {
        "model": model.name,
        "pipeline": type(pipe).__name__,
        **model.quick_marks,
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "device": pipe.device.type,
        "methods": [as_dict(m) for m in methods],
        "call": dict(call),
        "versions": versions(),
    }


def planned(
    model: Checkpoint,
    methods: Sequence[Mapping[str, Any]],
    call: Mapping[str, Any],
    dtype: str | None,
    device: str,
) -> dict[str, Any]:
    """Return what the pictures of a run will have in common, before its pipeline is loaded.

    `methods` are settings as JSON data, and `call` is what was asked. The pipeline's class follows from the
    configs, and without `dtype` the weights decide it.
    """
    return {
        "model": model.name,
        **model.quick_marks,
        "dtype": dtype,
        "device": device,
        "methods": list(methods),
        "call": dict(call),
        "versions": versions(),
    }


def of(item: Item, common: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of one picture, as JSON data."""
    record = {"prompt": item.prompt, **common, "seed": item.seed}
    return json.loads(json.dumps(record, default=str))


def shaping(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a record that distinguishes its picture from others."""
    found = {key: record[key] for key in _SHAPING if record.get(key) is not None}
    found["versions"] = {k: v for k, v in record.get("versions", {}).items() if k in _MOVING}
    return found


def mark(record: Mapping[str, Any]) -> str:
    """Return a checksum of all that shapes the picture, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(shaping(record), sort_keys=True).encode()).hexdigest()


def name(record: Mapping[str, Any]) -> str:
    """Return a file name without ending. All that shapes the picture goes into it."""
    return f"{slug(record['prompt'])}-{record['seed']}-{mark(record)[:8]}"


def finished(path: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the record beside the picture at `path` if the picture is complete and has the same `record`.

    Otherwise return `None`. The JSON file beside a picture is written last.
    """
    if not path.is_file():
        return None
    try:
        beside = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return beside if shaping(beside) == shaping(record) else None
    except (OSError, ValueError, AttributeError, TypeError):  # missing, cut short, or another kind of file
        return None
