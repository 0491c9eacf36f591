"""Several variants on the same prompts and seeds: pictures, verdicts, accuracies and paired differences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..settings import as_dict
from . import sites
from .generate import Item, applied, generate
from .score import Judged, compare, judge, summarise
from .video import still

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Variant:
    """One column of a comparison; no methods means the stock pipeline."""

    label: str
    methods: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One picture of the comparison."""

    label: str
    image: "Image"
    judged: Judged


@dataclass(frozen=True)
class Comparison:
    """All pictures, variant by variant in the order of `items`, and one session report per variant."""

    variants: tuple[Variant, ...]
    items: tuple[Item, ...]
    cells: tuple[tuple[Cell, ...], ...]
    reports: tuple[dict[str, Any] | None, ...]

    def ran(self) -> dict[str, sites.Sites]:
        """Where the methods of each variant ran, by its label; stock pipelines are left out."""
        pairs = zip(self.variants, self.reports, strict=True)
        return {v.label: sites.of(v.methods, report) for v, report in pairs if report}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `results.json`; the first variant is what the others are paired with."""
        methods = {}
        for variant, row, report in zip(self.variants, self.cells, self.reports, strict=True):
            judged = [c.judged for c in row]
            methods[variant.label] = {
                "methods": [as_dict(m) for m in variant.methods],
                **summarise(judged),
                "seconds_per_image": sum(j.seconds for j in judged) / len(judged),
                "report": report,
                "images": [asdict(j) for j in judged],
            }
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
    tick: Callable[[int], object] = lambda done: None,
) -> Comparison:
    """Makes every item with every variant; `tick` hears how many pictures were just done.

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
        row: list[Cell] = []
        with applied(pipe, variant.methods) as session:
            for pictures in generate(pipe, items, call, batch):
                for p in pictures:
                    judged = judge(p.image, p.item.prompt, p.item.seed, p.seconds)
                    row.append(Cell(variant.label, still(p.image), judged))
                tick(len(pictures))
            reports.append(session.report().to_dict() if session else None)
        cells.append(tuple(row))
    return Comparison(tuple(variants), tuple(items), tuple(cells), tuple(reports))


def lines(results: Mapping[str, Any]) -> list[str]:
    """The printed summary of `Comparison.to_dict()`: one line per variant, one per pair."""
    width = max(map(len, results["methods"]))
    out = []
    for label, facts in results["methods"].items():
        overall, pace = facts["overall"], f"{facts['seconds_per_image']:.2f} s an image"
        right = f"{percent(overall)} of {overall['n']} right" if overall else "no ground truth"
        out.append(f"{label:<{width}}  {right}, {pace}")
    for label, facts in results["paired"].items():
        if facts["overall"]:
            out.append(f"{label} minus {facts['against']}: {difference(facts['overall'])}")
    return out


def percent(entry: Mapping[str, Any]) -> str:
    """`58 % (32 to 81)`: an accuracy and its 95 % interval."""
    return f"{100 * entry['accuracy']:.0f} % ({100 * entry['low']:.0f} to {100 * entry['high']:.0f})"


def difference(entry: Mapping[str, Any]) -> str:
    """`+8 points (-12 to +28), 2 wins, 1 loss, p = 1.00`: a paired difference in words."""
    wins, losses = entry["wins"], entry["losses"]
    return (
        f"{100 * entry['difference']:+.0f} points ({100 * entry['low']:+.0f} to {100 * entry['high']:+.0f}), "
        f"{wins} win{'s' * (wins != 1)}, {losses} loss{'es' * (losses != 1)}, p = {entry['p']:.2g}"
    )
