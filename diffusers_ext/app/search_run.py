"""Run a search for a visitor: keep the best picture, and write what was tried."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MethodError
from ..evaluate.candidates import facts, fates, place, summary, verdicts
from ..evaluate.cells import Variant
from ..evaluate.report.candidates import sheet
from ..evaluate.score import judge
from ..outputs.files import write_json
from ..outputs.record import comment, write_image
from ..outputs.stop import Interrupted
from ..outputs.video import write_video
from ..sampling import identity
from ..sampling.call import arguments
from ..sampling.clip import Clip
from ..sampling.generate import applied, flags_of, to_image
from ..sampling.items import Item
from ..sampling.result import Result
from .asked import without_paths
from .engine import Place, known_settings
from .line import Control
from .pictures import FPS, suffix
from .search_asked import SearchAsked
from .search_watch import Look, Watched, lanes

EARLY = "cancelled before a picture was finished, so nothing is kept"


@dataclass(frozen=True, slots=True)
class Found:
    """The end of a search: the files, sentences on it, the last look, and the record in the picture.

    `clip` says that `path` is a video. `correct` is `None` where no program can check the picture.
    """

    path: Path
    sheet: Path
    data: Path
    look: Look
    words: Sequence[str]
    seed: int
    clip: bool
    correct: bool | None
    reason: str
    record: Mapping[str, Any]
    facts: Mapping[str, Any]


def search(control: Control, place_: Place, wanted: SearchAsked, folder: Path) -> Found:
    """Search, and write the picture with its record, the sheet of candidates and the data into a folder.

    A visitor who cancels keeps the best finished picture. Raises `ValueError` for what the model, a method or
    the sampler refuses, and `Interrupted` where nothing was finished before.
    """
    import torch

    picture = wanted.picture
    picture.check()
    with place_.pipeline(picture.model) as (checkpoint, pipe):
        key = tuple(wanted.rewards.items()), checkpoint.reward, wanted.needy
        scorers = place_.kept(key, lambda: wanted.scorers(checkpoint, str(pipe.device)))
        sampler = wanted.build(None if scorers is None else scorers.rewards)
        methods = picture.build(known_settings(checkpoint))
        variant = Variant(wanted.sampler, methods, sampler, () if scorers is None else scorers.facts)
        call = arguments(pipe, checkpoint.call, **picture.call)
        item = Item(picture.prompt, secrets.randbelow(2**31) if picture.seed is None else picture.seed)
        watched = Watched(control, wanted.budget if wanted.fills else None)
        with applied(pipe, methods) as session:
            try:
                result = sampler.sample(
                    pipe,
                    item.prompt,
                    generator=torch.Generator("cpu").manual_seed(item.seed),
                    output_type="np",
                    progress=watched,
                    stop=lambda: control.cancelled,
                    **call,
                )
            except MethodError:
                if control.cancelled:
                    raise Interrupted(EARLY) from None
                raise
            report = session.report().to_dict() if session is not None else None
            if report is not None:
                report |= {"methods": without_paths(report["methods"])}
        common = identity.shared(pipe, checkpoint, (), call)
        common |= {"methods": without_paths(variant.settings())}
        ending = suffix(pipe)
    if control.cancelled:
        common |= {"stopped": result.stopped}
    return _written(variant, item, common, result, report, watched, folder, ending)


def _written(
    variant: Variant,
    item: Item,
    common: Mapping[str, Any],
    result: Result,
    report: Mapping[str, Any] | None,
    watched: Watched,
    folder: Path,
    ending: str,
) -> Found:
    image, clip = to_image(result.images[0], item), ending != ".png"
    record = identity.of(item, dict(common) | ({"fps": FPS} if clip else {}))
    record |= {"size": list(image.size), "flags": list(flags_of(result.images[0]))}
    path = folder / f"{identity.name(record)}{ending}"
    if isinstance(image, Clip):
        write_video(path, image.frames, FPS, comment(record))
    else:
        write_image(path, image, record)
    judged = verdicts(result, item.prompt)
    all_facts = facts(result, judged)
    words = summary(variant.label, result, [dict(r) for r in variant.rewards])
    write_image(folder / "candidates.png", sheet(fates(result, judged), [item.prompt, *words]))
    data = {"picture": path.name, **record, "report": report, **all_facts}
    write_json(folder / "search.json", data)
    own = judge(image, item.prompt, item.seed)
    words = [f"kept {place(result)}", *words]
    if (seed := result.seeds[0]) is not None and variant.sampler.noise is None:
        words.append(f"the seed {seed} alone makes the same picture, without a search")
    if report and report.get("engagement"):
        words += report["engagement"].get("sentences", ())
    return Found(
        path,
        folder / "candidates.png",
        folder / "search.json",
        watched.last(result, lanes(result.history, judged, all_facts["winner"])),
        words,
        item.seed,
        clip,
        own.correct,
        own.reason,
        record,
        all_facts,
    )
