"""Compare variants on the same prompts and seeds: pictures, verdicts, accuracies, paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..sampling.clip import still
from ..sampling.generate import applied, generate
from ..sampling.items import Item
from ..sampling.progress import Progress
from . import density
from .cells import Cell, Variant
from .comparison_files import PictureFiles
from .gain import beside_plain
from .score import Judged, compare, judge_picture, plain_data, summarise
from .statistics import mean
from .words import difference, right


@dataclass(frozen=True)
class Comparison:
    """Hold all pictures, variant by variant in the order of `items`, and one session report per variant."""

    variants: tuple[Variant, ...]
    items: tuple[Item, ...]
    cells: tuple[tuple[Cell, ...], ...]
    reports: tuple[dict[str, Any] | None, ...]

    def ran(self) -> dict[str, density.Modules]:
        """Return the modules in which the methods of each variant ran, by label, without stock pipelines."""
        pairs = zip(self.variants, self.reports, strict=True)
        return {v.label: density.of(v.methods, report) for v, report in pairs if report}

    def engagements(self) -> dict[str, dict[str, Any]]:
        """Return where and when methods ran, by label, measured beside the plain variant if there is one."""
        seconds = {
            v.label: [c.judged.seconds for c in row if c.image is not None]
            for v, row in zip(self.variants, self.cells, strict=True)
        }
        plain = next((v.label for v in self.variants if not v.methods and v.sampler is None), None)
        return {
            v.label: beside_plain(
                report["engagement"], seconds.get(plain, []) if v.sampler is None else [], seconds[v.label]
            )
            for v, report in zip(self.variants, self.reports, strict=True)
            if report and "engagement" in report
        }

    def where(self) -> list[str]:
        """Write the sentences of `engagements`, with the label of the variant where it differs."""
        return [
            sentence if sentence.startswith(f"{label} ") else f"{label}: {sentence}"
            for label, found in self.engagements().items()
            for sentence in found["sentences"]
        ]

    def costs(self) -> dict[str, float]:
        """Return the mean evaluations a picture of each variant of which they were counted."""
        found = {}
        for variant, row in zip(self.variants, self.cells, strict=True):
            spent = [c.judged.cost for c in row if c.judged.cost is not None]
            if spent:
                found[variant.label] = sum(spent) / len(spent)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for `results.json`. The others are paired with the first variant."""
        methods, engagements = {}, self.engagements()
        for variant, row, report in zip(self.variants, self.cells, self.reports, strict=True):
            judged = [c.judged for c in row if c.image is not None]
            methods[variant.label] = {
                "methods": variant.settings(),
                **summarise(judged),
                "seconds_per_image": sum(j.seconds for j in judged) / len(judged) if judged else None,
                "report": report and report | {"engagement": engagements.get(variant.label)},
                "images": [plain_data(j) for j in judged],
            }
            if variant.label in self.costs():
                prompts = [j.prompt for j in judged]
                methods[variant.label]["cost"] = mean([j.cost for j in judged], prompts)
                methods[variant.label]["reward"] = mean([j.reward for j in judged], prompts)
            if len(judged) < len(row):
                lost = [c.judged for c in row if c.image is None]
                methods[variant.label]["failed"] = [
                    {"prompt": j.prompt, "seed": j.seed, "reason": j.reason} for j in lost
                ]
        first = [c.judged for c in self.cells[0]]
        pairs = {
            v.label: {"against": self.variants[0].label, **compare(first, [c.judged for c in row])}
            for v, row in zip(self.variants[1:], self.cells[1:], strict=True)
        }
        return {"methods": methods, "paired": pairs}


def run(
    pipe: Any,
    variants: Sequence[Variant],
    items: Sequence[Item],
    call: Mapping[str, Any],
    batch: int = 1,
    files: PictureFiles | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Make every item with every variant.

    Pictures in `files` are not made again, and new ones are stored there at once. Failures are reported to
    `progress`; without it they are raised, as `evaluate.generate` does.

    Raises `ValueError` for variants with the same label and for no prompts, `MethodError` as `apply` does.
    """
    labels = [v.label for v in variants]
    if not items or not labels or len(set(labels)) < len(labels):
        raise ValueError(
            f"a comparison needs one prompt or more and variants with different names, got {len(items)} "
            f"prompts and {', '.join(labels) or 'no variants'}; name each variant once"
        )
    cells, reports = [], []
    for variant in variants:
        row, report = files.find(variant, items) if files else ({}, None)
        if progress is not None:
            progress.skip(len(row))
        todo = [item for item in items if item not in row]
        made = 0
        with applied(pipe, variant.methods if todo else ()) as session:
            for pictures in generate(pipe, todo, call, batch, progress, variant.sampler):
                made += len(pictures)
                report = _report(session, made)
                for p in pictures:
                    judged = judge_picture(p)
                    row[p.item] = Cell(variant.label, still(p.image), judged)
                    if files:
                        files.add(variant, row[p.item], report)
                if progress is not None:
                    progress.tick(len(pictures))
        reasons = {f.item: f.reason for f in progress.failures} if progress else {}
        cells.append(tuple(row.get(i) or _failed(variant, i, reasons[i]) for i in items))
        reports.append(report)
    return Comparison(tuple(variants), tuple(items), tuple(cells), tuple(reports))


def _report(session: Any, pictures: int) -> dict[str, Any] | None:
    """Return the report of a session with the number of pictures that it made."""
    if session is None:
        return None
    report = session.report().to_dict()
    report["engagement"]["pictures"] = pictures
    return report


def _failed(variant: Variant, item: Item, reason: str) -> Cell:
    return Cell(variant.label, None, Judged(item.prompt, item.seed, None, None, reason))


def lines(results: Mapping[str, Any]) -> list[str]:
    """Write the summary of `Comparison.to_dict()`: one line per variant, one per pair."""
    width = max(map(len, results["methods"]))
    out = []
    for label, facts in results["methods"].items():
        if facts["seconds_per_image"] is None:
            out.append(f"{label:<{width}}  no picture could be made")
            continue
        figures = right(facts["overall"]) if facts["overall"] else "no ground truth"
        paid = f"{facts['cost']['mean']:.0f} evaluations and " if "cost" in facts else ""
        out.append(f"{label:<{width}}  {figures}, {paid}{facts['seconds_per_image']:.2f} s an image")
    return out + differences(results)


def differences(results: Mapping[str, Any]) -> list[str]:
    """Write a line for each pair of `Comparison.to_dict()` that has a ground truth."""
    return [
        f"{label} minus {facts['against']}: {difference(facts['overall'])}"
        for label, facts in results["paired"].items()
        if facts["overall"]
    ]
