"""Run a search for a visitor: show it while it goes, keep the best picture, and write what was tried."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from ..sampling.budget import State
from ..sampling.call import arguments
from ..sampling.clip import Clip
from ..sampling.generate import applied, flags_of, to_image
from ..sampling.items import Item
from ..sampling.result import Candidate, Iterate, Result
from .engine import Place, known_settings
from .line import Control
from .pictures import FPS, suffix
from .search_asked import SearchAsked

EVERY = 0.25  # seconds between two looks at a search
EARLY = "cancelled before a picture was finished, so nothing is kept"


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane shows what became of a candidate until now.

    `evaluations` say how long it ran, and `score` is `None` until it is finished. `estimate` is the last
    score of its estimated picture, and `dropped` the step after which it ended.
    """

    name: str
    evaluations: int
    score: float | None
    estimate: float | None
    dropped: int | None
    correct: bool | None = None
    best: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """A look at a search while it goes: its share from 0 to 1, words on it, and what was found until now.

    `curve` has the evaluations and the best score at each change, `dots` those of each finished candidate.
    `picture` is the best one, `None` where it is that of the look before.
    """

    share: float
    words: str
    curve: Sequence[tuple[int, float]]
    dots: Sequence[tuple[int, float]]
    planned: int
    lanes: Sequence[Lane]
    picture: Any = None


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


@dataclass
class Watched:
    """Collect what a search reports, and show it to a job now and then.

    `planned` are its evaluations, `None` where the sampler itself says them best.
    """

    control: Control
    planned: int | None
    curve: list[tuple[int, float]] = field(default_factory=list)
    dots: list[tuple[int, float]] = field(default_factory=list)
    _tried: Sequence[Any] = ()
    _over: list[Lane] = field(default_factory=list)  # of the samplers that are over
    _before: int = 0  # their evaluations
    _last: int = 0
    _seen: set[int] = field(default_factory=set)
    _shown: float = 0.0
    _best: Any = None
    _began: float = field(default_factory=time.monotonic)

    def __call__(self, state: State) -> None:
        """Take a state of the search."""
        if state.tried is not self._tried:  # another sampler goes on
            self._over += lanes(self._tried)
            self._before += self._last
            self._tried, self._seen = state.tried, set()
        self._last = state.evaluations
        spent = self._before + state.evaluations
        self._finished(spent)
        best = max((score for score in state.best if score is not None), default=None)
        news = best is not None and (not self.curve or best > self.curve[-1][1])
        if news:
            self.curve.append((spent, best))
        now = time.monotonic()
        if news or now - self._shown > EVERY:
            self._shown = now
            self.control.show(self._look(state, spent))

    def _finished(self, spent: int) -> None:
        """Note the candidates that were finished since the last time."""
        for number, tried in enumerate(self._tried):
            if tried.score is not None and number not in self._seen:
                self._seen.add(number)
                if math.isfinite(tried.score):
                    self.dots.append((spent, tried.score))

    def _look(self, state: State, spent: int) -> Look:
        planned = max(self.planned or self._before + (state.planned or 0), spent, 1)
        share, seconds = min(spent / planned, 1.0), time.monotonic() - self._began
        words = f"{spent} of about {planned} evaluations"
        if state.steps > 1:
            words += f", step {state.step} of {state.steps}"
        if self.curve:
            words += f", best score {self.curve[-1][1]:.3f}"
        if 0.02 < share < 1:
            words += f", about {seconds / share * (1 - share):.0f} s left"
        picture = state.pictures[0] if state.pictures else None
        new = picture is not None and picture is not self._best
        self._best = picture
        shown = _pil(picture) if new else None
        known = [*self._over, *lanes(state.tried)]
        return Look(share, words, list(self.curve), list(self.dots), planned, known, shown)

    def last(self, result: Result, lanes: Sequence[Lane]) -> Look:
        """Return the look at a search that has ended."""
        best = float(result.scores[0])
        self._finished(result.cost)
        self.curve.append((result.cost, best))
        words = f"{result.cost} evaluations, best score {best:.3f}"
        return Look(1.0, words, self.curve, self.dots, result.cost, lanes)


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
        common = identity.shared(pipe, checkpoint, (), call) | {"methods": variant.settings()}
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


def lanes(
    tried: Sequence[Candidate | Iterate], judged: Sequence[Any] | None = None, best: int | None = None
) -> list[Lane]:
    """Return what became of each candidate, and of each iteration, in their order."""
    found = []
    for number, each in enumerate(list(tried)):
        verdict = None if judged is None or judged[number] is None else judged[number].correct
        if isinstance(each, Iterate):
            lane = Lane(f"iteration {each.iteration}", 1, each.score, None, None, verdict, number == best)
        else:
            estimates = dict(each.estimates)
            last = estimates[max(estimates)] if estimates else None
            name = f"candidate {each.place}"
            lane = Lane(name, each.evaluations, each.score, last, each.dropped, verdict, number == best)
        found.append(lane)
    return found


def _pil(picture: Any) -> Any:
    """Return a picture `[3, H, W]` from 0 to 1, or the middle frame of a video, as an image."""
    from PIL import Image

    from ..sampling.search import as_pixels

    return Image.fromarray(as_pixels(picture))
