"""Measure whether a negative prompt removes an object that the model would draw, with NAG and without.

    python -m bench.studies.nag --model shapes-sd-turbo --n 300

A prompt asks for two objects, and the negative prompt names one of them. `gone` counts pictures without it,
`kept` those with the other one, `done` those with both facts, and `strange` those with anything else in them.
As a control the negative prompt names an object that is not asked for, and pictures are checked as usual. The
rival is the negative prompt of the pipeline's own classifier-free guidance. Settings of both are chosen by
`done` on the tuning suite. All figures of the tables are of held-out prompts with the same noise.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

import diffusers_ext as dx
from diffusers_ext.evaluate.statistics import accuracy, paired
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.evaluate.words import change, percent
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.outputs.files import output_folder, write_json
from diffusers_ext.outputs.record import versions
from diffusers_ext.zoo.world.captions import OBJECTS, Object, Spec, parse
from diffusers_ext.zoo.world.detect import detect, verify

from ..pages.markdown import markdown
from ..runner import suite_parser

TASK = "two_object"
PLAIN, RIVAL, NAG = "no negative prompt", "classifier-free guidance", "NAG"
GENTLE = "NAG, default settings"
MEASURES = "gone", "kept", "done", "strange"
GRID = [{"scale": s, "tau": 2.5, "alpha": a} for a, s in product((0.25, 0.5, 1.0), (3.0, 5.0, 9.0, 13.0))]
SCALES = 1.5, 2.0, 3.0, 5.0  # of the rival, for a model that is drawn without guidance


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt for two objects; the negative prompt names one of them, or in the control a third."""

    spec: Spec
    seed: int
    named: Object
    other: Object
    third: Object


def asks(split: str, n: int, seed: int) -> list[Ask]:
    """Return `n` asks; the named object is the first and the second of the prompt in turn."""
    found = []
    for i, question in enumerate(questions(split, n, seed, (TASK,))):
        spec = parse(question.item.prompt)
        named, other = spec.objects if i % 2 else spec.objects[::-1]
        colours, shapes = ({getattr(o, part) for o in spec.objects} for part in ("colour", "shape"))
        free = [o for o in OBJECTS if o.colour not in colours and o.shape not in shapes]
        third = free[int(np.random.default_rng((seed, i)).integers(len(free)))]
        found.append(Ask(spec, question.item.seed, named, other, third))
    return found


class Drawer:
    """Draw asks with one model, `batch` pictures at a time."""

    def __init__(self, model: str, batch: int):
        self.checkpoint = Checkpoint.resolve(model)
        self.pipe, self.batch = self.checkpoint.load(), batch
        self.pipe.set_progress_bar_config(disable=True)

    def pictures(self, asked: Sequence[Ask], **more: Any) -> list[np.ndarray]:
        """Return pictures [H, W, 3] from 0 to 1; a list in `more` has an entry for each ask."""
        made: list[np.ndarray] = []
        for first in range(0, len(asked), self.batch):
            part = slice(first, first + self.batch)
            generators = [torch.Generator().manual_seed(a.seed) for a in asked[part]]
            own = {name: x[part] if isinstance(x, list) else x for name, x in more.items()}
            call = {**self.checkpoint.call, "generator": generators, "output_type": "np", **own}
            made += list(self.pipe([a.spec.caption for a in asked[part]], **call).images)
        return made

    def under_nag(
        self, asked: Sequence[Ask], negative: Callable[[Ask], Object], settings: Mapping[str, float]
    ) -> list[np.ndarray]:
        """Return pictures under NAG: those with the same negative prompt are drawn together."""
        made: dict[Ask, np.ndarray] = {}
        for text in dict.fromkeys(str(negative(a)) for a in asked):
            part = [a for a in asked if str(negative(a)) == text]
            with dx.apply(self.pipe, dx.NAG(text, **settings)):
                made |= zip(part, self.pictures(part), strict=True)
        return [made[a] for a in asked]

    def rival(
        self, asked: Sequence[Ask], negative: Callable[[Ask], Object], scale: float
    ) -> list[np.ndarray]:
        """Return pictures with the pipeline's own negative prompt."""
        return self.pictures(asked, negative_prompt=[str(negative(a)) for a in asked], guidance_scale=scale)


def seen(asked: Sequence[Ask], pictures: Sequence[np.ndarray]) -> dict[str, list[bool]]:
    """Return each measure for each picture."""
    found: dict[str, list[bool]] = {name: [] for name in MEASURES}
    for ask, picture in zip(asked, pictures, strict=True):
        objects = {f.object for f in detect(picture)}
        gone, kept = ask.named not in objects, ask.other in objects
        strange = bool(objects - {ask.named, ask.other})
        for name, value in zip(MEASURES, (gone, kept, gone and kept, strange), strict=True):
            found[name].append(value)
    return found


def shares(found: Mapping[str, Sequence[bool]]) -> dict[str, Any]:
    """Return the share of each measure with its interval."""
    return {name: asdict(accuracy(values)) for name, values in found.items()}


