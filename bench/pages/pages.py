"""Write blocks of figures into pages, and the model cards, by `python -m bench.pages`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from diffusers_ext.evaluate.committed import load, result_files
from diffusers_ext.outputs.files import write_text
from diffusers_ext.zoo.world.captions import OBJECTS, RELATIONS, SHAPES, held_out_triple
from diffusers_ext.zoo.world.motion import MOTIONS, held_out_motion
from diffusers_ext.zoo.world.scenes import CROWDED, Mix
from diffusers_ext.zoo.world.suites import IMAGE_TASKS, SPLITS, TASKS, split_of, suite

from ..ledger import committed
from ..studies import (
    binding_maps,
    binding_tables,
    clip_detector,
    detector,
    distillation,
    headhunter,
    headroom_chart,
    judge_labels,
    maps,
    nag,
    npnet,
    one_step,
    perturbations,
    quality_chart,
    reno,
    search,
    story,
)
from ..timing import growth, speed
from . import cards, instructions, plan_costs, power, results_table, together, whole_tiles
from .markdown import has, insert, markdown

ROOT = Path(__file__).parents[2]
MEASURED = "shapes-sd3", "shapes-sd3-256", "shapes-sd", "shapes-wan"  # for quality over density
ASKS = {
    "single_object": "the object and nothing else",
    "two_object": "both objects; they may share colour or shape",
    "counting": "the number of equal objects, two to four",
    "color_attr": "two objects that differ in colour and in shape: attribute binding",
    "position": "both objects, placed as asked",
    "three_object": "all three objects",
}


def tasks() -> str:
    """Return what each task asks for, with the first held-out prompt of seed 0."""
    rows = [[f"`{t}`", ASKS[t], f"{suite('held-out', t, 1)[0].caption}"] for t in IMAGE_TASKS]
    return markdown(["task", "a right picture shows exactly", "example"], rows)


@cache
def splits() -> str:
    """Return the number of different prompts of each task and split."""
    rows = []
    for task in IMAGE_TASKS:
        count, build = TASKS[task]
        found = [split_of(spec) for spec in map(build, range(count)) if spec is not None]
        rows.append([f"`{task}`", *(str(found.count(s)) for s in SPLITS)])
    return markdown(["task", *SPLITS], rows)


def held_out() -> str:
    """Return the combinations that training never draws or names, listed."""
    pairs = ", ".join(f"{o.colour} {o.shape}" for o in OBJECTS if o.held_out)
    triples = [(r, a, b) for r in RELATIONS for a in SHAPES for b in SHAPES if held_out_triple(r, a, b)]
    left = ", ".join(f"{a} {r} {b}" for r, a, b in triples if r in ("left of", "above"))
    return (
        f"Pairs, never drawn ({sum(o.held_out for o in OBJECTS)} of {len(OBJECTS)}): {pairs}.\n\n"
        f"Relations, never named ({len(triples)} of {len(RELATIONS) * len(SHAPES) ** 2}): "
        f"{left}, and the same seen from the other side, with right of and below."
    )


def mix() -> str:
    """Return the shares of the training stream."""
    m = Mix()
    rows = [
        ["one object", f"{100 * m.single:.0f} %"],
        ["two objects", f"{100 * m.double * (1 - m.related):.0f} %"],
        ["two objects and a relation", f"{100 * m.double * m.related:.0f} %"],
        ["three objects", f"{100 * m.triple:.0f} %"],
        ["two to four equal objects", f"{100 * m.counting:.0f} %"],
    ]
    return markdown(["caption", "share"], rows) + (
        f"\n\nOf the two-object captions {100 * m.alike:.0f} % are made to share the shape and as many the "
        f"colour. In {100 * CROWDED:.0f} % of the scenes that may overlap (two or three objects of more than "
        "one colour, no relation) at least two objects do."
    )


def clip_held_out() -> str:
    """Return the motions that training never shows, listed."""
    held = [(m, s) for m in MOTIONS for s in SHAPES if held_out_motion(m, s)]
    return ", ".join(f"{shape} {motion}" for motion, shape in held) + "."


def reward(found: Mapping[str, Any]) -> str:
    """Return what the learned reward prefers by kind of mistake, and its agreement with the detector."""
    painted = found["painted"]
    one = painted["overall"]
    return cards.preferences(found) + (
        f"\n\n{found['n']} pairs for each kind and column. Of two pictures that `{painted['model']}` made "
        f"for a prompt, one right and one wrong, the right one scores higher in {100 * one['auc']:.0f} % "
        f"({100 * one['low']:.0f} to {100 * one['high']:.0f}; {painted['pictures']} pictures, "
        f"{one['prompts']} prompts with both kinds)."
    )


def _filed(name: str, table: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    """Return what builds the table of a committed file of results."""
    return lambda: table(committed(name))


BLOCKS: Mapping[str, Callable[[], str]] = {
    "results": lambda: results_table.render(load(result_files())),
    "tasks": tasks,
    "splits": splits,
    "held-out": held_out,
    "mix": mix,
    "power-pairs": power.pairs_table,
    "power-prompts": power.prompts_table,
    "detector": detector.to_markdown,
    "hidden": detector.hidden_to_markdown,
    "judge": _filed("judge-verdicts", judge_labels.to_markdown),
    "astar": _filed("binding-shapes-sd", binding_tables.astar),
    "astar-ablation": _filed("binding-shapes-sd", binding_tables.ablation),
    "astar-maps": _filed("binding-maps-shapes-sd", binding_maps.to_markdown),
    "astar-tuning": _filed("binding-shapes-sd", binding_tables.tuning),
    "structured": _filed("binding-shapes-sd", binding_tables.structured),
    "clip-held-out": clip_held_out,
    "clip-detector": clip_detector.to_markdown,
    "distillation": _filed("distillation-shapes-sd3-clear-r2", distillation.to_markdown),
    "instructions": _filed("compiled", instructions.to_markdown),
    "instructions-gradients": _filed("compiled-gradients", instructions.gradients_to_markdown),
    "growth": _filed("growth-cpu-x86_64", growth.to_markdown),
    "maps": _filed("maps-shapes-sd", maps.to_markdown),
    **{f"headhunter-{m}": _filed(f"headhunter-{m}", headhunter.to_markdown) for m in headhunter.MODELS},
    "nag": _filed("nag-shapes-sd-turbo", nag.to_markdown),
    "story": _filed("story-shapes-sd", story.to_markdown),
    "nag-guided": _filed("nag-shapes-sd3", lambda found: nag.to_markdown(found, cost=False)),
    "npnet": _filed("npnet-shapes-sd-held-out", npnet.to_markdown),
    "plan-costs": plan_costs.to_markdown,
    "one-step": _filed("one_step-shapes-sd-turbo", one_step.to_markdown),
    "perturbations": _filed("perturbations-shapes-sd", perturbations.to_markdown),
    "reno": _filed("reno-shapes-sd-turbo", reno.to_markdown),
    "reno-memory": _filed("reno-shapes-sd-turbo", reno.memory_to_markdown),
    "reward": _filed(cards.REWARD, reward),
    "search": _filed("search-shapes-sd3", search.to_markdown),
    "headroom": headroom_chart.to_markdown,
    "together": together.to_markdown,
    "speed": _filed("speed-cpu-x86_64", speed.to_markdown),
    "whole-tiles": whole_tiles.to_markdown,
    **{f"quality-{model}": _filed(f"quality-{model}", quality_chart.to_markdown) for model in MEASURED},
}


def pages() -> list[Path]:
    """Return the pages that may hold blocks."""
    return [ROOT / "README.md", ROOT / "DESIGN.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """Return a page with all its blocks filled in."""
    for name, build in BLOCKS.items():
        if has(text, name):
            text = insert(text, build(), name)
    return text


def main() -> None:
    for page in pages():
        write_text(page, filled(page.read_text()))
    cards.write()


if __name__ == "__main__":
    main()
