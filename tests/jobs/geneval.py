"""Makes a metadata file with the counts of GenEval's, and walks a tree as its evaluator does."""

import json
import re
from itertools import product
from os import listdir
from pathlib import Path

from PIL import Image

COUNTS = {
    "single_object": 80,
    "two_object": 99,
    "counting": 80,
    "colors": 94,
    "position": 100,
    "color_attr": 100,
}
THINGS = [f"thing {i}" for i in range(80)]
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
PAIRS = list(zip(THINGS, THINGS[7:] + THINGS[:7], strict=True)) + list(zip(THINGS, THINGS[9:], strict=False))


def lines() -> list[str]:
    """The 553 lines of a metadata file, in the order of the published one."""
    found = {tag: [] for tag in COUNTS}
    for thing in THINGS:
        found["single_object"].append(
            one("single_object", f"a photo of a {thing}", {"class": thing, "count": 1})
        )
    for a, b in PAIRS:
        both = {"class": a, "count": 1}, {"class": b, "count": 1}
        found["two_object"].append(one("two_object", f"a photo of a {a} and a {b}", *both))
    for thing, n in product(THINGS, (2, 3, 4)):
        line = one("counting", f"a photo of {n} {thing}s", {"class": thing, "count": n})
        found["counting"].append(line | {"exclude": [{"class": thing, "count": n + 1}]})
    for thing, colour in product(THINGS, COLOURS):
        wanted = {"class": thing, "count": 1, "color": colour}
        found["colors"].append(one("colors", f"a photo of a {colour} {thing}", wanted))
    for (a, b), relation in product(PAIRS, RELATIONS):
        both = {"class": b, "count": 1}, {"class": a, "count": 1, "position": [relation, 0]}
        found["position"].append(one("position", f"a photo of a {a} {relation} a {b}", *both))
    for i, (a, b) in enumerate(PAIRS):
        both = {"class": a, "count": 1, "color": COLOURS[i % 10]}, {"class": b, "count": 1, "color": "red"}
        found["color_attr"].append(
            one("color_attr", f"a photo of a {COLOURS[i % 10]} {a} and a red {b}", *both)
        )
    return [json.dumps(line) for tag, most in COUNTS.items() for line in found[tag][:most]]


def one(tag: str, prompt: str, *include: dict) -> dict:
    return {"tag": tag, "include": list(include), "prompt": prompt}


def walk(root: Path) -> list[dict]:
    """Find the pictures as the evaluator does, and read of each line what it reads; any fault raises."""
    found = []
    for folder in listdir(root):
        if not (root / folder).is_dir() or not folder.isdigit():
            continue
        with open(root / folder / "metadata.jsonl") as file:
            metadata = json.load(file)
        for name in listdir(root / folder / "samples"):
            path = root / folder / "samples" / name
            if not path.is_file() or not re.match(r"\d+\.png", name):
                continue
            Image.open(path).load()
            groups = []
            for wanted in metadata.get("include", []):
                assert wanted["count"] >= 1 and wanted["class"]
                if "position" in wanted:
                    relation, target = wanted["position"]
                    assert relation in RELATIONS and groups[target]
                groups.append(wanted["class"])
            for unwanted in metadata.get("exclude", []):
                assert unwanted["count"] > metadata["include"][0]["count"]
            found.append({"file": path, "tag": metadata["tag"], "prompt": metadata["prompt"]})
    return found
