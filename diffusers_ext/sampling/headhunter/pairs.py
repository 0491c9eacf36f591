"""Pair prompts with seeds: a search scores every head on the same pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import MethodError
from ..call import seed_of


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair is a prompt with the seed of its noise."""

    prompt: str
    seed: int


def pairs_of(
    prompts: str | Sequence[str], seeds: int | Sequence[int], count: int, prefix: str = ""
) -> list[Pair]:
    """Return `count` pairs; prompts are repeated until there are as many, each with `prefix` before it.

    `seeds` has a seed for each pair, or is the first of them. Raises `MethodError` for prompts and seeds that
    do not fit.
    """
    texts = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(texts, (list, tuple)) or not texts or not all(isinstance(p, str) for p in texts):
        raise MethodError(f"HeadHunter takes a prompt or a list of prompts, got {prompts!r}; give one.")
    if len(texts) > count:
        raise MethodError(
            f"HeadHunter has {count} pairs for {len(texts)} prompts; set pairs to {len(texts)} or more, or "
            "give fewer prompts."
        )
    if not isinstance(seeds, (list, tuple)):
        numbers = [_seed(_seed(seeds) + j) for j in range(count)]
    elif len(seeds) == count:
        numbers = [_seed(seed) for seed in seeds]
    else:
        raise MethodError(
            f"HeadHunter takes one seed for each of {count} pairs, or the first one, got {len(seeds)}; give "
            "as many."
        )
    pairs = [Pair(prefix + texts[j % len(texts)], number) for j, number in enumerate(numbers)]
    if len(set(pairs)) < count:
        raise MethodError(f"HeadHunter's {count} pairs must differ, got one twice; give other seeds.")
    return pairs


def _seed(seed: Any) -> int:
    try:
        return seed_of(seed)
    except ValueError as error:
        raise MethodError(f"{error}.") from error
