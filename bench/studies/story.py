"""Measure whether subjects of a story look like their references, and whether scenes stay right.

    python -m bench.studies.story --n 24

A story has two subjects and two scenes, of both subjects alone and with a third object. The detector finds
subjects, and measures them. `right` counts scenes with the objects that were asked for and no others. Of each
subject that is found it gives `colour`, the mean distance to the reference in RGB from 0 to 1, and `size`,
the logarithm of the ratio of areas, without its sign. `place` is the overlap with the subject of the plain
scene. Settings are compared on the tuning suite, and all figures of the table are of held-out prompts, where
all variants draw a scene from the same noise. The plain scene is the first of up to three rehearsals that
shows both subjects, so the share of right scenes favours it. Stories without references are left out, and
counted. Results are kept story by story in the folder `--cache`, so an
interrupted run goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

import diffusers_ext as dx
from diffusers_ext.errors import MethodError
from diffusers_ext.evaluate.statistics import accuracy, mean, paired
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.evaluate.words import difference, percent
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.outputs.files import output_folder, subfolder, write_json
from diffusers_ext.outputs.record import versions
from diffusers_ext.pipelines.story import Segmenter, StoryPipeline
from diffusers_ext.pipelines.story_panel import Panel
from diffusers_ext.settings.methods import as_dict
from diffusers_ext.zoo.world.captions import OBJECTS, Object, Spec, parse
from diffusers_ext.zoo.world.detect import find, verify

from ..pages.markdown import markdown
from ..runner import suite_parser

MODEL, TASK = "shapes-sd", "two_object"
PLAIN, OURS = "plain", "IR-Diffusion"
APART = 500  # from the noise of a scene to that of the next one
MEASURES = "colour", "size", "place"
TRIED = {f"start {start:g}": {"start": start, "cross_lambda": 0.9} for start in (0.0, 0.4, 0.6, 0.8)}
# What is left out of the chosen settings.
WITHOUT = {
    "without isolation": {"isolation": False},
    "without reposition": {"reposition": "none"},
    "shared attention": {"isolation": False, "reposition": "none", "cross_lambda": 0.0},
}


@dataclass(frozen=True, slots=True)
class Ask:
    """A story: two subjects, a third object of one scene, and the seed of the first noise."""

    subjects: tuple[Object, Object]
    third: Object
    seed: int

    @property
    def scenes(self) -> tuple[Spec, Spec]:
        """The objects of both scenes."""
        first, second = self.subjects
        return Spec((first, second)), Spec((second, self.third, first))


def asks(split: str, n: int, seed: int) -> list[Ask]:
    """Return `n` stories; the third object shares neither colour nor shape with the subjects."""
    found = []
    for i, question in enumerate(questions(split, n, seed, (TASK,))):
        subjects = parse(question.item.prompt).objects
        colours, shapes = ({getattr(o, part) for o in subjects} for part in ("colour", "shape"))
        free = [o for o in OBJECTS if o.colour not in colours and o.shape not in shapes]
        third = free[int(np.random.default_rng((seed, i)).integers(len(free)))]
        found.append(Ask(subjects, third, question.item.seed))
    return found


class Drawer:
    """Draw stories with one model: references and rehearsals once, scenes for each variant."""

    def __init__(self, pipe: Any, segmenter: Segmenter = find, **call: Any) -> None:
        # References are kept for all layers and from the first step on, which serves every variant.
        self.story = StoryPipeline(pipe, dx.IRDiffusion(start=0.0, start_layer=0.0), segmenter=segmenter)
        self.call = call

    def measured(self, ask: Ask, variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
        """Return what the detector finds in each scene of each variant; `None` without references."""
        story, names = self.story, {f"s{i}": str(o) for i, o in enumerate(ask.subjects)}
        try:
            references, calls = story.draw_references(names, ask.seed, self.call)
        except MethodError:
            return None
        bank = story.keep(references, calls, self.call)
        found: dict[str, Any] = {label: [] for label in (PLAIN, *variants)}
        for number, spec in enumerate(ask.scenes):
            scene = dx.StoryScene(spec.caption, {n: t.partition(" ")[2] for n, t in names.items()})
            panel = story.rehearse(scene, ask.seed + APART * number, names, self.call)
            found[PLAIN].append(seen(spec, panel, panel.plain, references))
            held = [name for name in names if name not in panel.missing]
            for label, settings in variants.items():
                drawer = StoryPipeline(story.pipe, dx.IRDiffusion(**settings), segmenter=story.segmenter)
                image = drawer.draw(panel, held, references, bank, self.call) if held else panel.plain
                found[label].append(seen(spec, panel, image, references))
        return found


def seen(spec: Spec, panel: Panel, image: Any, references: Mapping[str, Panel]) -> dict[str, Any]:
    """Return whether a scene is right, and the measures of each subject, in the order of `references`."""
    pixels, plain = np.asarray(image) / 255, np.asarray(panel.plain) / 255
    facts: dict[str, Any] = {"right": verify(pixels, Spec(spec.objects)).correct, "subjects": []}
    for reference in references.values():
        model = np.asarray(reference.image) / 255
        mask, usual, before = (find(x, reference.prompt) for x in (pixels, model, plain))
        if mask is None or usual is None:
            facts["subjects"].append(None)
            continue
        place = None if before is None else float((mask & before).sum() / (mask | before).sum())
        facts["subjects"].append(
            {
                "colour": float(np.abs(tone(pixels, mask) - tone(model, usual)).mean()),
                "size": float(abs(np.log(mask.sum() / usual.sum()))),
                "place": place,
            }
        )
    return facts


def tone(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the mean colour [3] of an object without its edge."""
    inside = ndimage.binary_erosion(mask, iterations=2)
    return pixels[inside if inside.any() else mask].mean(0)


