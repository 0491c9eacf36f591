"""Compute the constants of `auto` and of forecasts from the rows of `bench.timing.rates`.

    python -m bench.gpu --fit DIR

For each form of the kernel and size of heads, the times of plans with `x` blocks a row are fitted by

    ms = a + f x    if all blocks are FULL,       ms = a + p x    if all are PARTIAL,

by least squares of relative errors. `p / f` is what a PARTIAL block costs beside a FULL one. `f` over the
time of as many pairs in dense attention is what a FULL block costs. Intervals of 95 % come from what is left
of the fit.

The same constants then predict the kernels of `bench.timing.sparse_kernels`, which they were not fitted to.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from diffusers_ext.kernels.block_sparse.gains import backend_on, costs
from diffusers_ext.outputs.files import write_text

Row = Mapping[str, Any]
RULES = ("none", "disk", "box", "band")


@dataclass(frozen=True)
class Estimate:
    """An estimate with the ends of its interval of 95 %, from `n` rows."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f}, n={self.n})"


@dataclass(frozen=True)
class Fit:
    """The constants of one form of the kernel: by rule, PARTIAL over FULL, and FULL over dense attention.

    `start` is the time of a row before its first block, in FULL blocks.
    """

    form: str
    head_dim: int
    partial: Mapping[str, Estimate]
    full: Mapping[str, Estimate]
    start: Mapping[str, float]


def fit_rule(rows: Sequence[Row], dense_ms: float) -> tuple[Estimate, Estimate, float] | None:
    """Fit the rows of one rule: PARTIAL over FULL, FULL over dense attention, and the start in blocks.

    `dense_ms` is the time of dense attention over the same tokens. The result is `None` where rows are
    missing: it takes two sizes of plans of each kind.
    """
    counts = {kind: {row["blocks"] for row in rows if row["kind"] == kind} for kind in ("full", "partial")}
    if min(map(len, counts.values())) < 2:
        return None
    blocks = np.array([row["blocks"] for row in rows], dtype=float)
    ms = np.array([row["ms"] for row in rows])
    partial = np.array([row["kind"] == "partial" for row in rows])
    terms = np.stack([np.ones_like(blocks), blocks * ~partial, blocks * partial], 1) / ms[:, None]
    (start, full, part), *_ = np.linalg.lstsq(terms, np.ones_like(ms), rcond=None)
    freedom = len(rows) - 3
    left = terms @ [start, full, part] - 1
    variance = left @ left / freedom * np.linalg.inv(terms.T @ terms)
    wide = float(stats.t.ppf(0.975, freedom))
    per_dense = rows[0]["columns"] / dense_ms
    ratio = part / full
    slopes = np.array([0.0, -ratio / full, 1 / full])
    return (
        estimate(ratio, wide * float(slopes @ variance @ slopes) ** 0.5, len(rows)),
        estimate(full * per_dense, wide * float(variance[1, 1]) ** 0.5 * per_dense, len(rows)),
        float(start / full),
    )


def estimate(value: float, half: float, n: int) -> Estimate:
    """Return an estimate whose interval reaches `half` to either side."""
    return Estimate(float(value), float(value - half), float(value + half), n)


def fits(rows: Iterable[Row]) -> list[Fit]:
    """Fit each form and size of heads that has the rows for it, in their order."""
    rows = [row for row in rows if row["ok"] and "kind" in row]
    dense = {(row["head_dim"], row["tokens"]): row["ms"] for row in rows if row["kind"] == "dense"}
    blocks = [row for row in rows if row["kind"] in ("full", "partial")]
    found = []
    for form, head_dim in dict.fromkeys((row["form"], row["head_dim"]) for row in blocks):
        partial, full, start = {}, {}, {}
        for rule in RULES:
            mine = [r for r in blocks if (r["form"], r["head_dim"], r["rule"]) == (form, head_dim, rule)]
            against = dense.get((head_dim, mine[0]["tokens"])) if mine else None
            fitted = fit_rule(mine, against) if against else None
            if fitted:
                partial[rule], full[rule], start[rule] = fitted
        if partial:
            found.append(Fit(form, head_dim, partial, full, start))
    return found


def gathers(rows: Iterable[Row]) -> float | None:
    """Return how many keys of dense attention take as long as a token needs to be put in order and back."""
    rows = list(rows)
    moved = [row for row in rows if row["case"].startswith("gather") and row["ok"]]
    dense = [row for row in rows if row.get("kind") == "dense" and row["ok"]]
    if not moved or not dense:
        return None
    most = max(dense, key=lambda row: (row["head_dim"], row["tokens"]))
    return moved[0]["ms"] / moved[0]["tokens"] / (most["ms"] / most["tokens"] ** 2)


