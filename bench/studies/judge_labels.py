"""Measure how often the detector errs on pictures that models draw: its verdicts against labels by eye.

    python -m bench.studies.judge_labels                      # draws the labelled pictures again and compares
    python -m bench.studies.judge_labels --sheets out/sheets  # also leaves sheets, without prompt or verdict

Renders have a known content. Pictures of a model do not, so someone has to look. `judge-labels.json` says for
each picture what was seen, before prompt and verdict were known. An uncertain label names several shapes. If
the answer depends on which shape it is, the picture counts as unclear and as no error.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.outputs.files import output_folder, write_json
from diffusers_ext.outputs.record import versions
from diffusers_ext.sampling.clip import Clip
from diffusers_ext.sampling.generate import generate
from diffusers_ext.sampling.items import Item
from diffusers_ext.zoo.world import captions, motion
from diffusers_ext.zoo.world.captions import COLOURS, PLURALS, SHAPES
from diffusers_ext.zoo.world.detect import verify
from diffusers_ext.zoo.world.motion import MOTIONS
from diffusers_ext.zoo.world.track import verify_clip

from ..ledger import RESULTS
from ..pages.markdown import markdown
from ..runner import parser_of
from .detector_study import exactly, share

LABELS, VERDICTS = RESULTS / "judge-labels.json", RESULTS / "judge-verdicts.json"
NONE, ANY = "none", "any"  # no shape of the world; cannot be named
CONVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
BATCH = 10
CLIPS = "shapes-wan"  # the one model of clips
SHEET = (4, 3)  # pictures across and down
Thing = tuple[str, str, str]  # colour, shape, motion


def readings(seen: str) -> set[Thing]:
    """Return what one thing of a label may be: 'pink circle/square', 'green any', 'red cross moves left'."""
    colour, shape, *rest = seen.split(" ", 2)
    colours = COLOURS if colour == ANY else (colour,)
    shapes = (*SHAPES, NONE) if shape == ANY else shape.split("/")
    moves = rest[0] if rest else ""
    return set(product(colours, shapes, ("", *MOTIONS, NONE) if moves == ANY else (moves,)))


def certain(label: Mapping[str, Any]) -> bool:
    """Return whether each thing of a label has exactly one name, which belongs to shapes world."""
    found = [readings(thing) for thing in label["seen"]]
    return all(len(r) == 1 and NONE not in next(iter(r)) for r in found)


def by_eye(label: Mapping[str, Any]) -> bool | None:
    """Return whether the picture shows what its prompt asks for; `None` if the label leaves that open."""
    asked, relation = wanted(label["prompt"])
    answers = set()
    for things in product(*map(readings, label["seen"])):
        if Counter(things) != Counter(asked):
            answers.add(False)
        elif relation is None:
            answers.add(True)
        elif (way := label.get("relation")) in CONVERSE:
            answers.add((way if things[0] == asked[0] else CONVERSE[way]) == relation)
        else:
            answers |= {True, False}
    return answers.pop() if len(answers) == 1 else None


def wanted(prompt: str) -> tuple[list[Thing], str | None]:
    """Return what a prompt asks for: the things and, for two in a picture, the relation of the first."""
    try:
        spec = captions.parse(prompt)
    except ValueError:  # a caption of clips
        script = motion.parse(prompt)
        return [(a.object.colour, a.object.shape, a.motion) for a in script.actors], None
    return [(o.colour, o.shape, "") for o in spec.objects], spec.relation


def drawn(
    labels: Sequence[Mapping[str, Any]], models: Iterable[str], most: int | None = None
) -> Iterator[tuple[int, Any]]:
    """Draw the picture or clip of each label again, for all labels of `models` or the first `most` of each.

    Yields the index of the label with it.
    """
    for model in models:
        places = [i for i, label in enumerate(labels) if label["model"] == model][:most]
        items = [Item(labels[i]["prompt"], labels[i]["seed"]) for i in places]
        checkpoint = Checkpoint.resolve(model)
        made = generate(checkpoint.load(), items, checkpoint.call, BATCH)
        yield from zip(places, (p.image for batch in made for p in batch), strict=True)


def judged(image: Any, prompt: str) -> dict[str, Any]:
    """Return the detector's verdict and what it found, in the words of labels."""
    if isinstance(image, Clip):
        clip = verify_clip(image.frames, motion.parse(prompt))
        seen = [f"{t.object.colour} {t.object.shape} {t.motion(len(image.frames))}" for t in clip.tracks]
        return {"correct": clip.correct, "found": [s.rstrip() for s in seen]}
    found = verify(np.asarray(image.convert("RGB")), captions.parse(prompt))
    return {"correct": found.correct, "found": [f"{f.colour} {f.shape}" for f in found.objects]}


