"""Draw the pictures of attention heads for a visitor, and keep them as files."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..errors import MethodError
from ..evaluate.score import Judged, judge
from ..explore import head_pictures, making
from ..explore.layers import sites_of, usable
from ..outputs.record import write_image
from ..processors.softpag import SoftPAG
from ..sampling import identity
from ..sampling.call import arguments
from ..sampling.clip import still
from ..sampling.items import Item
from ..settings.methods import as_dict
from .asked import Asked
from .engine import Control, Place
from .watch import Watch

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..models.checkpoint import Checkpoint
    from ..sampling.clip import Clip

MOST = 64  # heads in a sheet
BATCH = 4  # pictures at a time: a job that is cancelled ends within a step of a batch
MODELS = 32  # whose layers are remembered


@dataclass(frozen=True, slots=True)
class Drawn:
    """The picture of one head as a file; `None` with the reason if it could not be made."""

    layer: str
    head: int
    path: Path | None
    change: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Sheet:
    """The pictures of some heads and the plain one, with all that they have in common."""

    folder: Path
    asked: Asked
    scale: float
    strength: float
    plain: Path
    verdict: str
    heads: tuple[Drawn, ...]

    def ordered(self, by_change: bool) -> list[Drawn]:
        """Return the heads in the order of the model, or those with the largest change first."""
        heads = list(self.heads)
        return sorted(heads, key=lambda each: -(each.change or 0.0)) if by_change else heads

    def named(self, labels: Sequence[str]) -> list[Drawn]:
        """Return the heads that labels name. Raises `MethodError` for others."""
        known = {label(head): head for head in self.heads}
        if unknown := [name for name in labels if name not in known]:
            raise MethodError(f"the sheet has no {unknown[0][:80]!r}; choose one of the list.")
        return [known[name] for name in labels]


def label(head: Drawn) -> str:
    """Return the name of a head in lists."""
    return f"head {head.head} of {head.layer}"


def numbers(heads: Sequence[Drawn]) -> dict[str, list[int]]:
    """Return the numbers of heads by the path of their module, as `SoftPAG` takes them."""
    found: dict[str, list[int]] = {}
    for head in heads:
        found.setdefault(head.layer, []).append(head.head)
    return found


@dataclass
class Layers:
    """The modules of models whose heads can be perturbed; each model is looked at once."""

    _known: OrderedDict[str, dict[str, int]] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def known(self, model: str) -> dict[str, int] | None:
        """Return the number of heads by the path of the module, `None` for a model that was not looked at."""
        with self._lock:
            return self._known.get(model)

    def find(self, place: Place, model: str) -> dict[str, int]:
        """Load a model and return its modules. Raises `UnsupportedError` if there are none."""
        with place.pipeline(model) as (_, pipe):
            sites = usable(sites_of(pipe), ("self", "joint"), "a picture of a head", pipe)
        found = {site.path: site.heads for site in sites}
        with self._lock:
            self._known[model] = found
            while len(self._known) > MODELS:
                self._known.popitem(last=False)
        return found


def draw_sheet(
    control: Control,
    place: Place,
    asked: Asked,
    layers: Sequence[str],
    scale: float,
    strength: float,
    folder: Path,
) -> Sheet:
    """Draw the plain picture, and one for each head of some layers, or of all if none are named.

    Raises `ValueError` for what cannot be made, and for more heads than `MOST`.
    """
    asked.check()
    asked = asked if asked.seed is not None else asked.with_seed(secrets.randbelow(2**31))
    with place.pipeline(asked.model) as (checkpoint, pipe):
        chosen = head_pictures.plan(pipe, list(layers) or None, scale=scale, strength=strength, most=1 << 30)
        if len(chosen) > MOST:
            raise MethodError(
                f"{len(chosen)} heads are too many to draw at a time, and the most is {MOST}; choose fewer "
                "layers."
            )
        call = arguments(pipe, checkpoint.call, **asked.call)
        sheet = head_pictures.heads(
            pipe,
            asked.prompt,
            seed=asked.seed,
            layers=list(layers) or None,
            scale=scale,
            strength=strength,
            micro_batch=BATCH,
            progress=Watch(control, len(chosen) + 1, call, f"{len(chosen)} heads"),
            **call,
        )
        common = _common(place, checkpoint, pipe, call)
    control.check()
    plain = _write(folder / "plain.png", sheet.plain, _record(asked, common))
    drawn = []
    for number, each in enumerate(sheet.pictures):
        path = None
        if each.image is not None:
            method = SoftPAG(heads={each.layer: [each.head]}, scale=scale, strength=strength)
            path = _write(folder / f"head-{number:03}.png", each.image, _record(asked, common, method))
        words = each.reason if each.verdict is None else _words(each.verdict)
        drawn.append(Drawn(each.layer, each.head, path, each.change, words))
    return Sheet(folder, asked, scale, strength, plain, _words(sheet.verdict), tuple(drawn))


def perturb(
    control: Control, place: Place, sheet: Sheet, heads: dict[str, list[int]], scale: float, strength: float
) -> Drawn:
    """Draw the picture of a sheet again, with all of some heads perturbed together.

    Raises `ValueError` for what cannot be made.
    """
    asked = sheet.asked
    with place.pipeline(asked.model) as (checkpoint, pipe):
        method = SoftPAG(heads=heads, scale=scale, strength=strength)
        call = arguments(pipe, checkpoint.call, **asked.call)
        watch = Watch(control, 1, call, "perturbed")
        watch.begin(1)
        (image,) = making.make(pipe, [asked.prompt], [asked.seed], call | watch.hooks(pipe), (method,))
        common = _common(place, checkpoint, pipe, call)
    control.check()
    record = _record(asked, common, method)
    path = _write(sheet.folder / f"perturbed-{secrets.token_hex(4)}.png", image, record)
    return Drawn("", -1, path, None, _words(judge(image, asked.prompt, asked.seed)))


def _common(place: Place, checkpoint: Checkpoint, pipe: Any, call: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the records of all pictures of a job have; no path of the operator is in it."""
    return identity.shared(pipe, checkpoint, (), call)


def _record(asked: Asked, common: Mapping[str, Any], *methods: SoftPAG) -> dict[str, Any]:
    more = {"methods": [as_dict(method) for method in methods]}
    return identity.of(Item(asked.prompt, asked.seed), {**common, **more})


def _write(path: Path, image: Image | Clip, record: dict[str, Any]) -> Path:
    write_image(path, still(image), record)
    return path


def _words(verdict: Judged) -> str:
    return {True: "right", False: f"wrong: {verdict.reason}", None: ""}[verdict.correct]
