"""Draw the first held-out story of the study in one picture, with the settings of its results.

python -m bench.studies.story_picture bench/results/story-shapes-sd.json --out docs/stories.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

import diffusers_ext as dx
from diffusers_ext.evaluate.report.story_sheet import story_sheet
from diffusers_ext.zoo.world.captions import Spec
from diffusers_ext.zoo.world.detect import find

from .story import PLAIN, Ask, asks


def scenes(ask: Ask) -> list[str]:
    """Return four scenes of a story: both subjects, each with the third object, and all three."""
    (first, second), third = ask.subjects, ask.third
    specs = Spec((first, second)), Spec((first, third)), Spec((third, second)), ask.scenes[1]
    return [spec.caption for spec in specs]


def draw(pipe: Any, ask: Ask, settings: Mapping[str, Any], **call: Any) -> Image.Image:
    """Return the sheet of a story: subjects, its scenes by the plain model, and with the method."""
    names = {f"subject-{i + 1}": str(o) for i, o in enumerate(ask.subjects)}
    story = dx.StoryPipeline(pipe, dx.IRDiffusion(**settings), segmenter=find)
    drawn = story(names, scenes(ask), ask.seed, **call)
    return story_sheet(
        [
            ("subjects", [(p.image, p.prompt) for p in drawn.references.values()]),
            (PLAIN, [(p.plain, "") for p in drawn.panels]),
            ("story", [(p.image, p.prompt) for p in drawn.panels]),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="the file that bench.studies.story wrote")
    parser.add_argument("--out", type=Path, default=Path("docs/stories.png"), help="picture to write")
    args = parser.parse_args()
    found = json.loads(args.results.read_text())
    pipe = dx.load(found["model"])
    pipe.set_progress_bar_config(disable=True)
    page = draw(pipe, asks("held-out", 1, found["seed"])[0], found["settings"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    page.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