def line_of_costs(record: Mapping[str, Any], fit: Fit) -> str:
    """Return the line of `COSTS` in `kernels/block_sparse/gains.py` that a fit replaces, as Python.

    What no row says anything about keeps its value. A rule whose interval is wider than a fifth of its value
    either way is left out as well. The FULL block is that of the slowest rule, so that `auto` never takes a
    loss for a gain.
    """
    device = record["class"]
    backend = backend_on(device)
    known, found = asdict(costs(backend, device)), {}
    good = {rule: each for rule, each in fit.partial.items() if narrow(each) and narrow(fit.full[rule])}
    if good:
        found = {rule: round(each.value, 2) for rule, each in good.items()}
        found["full"] = round(max(fit.full[rule].value for rule in good), 2)
        found["source"] = f"as timed on {record['device']}"
    if (moved := gathers(record["rows"])) is not None and backend == "triton":
        found["gathers"] = round(moved)
    values = ", ".join(f"{name}={value!r}" for name, value in (known | found).items())
    kept = [name for name in known if name not in found]
    note = f"  # as before: {', '.join(kept)}" if kept else ""
    return f"    ({backend!r}, {device!r}): Costs({values}),{note}".replace("'", '"')


def narrow(found: Estimate) -> bool:
    """Return whether an estimate is above 0 and known to a fifth of its value either way."""
    return found.value > 0 and found.high - found.value <= 0.2 * found.value


def attending_ms(row: Row) -> float:
    """Return the ms of attention over the visited blocks alone, of a row of `sparse_kernels`."""
    return max(row["kernel_ms"] - row["choice_ms"], 1e-6)


def predicted_ms(row: Row, fit: Fit) -> float | None:
    """Predict the kernel of a row of `sparse_kernels`; `None` for a rule that was not fitted."""
    if row["rule"] not in fit.partial:
        return None
    full, partial = fit.full[row["rule"]].value, fit.partial[row["rule"]].value
    share = row["full_share"]
    dense = row["dense_ms"] * row["cost"] * row["queries"] / row["tokens"]
    return dense * full * (share + (1 - share) * partial)


def read(folder: Path, bench: str, *more: str) -> dict[str, Any]:
    """Return rows, device and `more` of a bench's record; raises `SystemExit` with a sentence without one."""
    paths = sorted(folder.glob(f"{bench}-*.json"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise SystemExit(
            f"error: a fit needs {bench}-MACHINE.json, and {folder} has none; measure it with python -m "
            f"bench.gpu --quick --out {folder}."
        )
    try:
        record = json.loads(paths[-1].read_text())
        return {name: record[name] for name in ("rows", "device", *more)}
    except (ValueError, KeyError, TypeError) as error:
        raise SystemExit(
            f"error: {paths[-1]} is no record of a bench ({type(error).__name__}); measure it again."
        ) from error


def measured(folder: Path) -> tuple[dict[str, Any], list[Fit]]:
    """Return the record of rates in a folder with its fits; raises `SystemExit` with a sentence."""
    record = read(folder, "rates", "class")
    found = fits(record["rows"])
    if not found:
        raise SystemExit(
            f"error: the rows of rates in {folder} are too few for a fit, which takes two sizes of FULL and "
            "of PARTIAL plans and dense attention; measure them with python -m bench.timing.rates."
        )
    return record, found


def report(folder: Path) -> str:
    """Return the constants of a folder in words, with what they predict; raises as `measured` does."""
    record, found = measured(folder)
    lines = [f"Constants of {record['device']}, with intervals of 95 %:", ""]
    lines += ["| kernel | heads of | rule | PARTIAL / FULL | FULL / dense | start of a row, blocks |"]
    lines += ["|---|---|---|---|---|---|"]
    for fit in found:
        for rule, partial in fit.partial.items():
            cells = fit.form, fit.head_dim, rule, partial, fit.full[rule], f"{fit.start[rule]:.1f}"
            lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", *predictions(folder, found), ""]
    lines += ["The line of `COSTS` in diffusers_ext/kernels/block_sparse/gains.py:", ""]
    lines += ["```python", line_of_costs(record, found[0]), "```"]
    return "\n".join(lines) + "\n"


def predictions(folder: Path, found: Sequence[Fit]) -> list[str]:
    """Return in words how well fits predict the kernels of sessions, if those were measured.

    Each kernel has the fit of its form, with the largest heads, or else the first one.
    """
    if not any(folder.glob("sparse_kernels-*.json")):
        return []
    rows = [row for row in read(folder, "sparse_kernels")["rows"] if row["ok"] and row.get("choice_ms") == 0]
    by_form = {fit.form: fit for fit in reversed(found)}
    predicted = [(row, predicted_ms(row, by_form.get(row["form"], found[0]))) for row in rows]
    ratios = [attending_ms(row) / ms for row, ms in predicted if ms is not None]
    if not ratios:
        return []
    low, middle, high = np.quantile(ratios, (0, 0.5, 1))
    return [
        f"Over plans of sessions, which were not fitted, the kernel took {middle:.2f} times as long as "
        f"predicted in the median of {len(ratios)} cases ({low:.2f} to {high:.2f})."
    ]


def write_fit(folder: Path) -> None:
    """Print the constants of a folder and write them to `fit.json` there; raises as `measured` does."""
    record, found = measured(folder)
    print(report(folder))
    data = {
        "device": record["device"],
        "fits": [asdict(fit) for fit in found],
        "gathers": gathers(record["rows"]),
    }
    write_text(folder / "fit.json", json.dumps(data, indent=1) + "\n")
