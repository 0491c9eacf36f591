"""Collect pairs of noise and better noise as training data for an NPNet, in the files of its paper's code.

A pair is `pairs/NUMBER_SEED.npz` with `arr_0` (noise), `arr_1` (better noise), both fp16 `[1, C, h, w]`, and
`arr_2` (its number). A line of `pairs-I-of-N.jsonl` has prompt, seed and scores of each pair that was tried.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import unwritable
from ...outputs.files import replacing, write_json
from ...rewards.base import ensemble
from ..host_call import HostCall, Starts
from .redenoise import re_denoise

SETTINGS = "collect.json"
FOLDER = "pairs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """These settings say how pairs are made; `steps` is the number of steps whose first one is undone.

    A pair is kept if the reward of its better noise exceeds that of its noise by more than `margin`. Without
    a reward all are kept, and no picture is made.
    """

    steps: int = 10
    w_denoise: float = 5.5
    w_invert: float = 1.0
    margin: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.seed < 0:
            raise ValueError(
                f"pairs need one step or more and a seed of 0 or more, got {self.steps} and {self.seed}; "
                "10 steps are those of the paper"
            )


@dataclass(frozen=True, slots=True)
class Tried:
    """A pair that was tried, with its number and seed, the rewards of both noises, and whether it is kept."""

    index: int
    seed: int
    caption: str
    original_score: float | None
    optimized_score: float | None
    kept: bool

    @property
    def line(self) -> dict[str, Any]:
        """The line in the file, where scores are lists as in the paper's code."""
        row = asdict(self)
        lists = {f"{name}_score": row.pop(f"{name}_score") for name in ("original", "optimized")}
        return row | {f"{name}_list": [] if v is None else [v] for name, v in lists.items()}


def collect(
    pipe: Any,
    prompts: Sequence[str],
    out: Path,
    settings: Collection = Collection(),
    *,
    reward: Any = None,
    shard: tuple[int, int] = (0, 1),
    batch: int = 8,
    on_batch: Callable[[Sequence[Tried]], None] = lambda rows: None,
    model: str = "",
    **call: Any,
) -> list[Tried]:
    """Make one pair for each prompt, `batch` at a time, into the folder `out`; return what was tried now.

    Pair `i` has `prompts[i]` and noise of the seed `settings.seed + i`. `shard` (i, n) takes every n-th
    prompt, so that several processes can share a collection. What the files name already is left out.
    `call` holds further arguments of `pipe(...)`, and `model` is its name for the record. `on_batch` sees
    each batch, after its files are written, and may raise to stop.

    Raises `ValueError` for prompts, shards and settings that do not fit, and if `out` holds pairs that were
    made otherwise.
    """
    part, parts = shard
    if not prompts or not all(isinstance(p, str) for p in prompts):
        raise ValueError(f"a collection needs a list of one prompt or more, got {prompts!r}; give some")
    if not 0 <= part < parts or batch < 1:
        raise ValueError(
            f"a shard is a number from 0 to n - 1 of n, and a batch has one pair or more, got {part} of "
            f"{parts} and {batch}; use 0/1 for all pairs"
        )
    score = None if reward is None else ensemble(reward)
    record = _record(pipe, prompts, settings, score.names if score else (), model, call)
    _begin(out, record)
    file = out / f"pairs-{part}-of-{parts}.jsonl"
    done = {row["index"] for row in rows(out)}
    todo = [i for i in range(part, len(prompts), parts) if i not in done]
    tried: list[Tried] = []
    for first in range(0, len(todo), batch):
        numbers = todo[first : first + batch]
        made = _batch(pipe, [prompts[i] for i in numbers], numbers, out, settings, score, call)
        _append(file, made)
        tried += made
        on_batch(made)
    return tried


def rows(out: Path) -> list[dict[str, Any]]:
    """Return the lines of all shards in `out`, in the order of their numbers, without torn ones."""
    found = {}
    for file in out.glob("pairs-*-of-*.jsonl"):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # a crash cut it short
                continue
            found[row["index"]] = row
    return [found[i] for i in sorted(found)]


def pair_file(out: Path, row: Mapping[str, Any]) -> Path:
    """Return the file of a pair."""
    return out / FOLDER / f"{row['index']}_{row['seed']}.npz"


def _batch(
    pipe: Any,
    prompts: list[str],
    numbers: Sequence[int],
    out: Path,
    settings: Collection,
    score: Any,
    call: Mapping[str, Any],
) -> list[Tried]:
    seeds = [settings.seed + i for i in numbers]
    host = HostCall(pipe, prompts, [torch.Generator().manual_seed(s) for s in seeds], **call)
    host.pipe.set_progress_bar_config(disable=True)
    starts = host.draw(1)
    golden = re_denoise(
        host, starts, steps=settings.steps, w_denoise=settings.w_denoise, w_invert=settings.w_invert
    )
    before = after = [None] * len(prompts)
    keep = torch.isfinite(golden).flatten(1).all(1).tolist()
    if score is not None:
        before = _scores(host, starts, score)
        after = _scores(host, starts.with_noise(golden.to(starts.noise.dtype)), score)
        keep = [k and b > a + settings.margin for k, a, b in zip(keep, before, after, strict=True)]
    tried = []
    for row, (i, seed) in enumerate(zip(numbers, seeds, strict=True)):
        one = Tried(i, seed, prompts[row], before[row], after[row], keep[row])
        if one.kept:
            pair = [x[row : row + 1].half().cpu().numpy() for x in (starts.noise, golden)]
            with replacing(pair_file(out, one.line), parents=True) as file:
                np.savez(file, *pair, np.array(i))
        tried.append(one)
    return tried


def _scores(host: HostCall, starts: Starts, score: Any) -> list[float]:
    with torch.no_grad():
        pictures: Tensor = host.run(starts, output_type="pt")
        return score.total(score.each(pictures.float(), host.prompts)).tolist()


def _record(
    pipe: Any,
    prompts: Sequence[str],
    settings: Collection,
    rewards: Sequence[str],
    model: str,
    call: Mapping[str, Any],
) -> dict[str, Any]:
    text = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    made = {"pipeline": type(pipe).__name__, "model": model, **asdict(settings), "rewards": list(rewards)}
    call = {k: v if isinstance(v, (int, float, str, type(None))) else str(v) for k, v in call.items()}
    return {**made, "call": call, "prompts": len(prompts), "prompts_sha256": text}


def _begin(out: Path, record: dict[str, Any]) -> None:
    """Write how the pairs in `out` are made; raises `ValueError` if others are there."""
    file = out / SETTINGS
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(file, record)
        return
    there = json.loads(file.read_text(encoding="utf-8"))
    for key in sorted(there.keys() | record.keys()):
        if there.get(key) != record.get(key):
            raise ValueError(
                f"the pairs in {out} were made with another {key}, {there.get(key)}, got {record.get(key)}; "
                "choose another folder"
            )


def _append(file: Path, tried: Sequence[Tried]) -> None:
    try:
        torn = file.exists() and file.stat().st_size and not file.read_bytes().endswith(b"\n")
        with file.open("a", encoding="utf-8") as stream:
            stream.write("\n" * bool(torn))
            stream.writelines(json.dumps(one.line, ensure_ascii=False) + "\n" for one in tried)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise unwritable(file, error) from error