def chosen(tried: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the try with the most pictures done, the first one of equals."""
    return max(tried, key=lambda t: t["shares"]["done"]["accuracy"])


def tuned(drawer: Drawer, asked: Sequence[Ask]) -> dict[str, list[dict[str, Any]]]:
    """Try the settings of NAG and of its rival."""
    own = drawer.checkpoint.call["guidance_scale"]
    scales = (own,) if own > 1 else SCALES
    named = _named
    return {
        NAG: [
            {"settings": s, "shares": shares(seen(asked, drawer.under_nag(asked, named, s)))} for s in GRID
        ],
        RIVAL: [
            {"settings": {"guidance_scale": g}, "shares": shares(seen(asked, drawer.rival(asked, named, g)))}
            for g in scales
        ],
    }


def timed(drawer: Drawer, settings: Mapping[str, float], scale: float, rounds: int = 7) -> dict[str, float]:
    """Return seconds a picture (median), drawn in turn so that ratios survive a busy machine."""
    some = asks("tuning", drawer.batch, 0)
    nag, texts = dx.NAG(str(some[0].named), **settings), [str(a.named) for a in some]
    ways: dict[str, tuple[Any, dict[str, Any]]] = {
        PLAIN: (None, {}),
        RIVAL: (None, {"negative_prompt": texts, "guidance_scale": scale}),
        NAG: (nag, {}),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (method, more) in ways.items():
            with nullcontext() if method is None else dx.apply(drawer.pipe, method):
                began = time.perf_counter()
                drawer.pictures(some, **more)
                seconds[name].append((time.perf_counter() - began) / len(some))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _named(ask: Ask) -> Object:
    return ask.named


def _third(ask: Ask) -> Object:
    return ask.third


def measure(drawer: Drawer, asked: Sequence[Ask], tried: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the chosen settings on held-out prompts, and the control."""
    settings = {name: chosen(tries)["settings"] for name, tries in tried.items()}
    scale = settings[RIVAL]["guidance_scale"]
    plain = drawer.pictures(asked)
    ways = {
        RIVAL: lambda negative: drawer.rival(asked, negative, scale),
        GENTLE: lambda negative: drawer.under_nag(asked, negative, {}),
        NAG: lambda negative: drawer.under_nag(asked, negative, settings[NAG]),
    }
    found = {PLAIN: seen(asked, plain)} | {name: seen(asked, draw(_named)) for name, draw in ways.items()}
    control = {PLAIN: plain} | {name: draw(_third) for name, draw in ways.items()}
    right = {
        name: [verify(picture, a.spec).correct for a, picture in zip(asked, made, strict=True)]
        for name, made in control.items()
    }
    pairs = [(PLAIN, NAG), (RIVAL, NAG), (PLAIN, GENTLE)]
    return {
        "settings": settings,
        "shares": {name: shares(values) for name, values in found.items()},
        "control": {name: asdict(accuracy(values)) for name, values in right.items()},
        "paired": {
            f"{b} - {a}": {
                **{name: asdict(paired(found[a][name], found[b][name])) for name in MEASURES},
                "control": asdict(paired(right[a], right[b])),
            }
            for a, b in pairs
        },
        "seconds": timed(drawer, settings[NAG], scale),
    }


def to_markdown(found: Mapping[str, Any], cost: bool = True) -> str:
    """Return the table of shares, the differences, and how it was made, for a page; `cost` adds seconds."""
    heads = ["", *MEASURES, "right in the control", *(["a picture"] if cost else [])]
    rows = []
    for name, values in found["shares"].items():
        seconds = found["seconds"].get(name, found["seconds"][NAG])
        each = [*(percent(values[m]) for m in MEASURES), percent(found["control"][name])]
        rows.append([name, *each, *([f"{1000 * seconds:.0f} ms"] if cost else [])])
    lines = [
        f"- {name}: {', '.join(f'{m} {change(p)}' for m, p in values.items())} points"
        for name, values in found["paired"].items()
    ]
    nag, rival = (found["settings"][name] for name in (NAG, RIVAL))
    made = (
        f"{found['model']}, {found['n']} held-out prompts for two objects. NAG: scale {nag['scale']:g}, tau "
        f"{nag['tau']:g}, alpha {nag['alpha']:g}; guidance scale of the rival: {rival['guidance_scale']:g}. "
        f"Both were chosen on {found['tuning']} prompts of tuning."
    )
    return "\n".join([markdown(heads, rows), "", *lines, "", made])


def main() -> None:
    parser = suite_parser(__doc__, n=300, batch=20)
    parser.add_argument("--model", default="shapes-sd-turbo")
    parser.add_argument("--tuning", type=int, default=100, help="prompts that settings are chosen on")
    args = parser.parse_args()
    drawer, out = Drawer(args.model, args.batch), output_folder(args.out)
    tried = tuned(drawer, asks("tuning", args.tuning, args.seed))
    found = {
        "model": args.model,
        "n": args.n,
        "tuning": args.tuning,
        "seed": args.seed,
        "weights": drawer.checkpoint.fingerprint,
        "call": drawer.checkpoint.call,
        **measure(drawer, asks("held-out", args.n, args.seed), tried),
        "tried": tried,
        "device": str(drawer.pipe.device),
        "versions": versions(),
    }
    print(to_markdown(found))
    write_json(out / f"nag-{args.model}.json", found)


if __name__ == "__main__":
    main()