def summary(labels: Sequence[Mapping[str, Any]], verdicts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the detector's errors on all pictures and by model, and the objects that it misreads."""
    pairs = list(zip(labels, verdicts, strict=True))
    pictures = [p for p in pairs if p[0]["model"] != CLIPS]
    models = dict.fromkeys(label["model"] for label, _ in pairs)
    return {
        "pictures": errors(pictures),
        "models": {m: errors([p for p in pairs if p[0]["model"] == m]) for m in sorted(models)},
        "objects": misread(pictures),
    }


def errors(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, Any]:
    """Return shares with intervals of the detector's errors among clear pictures.

    `wrong` are all wrong verdicts. `too_strict` are right pictures that it calls wrong, `too_kind` wrong ones
    that it calls right. `unclear` is the share of unclear pictures that it calls right.
    """
    known = [(by_eye(label), verdict["correct"]) for label, verdict in pairs]
    clear = [(eye, verdict) for eye, verdict in known if eye is not None]
    return {
        "n": len(known),
        "wrong": share(eye != verdict for eye, verdict in clear),
        "too_strict": share(not verdict for eye, verdict in clear if eye),
        "too_kind": share(verdict for eye, verdict in clear if not eye),
        "unclear": share(verdict for eye, verdict in known if eye is None),
    }


def misread(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, dict[str, int]]:
    """Count by shape the objects seen, and those that the detector reads as another or not at all.

    Pictures count only if every object in them has a name.
    """
    seen: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for label, verdict in pairs:
        if certain(label):
            left = Counter(label["seen"]) - Counter(verdict["found"])
            seen.update(thing.split()[1] for thing in label["seen"])
            missed.update(thing.split()[1] for thing in left.elements())
    return {shape: {"seen": seen[shape], "misread": missed[shape]} for shape in SHAPES}


def to_markdown(found: Mapping[str, Any]) -> str:
    """Return rates of error for a page."""
    groups = {"all pictures": found["pictures"], **found["models"]}
    groups["clips, shapes-wan"] = groups.pop(CLIPS)
    shares = ("wrong", "too_strict", "too_kind")
    rows = [
        [name, str(e["n"]), str(e["wrong"]["n"]), *(_percent(e[key]) for key in shares)]
        for name, e in groups.items()
    ]
    heads = ["", "labelled", "clear", "wrong verdicts", "right ones called wrong", "wrong ones called right"]
    unsure, objects = found["pictures"]["unclear"], found["objects"]
    missed = ", ".join(f"{e['misread']} of {e['seen']} {PLURALS[shape]}" for shape, e in objects.items())
    return markdown(heads, rows) + (
        f"\n\nThe eye leaves {unsure['n']} pictures open, mostly because a shape is between two. Of these, "
        f"the detector calls {round(unsure['accuracy'] * unsure['n'])} right. Objects of a clear shape that "
        f"the detector misses or reads as another: {missed}."
    )


def _percent(entry: Mapping[str, float] | None) -> str:
    if entry is None:
        return ""
    return f"{round(entry['accuracy'] * entry['n'])} of {entry['n']}: {exactly(entry, digits=1)}"


def sheets(images: Sequence[Any], folder: Path) -> None:
    """Write sheets of enlarged pictures with their numbers and nothing else, for those who label them."""
    from PIL import Image, ImageDraw

    across, down = SHEET
    for start in range(0, len(images), across * down):
        page = Image.new("RGB", (across * 328, down * 346), "white")
        for k, image in enumerate(images[start : start + across * down]):
            x, y = k % across * 328, k // across * 346
            shown = (image.sheet() if isinstance(image, Clip) else image).convert("RGB")
            page.paste(shown.resize((320, 320), Image.Resampling.BICUBIC), (x, y + 24))
            ImageDraw.Draw(page).text((x + 4, y + 6), str(start + k), "black")
        page.save(folder / f"sheet-{start // (across * down):02d}.png")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--sheets", type=Path, help="folder for sheets of the pictures")
    args = parser.parse_args(arguments)
    known = json.loads(LABELS.read_text())
    labels = known["labels"]
    for model, weights in known["weights"].items():
        if Checkpoint.resolve(model).fingerprint != weights:
            parser.error(f"the labels are of other weights of {model}; label its pictures again")
    images = [image for _, image in sorted(drawn(labels, known["weights"]), key=lambda pair: pair[0])]
    verdicts = [judged(i, label["prompt"]) for i, label in zip(images, labels, strict=True)]
    found = {**summary(labels, verdicts), "verdicts": verdicts, "versions": versions()}
    write_json(output_folder(args.out) / VERDICTS.name, found)
    if args.sheets:
        sheets(images, output_folder(args.sheets))
    print(to_markdown(found))
    for label, verdict in zip(labels, verdicts, strict=True):
        if by_eye(label) not in (None, verdict["correct"]):
            says = "right" if verdict["correct"] else "wrong"
            print(f"{label['model']}, {label['prompt']}: {label['seen']}, judged {says}: {verdict['found']}")


if __name__ == "__main__":
    main()
