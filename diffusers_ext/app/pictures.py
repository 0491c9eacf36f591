"""Make one picture or clip that a visitor asks for, with its record inside and all that is known of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UnsupportedError
from ..evaluate.score import judge
from ..families import family_of
from ..families.denoisers import denoisers
from ..models.prompts import misread
from ..outputs.record import comment, write_image
from ..outputs.video import SUFFIXES, write_video
from ..sampling import identity
from ..sampling.call import arguments, makes_videos
from ..sampling.clip import Clip
from ..sampling.gate import Gate
from ..sampling.generate import applied, generate
from ..sampling.items import Item
from .asked import Asked, without_paths
from .engine import Control, Place, Refused, known_settings
from .watch import Watch

FPS = 8.0


@dataclass(frozen=True, slots=True)
class Made:
    """A picture, where it is, and what is known of it.

    `correct` is `None` where no program can check the picture. `evaluations` counts rows of the denoiser, as
    a search does; it is `None` for classes that are not known. `report` has a sentence for each method.
    """

    path: Path
    seed: int
    seconds: float
    correct: bool | None
    reason: str
    record: Mapping[str, Any]
    report: Sequence[str] = ()
    engagement: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()
    evaluations: int | None = None


def make(
    control: Control,
    place: Place,
    asked: Asked,
    folder: Path,
    *,
    label: str = "",
    previews: int = 0,
    total: int = 1,
    before: tuple[int, float] = (0, 0.0),
) -> Made:
    """Make what is asked for, and write it into a folder; `previews` is the number of steps between two.

    `total` is the number of pictures of the job, and `before` that of those that are finished, with their
    seconds. Raises `ValueError` for what the model or a method refuses, and for NaN and black pictures.
    """
    asked.check()
    with place.pipeline(asked.model) as (checkpoint, pipe):
        methods = asked.build(known_settings(checkpoint))
        call = arguments(pipe, checkpoint.call, **asked.call)
        item = Item(asked.prompt, secrets.randbelow(2**31) if asked.seed is None else asked.seed)
        watch = Watch(control, total, call, label, previews, before)
        with applied(pipe, methods) as session, ExitStack() as stack:
            gate = stack.enter_context(Gate(1).on(pipe)) if _known(pipe) else None
            pictures = [p for batch in generate(pipe, [item], call, 1, watch) for p in batch]
            report = session.report().to_dict() if session is not None else {}
        if watch.failures:
            raise Refused(watch.failures[0].reason)
        (picture,) = pictures
        control.check()
        clip = isinstance(picture.image, Clip)
        record = identity.of(item, identity.shared(pipe, checkpoint, methods, call))
        record |= {"size": list(picture.image.size), "flags": list(picture.flags)}
        record |= {"methods": without_paths(record["methods"])}
        record |= {"fps": FPS} if clip else {}
        path = folder / f"{identity.name(record)}{suffix(pipe)}"
        if clip:
            write_video(path, picture.image.frames, FPS, comment(record))
        else:
            write_image(path, picture.image, record)
        judged = judge(picture.image, item.prompt, item.seed)
        engagement = report.get("engagement")
        notes = misread(checkpoint, pipe, [asked.prompt], call)
        notes += [f"the picture looks wrong: {flag}" for flag in picture.flags]
    return Made(
        path,
        item.seed,
        picture.seconds,
        judged.correct,
        judged.reason,
        record,
        tuple(engagement["sentences"]) if engagement else (),
        engagement,
        tuple(notes),
        None if gate is None else gate.evaluations,
    )


def suffix(pipe: Any) -> str:
    """Return the ending of what a pipeline makes; gif where ffmpeg is missing."""
    if not makes_videos(pipe):
        return ".png"
    try:
        from ..outputs.video import check

        check(SUFFIXES[0], FPS)
    except ValueError:
        return SUFFIXES[1]
    return SUFFIXES[0]


def _known(pipe: Any) -> bool:
    try:
        return all(family_of(model) for model in denoisers(pipe).values())
    except UnsupportedError:
        return False
