"""Find out what a job needs to know of its models before their weights are loaded."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models.checkpoint import Checkpoint
from ..outputs.record import PICTURES
from ..outputs.target import FPS
from ..outputs.video import SUFFIXES, check
from ..sampling.call import SINGLE
from ..sampling.search_arguments import OWN
from ..zoo import cards, catalogue
from . import tables


def find(name: str, home: Path) -> Checkpoint:
    """Resolve the name of a model; a path is relative to the folder `home` of the job file."""
    folder = home / Path(name).expanduser()
    if name not in catalogue.MODELS and folder.is_dir():
        name = str(folder)
    return Checkpoint.resolve(name)


def device(asked: str | None) -> str:
    """Return the kind of device that pictures are made on: what was asked, else cuda if there is a GPU."""
    if asked is None:
        import torch

        asked = "cuda" if torch.cuda.is_available() else "cpu"
    return asked.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Kind:
    """The kind of files that a model makes: their ending, and the frames per second of clips."""

    suffix: str
    fps: float | None = None


def kind(model: Checkpoint, output: tables.OutputTable, call: Mapping[str, Any], path: Path) -> Kind:
    """Settle the kind of files, and check the names of arguments; `path` is the job file.

    Raises `ValueError` for an argument that the pipeline does not take, and for a format that does not suit
    what it makes.
    """
    takes = _parameters(model)
    for key in call:
        if takes and key not in takes:
            raise ValueError(tables.unknown(key, takes, f"{path}: [call]", "argument"))
    video = "num_frames" in takes
    suffixes = SUFFIXES if video else tuple(PICTURES)
    suffix = suffixes[0] if output.format is None else f".{output.format.lower().lstrip('.')}"
    if suffix not in suffixes:
        raise ValueError(
            f"{path}: {model.name} makes {'clips' if video else 'pictures'}, which [output] format writes as "
            f"{', '.join(s[1:] for s in suffixes)}, got {output.format!r}; change it or leave it out"
        )
    if not video and output.fps is not None:
        raise ValueError(f"{path}: {model.name} makes pictures, which have no [output] fps; leave it out")
    if not video:
        return Kind(suffix)
    fps = FPS if output.fps is None else output.fps
    check(suffix, fps)
    return Kind(suffix, fps)


def _parameters(model: Checkpoint) -> tuple[str, ...]:
    """Return the arguments that a job may set; none for a class that diffusers does not have.

    Those that belong to a single picture are left out.
    """
    import diffusers

    name = json.loads((model.home / cards.INDEX).read_text(encoding="utf-8")).get("_class_name")
    found = getattr(diffusers, str(name), None)
    if found is None:
        return ()
    named = inspect.signature(found.__call__).parameters.values()
    own = ("self", *SINGLE, *OWN)
    return tuple(
        p.name
        for p in named
        if p.name not in own and "callback" not in p.name and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    )