def summary(stories: Sequence[Mapping[str, Any]], label: str) -> dict[str, Any]:
    """Return the share of right scenes, and the mean of each measure over subjects that are there in both.

    Both are the plain scene and that of the variant. Intervals are over stories.
    """
    found: dict[str, Any] = {"right": asdict(accuracy([s["right"] for x in stories for s in x[label]]))}
    for name in MEASURES:
        values, changes, groups = [], [], []
        for number, story in enumerate(stories):
            for ours, plain in pairs(story, label):
                if ours[name] is not None and plain[name] is not None:
                    values.append(ours[name])
                    changes.append(ours[name] - plain[name])
                    groups.append(number)
        found[name] = mean(values, groups)
        found[f"{name} less plain"] = mean(changes, groups)
    return found


def pairs(story: Mapping[str, Any], label: str) -> list[tuple[Any, Any]]:
    """Return the measures of subjects in a variant and in the plain scenes, where both have them."""
    both = []
    for ours, plain in zip(story[label], story[PLAIN], strict=True):
        both += zip(ours["subjects"], plain["subjects"], strict=True)
    return [(a, b) for a, b in both if a is not None and b is not None]


def chosen(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the setting with the smallest distance in colour among those with as many right scenes as plain.

    If there is none, it is the one with the most.
    """
    right = {label: facts["right"]["accuracy"] for label, facts in found.items()}
    labels = [label for label in found if label != PLAIN]
    fair = [label for label in labels if right[label] >= right[PLAIN]]
    if not fair:
        return max(labels, key=right.__getitem__)
    return min(fair, key=lambda label: found[label]["colour"]["mean"])


def to_markdown(found: Mapping[str, Any]) -> str:
    """Return the tables of a page: held-out stories, and those of tuning."""
    lines = [f"- {label} - {PLAIN}: right {difference(p)}" for label, p in found["paired"].items()]
    made = (
        f"{found['model']}, {found['stories']} held-out stories of two scenes, paired by noise; settings "
        f"were chosen on {found['tuning_stories']} stories of tuning."
    )
    if dropped := found.get("dropped"):
        made += (
            f" References of {dropped['stories']} further stories, and {dropped['tuning_stories']} of "
            "tuning, were not found."
        )
    heads = ["scenes right", "colour", "colour, less plain", "size", "place"]
    return "\n".join(
        [
            markdown(["", *heads], [_row(n, f) for n, f in found["variants"].items()]),
            "",
            *lines,
            "",
            markdown(["tuning", *heads], [_row(n, f) for n, f in found["tried"].items()]),
            "",
            made,
        ]
    )


def _row(label: str, facts: Mapping[str, Any]) -> list[str]:
    less = facts["colour less plain"]
    change = "" if label == PLAIN else f"{less['mean']:+.4f} ({less['low']:+.4f} to {less['high']:+.4f})"
    numbers = [
        f"{facts[name]['mean']:.{digits}f}" for name, digits in (("colour", 4), ("size", 2), ("place", 2))
    ]
    return [label, percent(facts["right"]), numbers[0], change, *numbers[1:]]


def kept(
    drawer: Drawer, asked: Sequence[Ask], variants: Mapping[str, Mapping[str, Any]], cache: Path, marks: Any
) -> list[dict[str, Any]]:
    """Return the measures of stories whose references were found; each is read from `cache` or drawn."""
    mark = hashlib.sha256(json.dumps([variants, marks], sort_keys=True, default=str).encode()).hexdigest()[
        :12
    ]
    folder = subfolder(output_folder(cache), mark)
    found = []
    for ask in asked:
        path = folder / f"{ask.scenes[0].caption.replace(' ', '-')}-{ask.seed}.json"
        if not path.exists():
            write_json(path, drawer.measured(ask, variants))
        if (story := json.loads(path.read_text())) is not None:
            found.append(story)
    return found


def main() -> None:
    parser = suite_parser(__doc__, n=24, batch=1)
    parser.add_argument("--tuning-n", type=int, default=8, help="stories for the choice of settings")
    parser.add_argument("--cache", type=Path, default=Path("out/story"))
    args = parser.parse_args()
    model, out = Checkpoint.resolve(MODEL), output_folder(args.out)
    pipe = model.load()
    pipe.set_progress_bar_config(disable=True)
    drawer, marks = Drawer(pipe), [model.fingerprint, versions()]
    tuned = kept(drawer, asks("tuning", args.tuning_n, args.seed), TRIED, args.cache, marks)
    tried = {label: summary(tuned, label) for label in (PLAIN, *TRIED)}
    best = TRIED[chosen(tried)]
    variants = {OURS: best} | {label: {**best, **less} for label, less in WITHOUT.items()}
    stories = kept(drawer, asks("held-out", args.n, args.seed), variants, args.cache, marks)
    right = {label: [s["right"] for x in stories for s in x[label]] for label in (PLAIN, *variants)}
    groups = [number for number in range(len(stories)) for _ in range(2)]
    found = {
        "model": MODEL,
        "suite": "held-out",
        "stories": len(stories),
        "tuning_stories": len(tuned),
        # Those whose references were not found.
        "dropped": {"stories": args.n - len(stories), "tuning_stories": args.tuning_n - len(tuned)},
        "seed": args.seed,
        "weights": model.fingerprint,
        "call": dict(model.call),
        "settings": dict(best),
        "methods": {label: as_dict(dx.IRDiffusion(**v)) for label, v in variants.items()},
        "variants": {label: summary(stories, label) for label in (PLAIN, *variants)},
        "paired": {label: asdict(paired(right[PLAIN], right[label], groups)) for label in variants},
        "tried": tried,
        "versions": versions(),
    }
    print(to_markdown(found))
    write_json(out / f"story-{MODEL}.json", found)


if __name__ == "__main__":
    main()
