"""Compare searches at equal numbers of evaluations, and pruning with and without a noise-aware reward.

    diffusers-ext train shapes-clip-noise-aware
    python -m bench.studies.search --aware runs/shapes-clip-noise-aware

Candidates are drawn once, with their estimates at every step. Pruning and best of n are then replayed on
random parts of that pool, with the counts of the samplers themselves, and checked against real runs. The area
under a curve over the budget is that of TTSnap (2511.22242). The other searches move noise, so they run for
real. Ranks are measured on both suites, all else on held-out prompts. An interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from diffusers_ext.evaluate.suite import questions
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.outputs.files import output_folder, write_json
from diffusers_ext.outputs.record import versions
from diffusers_ext.rewards import NoiseAware, ShapesCLIP
from diffusers_ext.zoo.cards import card

from ..pages.markdown import markdown
from ..runner import suite_parser
from . import search_pool
from .search_pool import turns
from .search_real import real, table
from .search_replay import areas, plans, ranks

AWARE = Path("runs/shapes-clip-noise-aware")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = suite_parser(__doc__, n=10, batch=32)
    parser.add_argument("--model", default="shapes-sd3")
    parser.add_argument("--candidates", type=int, default=32, help="of each prompt in the pool")
    parser.add_argument("--tuning", type=int, default=4, help="tuning prompts per task")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(range(60, 391, 30)))
    parser.add_argument("--real", type=int, nargs="*", default=[120, 240], help="budgets of real runs")
    parser.add_argument("--real-n", type=int, default=12, help="prompts of real runs")
    parser.add_argument("--aware", type=Path, default=AWARE, help="folder of the noise-aware reward")
    parser.add_argument("--work", type=Path, default=Path("out/search"), help="pools and real runs")
    args = parser.parse_args(arguments)
    model = Checkpoint.resolve(args.model)
    pipe = model.load()
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.to(memory_format=torch.channels_last)
    base = ShapesCLIP()
    aware = NoiseAware.from_pretrained(args.aware, base)
    early = {"shapes-clip": base, "noise-aware": aware}
    pools = {}
    used = sorted({step for plan in plans(model.call["num_inference_steps"]).values() for step in plan})
    for suite, n, count in (("tuning", args.tuning, 16), ("held-out", args.n, args.candidates)):
        asked = turns(questions(suite, n, args.seed))
        folder = args.work / suite
        search_pool.make(pipe, asked, count, model.call, folder)
        steps = None if suite == "tuning" else used
        pools[suite] = search_pool.score(pipe, asked, model.call, folder, base, early, count, steps)
    found = {
        "model": args.model, **model.marks, "n": args.n, "seed": args.seed, "candidates": args.candidates,
        "aware": {key: card(args.aware)[key] for key in ("config", "levels", "samples", "hours", "sha256")},
        "levels": [round(level, 4) for level in pools["tuning"].levels],
        "ranks": {suite: ranks(pool) for suite, pool in pools.items()},
        "budgets": args.budgets, "areas": areas(pools["held-out"], args.budgets),
        "real": real(pipe, model.call, early, pools["held-out"], asked, args.real, args.real_n,
                     args.work / "real"),
        "versions": versions(),
    }  # fmt: skip
    folder = output_folder(args.out)
    write_json(folder / f"search-{args.model}.json", found)
    print(markdown(["search", "reward", "prunes after", "area of reward", "area of right"], summary(found)))
    print(table(found["real"]))


def to_markdown(found: Mapping[str, Any]) -> str:
    """Return the areas of pruning and the real runs as tables, for a page."""
    heads = ["search", "reward of estimates", "drops after steps", "area of reward", "area of right pictures"]
    return f"{markdown(heads, summary(found))}\n\n{table(found['real'])}"


def summary(found: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the table of areas."""
    rows = []
    for row in found["areas"][1:]:
        shares = [row[f"area of {key}"] for key in ("reward", "right")]
        cells = [f"{100 * a['omega']:+.0f} % [{100 * a['low']:+.0f}, {100 * a['high']:+.0f}]" for a in shares]
        rows.append(["ttsnap", row["reward"], ", ".join(map(str, row["steps"])), *cells])
    return rows


if __name__ == "__main__":
    main()
