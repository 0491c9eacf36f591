"""Writes blocks of figures into README.md and docs/, and the model cards: `python -m bench.pages`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType

from diffusers_ext.evaluate import table
from diffusers_ext.evaluate.blocks import has, insert, markdown
from diffusers_ext.evaluate.power import pairs_table, prompts_table
from diffusers_ext.zoo.captions import OBJECTS, RELATIONS, SHAPES, held_out_triple
from diffusers_ext.zoo.motion import MOTIONS, held_out_motion
from diffusers_ext.zoo.scenes import CROWDED, Mix
from diffusers_ext.zoo.suites import IMAGE_TASKS, SPLITS, TASKS, split_of, suite

from . import cards, judge_labels, plans, targets
from . import distillation as distilled
from . import one_step as single
from . import speed as fast
from .headroom_chart import told as gains
from .quality_chart import table as quality_table

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
MOST = 6  # kinds of mistakes that are named
MEASURED = "shapes-sd3", "shapes-sd3-256", "shapes-sd", "shapes-wan"  # for quality over density
ASKS = {
    "single_object": "the object and nothing else",
    "two_object": "both objects; they may share colour or shape",
    "counting": "so many equal objects, two to four",
    "color_attr": "two objects that differ in colour and in shape: attribute binding",
    "position": "both objects, placed as told",
    "three_object": "all three objects",
}


def tasks() -> str:
    """What each task asks for, with the first held-out prompt of seed 0."""
    rows = [[f"`{t}`", ASKS[t], f"{suite('held-out', t, 1)[0].caption}"] for t in IMAGE_TASKS]
    return markdown(["task", "a right picture shows exactly", "example"], rows)


@cache
def splits() -> str:
    """Different prompts of each task and split."""
    rows = []
    for task in IMAGE_TASKS:
        count, build = TASKS[task]
        found = [split_of(spec) for spec in map(build, range(count)) if spec is not None]
        rows.append([f"`{task}`", *(str(found.count(s)) for s in SPLITS)])
    return markdown(["task", *SPLITS], rows)


def held_out() -> str:
    """The combinations that training never draws or names, listed."""
    pairs = ", ".join(f"{o.colour} {o.shape}" for o in OBJECTS if o.held_out)
    triples = [(r, a, b) for r in RELATIONS for a in SHAPES for b in SHAPES if held_out_triple(r, a, b)]
    left = ", ".join(f"{a} {r} {b}" for r, a, b in triples if r in ("left of", "above"))
    return (
        f"Pairs, never drawn ({sum(o.held_out for o in OBJECTS)} of {len(OBJECTS)}): {pairs}.\n\n"
        f"Relations, never named ({len(triples)} of {len(RELATIONS) * len(SHAPES) ** 2}): "
        f"{left}, and the same told from the other side, with right of and below."
    )


def mix() -> str:
    """Shares of the training stream."""
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


def detector() -> str:
    """Exactness of the judge on 10 000 pictures and what it mistook, from the committed evidence."""
    files = sorted(RESULTS.glob("detector-*.json"), key=lambda p: p.stem != "detector-renders")
    rows, notes = [], []
    for found in (json.loads(f.read_text()) for f in files):
        shares = [_exact(found[k]) for k in ("exact", "held_out", "crowded")]
        psnr = f"{found['psnr_db']:.1f} dB" if "psnr_db" in found else ""
        rows.append([found["what"], str(found["pictures"]), *shares, psnr])
        notes += [f"- {found['what']}, {key}: {_mistakes(found[key])}." for key in ("shapes", "colours")]
    heads = ["pictures", "number", "read exactly", "held-out ones", "overlapping ones", "PSNR"]
    return "\n".join([markdown(heads, rows), "", "Mistakes, drawn -> found:", "", *notes])


def hidden() -> str:
    """How much overlapping objects hide, from the committed evidence."""
    found = json.loads((RESULTS / "detector-renders.json").read_text())
    h, crowded = found["hidden"], found["crowded"]["n"]
    return (
        f"Of {found['pictures']} pictures {crowded} are crowded. {h['objects']} objects are partly hidden, "
        f"{h['over_an_eighth']} of them by more than an eighth, the most by {100 * h['most']:.0f} %."
    )


def clip_held_out() -> str:
    """The motions that training never shows, listed."""
    held = [(m, s) for m in MOTIONS for s in SHAPES if held_out_motion(m, s)]
    return ", ".join(f"{shape} {motion}" for motion, shape in held) + "."


def clip_detector() -> str:
    """Exactness of the judge of clips, by clip, track and frame, from the committed evidence."""
    files = sorted(RESULTS.glob("clip_detector-*.json"), key=lambda p: p.stem != "clip_detector-renders")
    rows, notes = [], []
    for found in (json.loads(f.read_text()) for f in files):
        shares = [_exact(found[k]) for k in ("exact", "held_out", "crossing", "tracks")]
        psnr = f"{found['psnr_db']:.1f} dB" if "psnr_db" in found else ""
        frames = f"{100 * found['frames']['exact'] / found['frames']['n']:.2f} %"
        rows.append([found["what"], str(found["clips"]), *shares, frames, psnr])
        notes += [
            f"- {found['what']}, {key} {by}: {_mistakes(found[prefix + key])}."
            for by, prefix in (("frame by frame", ""), ("track by track", "track_"))
            for key in ("shapes", "colours")
        ]
        notes.append(f"- {found['what']}, motions: {_mistakes(found['motions'])}.")
    heads = ["clips", "number", "read exactly", "held-out ones", "crossing ones", "tracks", "frames", "PSNR"]
    return "\n".join([markdown(heads, rows), "", "Mistakes, drawn -> found:", "", *notes])


def _exact(entry: Mapping[str, float]) -> str:
    return f"{100 * entry['accuracy']:.2f} % ({100 * entry['low']:.2f} to {100 * entry['high']:.2f})"


def _mistakes(counts: Mapping[str, Mapping[str, int]]) -> str:
    wrong = sorted(
        ((n, d, f) for d, row in counts.items() for f, n in row.items() if n and d != f), reverse=True
    )
    total = sum(sum(row.values()) for row in counts.values())
    told = ", ".join(f"{d} -> {f} {n}" for n, d, f in wrong[:MOST]) or "none"
    if len(wrong) > MOST:
        told += f", others {sum(n for n, _, _ in wrong[MOST:])}"
    return f"{told} (of {total} objects)"


def reward() -> str:
    """Preference of the learned reward by kind of mistake, and its agreement with the judge, held-out."""
    found = json.loads((RESULTS / "reward-shapes-clip-held-out.json").read_text())
    painted = found["painted"]
    one = painted["overall"]
    return cards.preferences(found) + (
        f"\n\n{found['n']} pairs for each kind and column. Of two pictures that `{painted['model']}` made "
        f"for a prompt, one right and one wrong, the right one scores higher in {100 * one['auc']:.0f} % "
        f"({100 * one['low']:.0f} to {100 * one['high']:.0f}; {painted['pictures']} pictures, "
        f"{one['prompts']} prompts with both kinds)."
    )


def judge() -> str:
    """How often the judge errs on pictures that models draw, from the committed labels and verdicts."""
    return judge_labels.told(json.loads(judge_labels.VERDICTS.read_text()))


def growth() -> str:
    """Time against tokens on a CPU, from the committed run: fitted exponents and the longest sequence."""
    found = json.loads((RESULTS / "growth-cpu-x86_64.json").read_text())
    rows, most = [], max(r["tokens"] for r in found["rows"])
    for r in (r for r in found["rows"] if r["tokens"] == most):
        fit = found["exponents"].get(f"{r['method']}, {r['backend']}")
        if fit and r["ok"]:
            figures = fit["time"], fit["work"], r["dense_ms"] / r["ms"]
            rows.append([r["method"], r["backend"], *(f"{x:.2f}" for x in figures)])
    rows.append(["dense", "", *(f"{x:.2f}" for x in (*found["exponents"]["dense"].values(), 1))])
    return markdown(["method", "back-end", "time ~ tokens^", "pairs ~ tokens^", f"speed-up at {most}"], rows)


def quality(model: str) -> str:
    """Likeness to dense pictures and accuracy of every sparse setting, from the committed run."""
    return quality_table(json.loads((RESULTS / f"quality-{model}.json").read_text()))


def distillation() -> str:
    """What CLEAR costs shapes-sd3, and what distillation gives back, from the committed run."""
    return distilled.told(json.loads((RESULTS / "distillation-shapes-sd3-clear-r2.json").read_text()))


def headroom() -> str:
    """What choosing among seeds gains, from the committed runs."""
    return gains([json.loads(file.read_text()) for file in sorted(RESULTS.glob("headroom-*.json"))])


def speed() -> str:
    """Seconds a picture or clip of every model, from the committed run."""
    return fast.told(json.loads((RESULTS / "speed-cpu-x86_64.json").read_text()))


def one_step() -> str:
    """shapes-sd-turbo beside its teacher at several numbers of steps, from the committed run."""
    return single.told(json.loads((RESULTS / "one_step-shapes-sd-turbo.json").read_text()))


BLOCKS: Mapping[str, Callable[[], str]] = MappingProxyType(
    {
        table.BLOCK: lambda: table.render(table.load(table.result_files())),
        "tasks": tasks,
        "splits": splits,
        "held-out": held_out,
        "mix": mix,
        "power-pairs": pairs_table,
        "power-prompts": prompts_table,
        "detector": detector,
        "hidden": hidden,
        "judge": judge,
        "clip-held-out": clip_held_out,
        "clip-detector": clip_detector,
        "distillation": distillation,
        "growth": growth,
        "one-step": one_step,
        "targets": targets.told,
        "reward": reward,
        "headroom": headroom,
        "speed": speed,
        "whole-tiles": plans.told,
        **{f"quality-{model}": partial(quality, model) for model in MEASURED},
    }
)


def pages() -> list[Path]:
    """The pages that may hold blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """A page with all its blocks written anew."""
    for name, build in BLOCKS.items():
        if has(text, name):
            text = insert(text, build(), name)
    return text


def main() -> None:
    for page in pages():
        page.write_text(filled(page.read_text()))
    cards.write()


if __name__ == "__main__":
    main()
