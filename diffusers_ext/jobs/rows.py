"""Define what a source of prompts gives a job: one row for each prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """A row is a prompt of a job, with what is special about it.

    `call` holds arguments of the pipeline that hold for this prompt alone, such as `negative_prompt`. `meta`
    holds what a layout of folders needs, such as the metadata of GenEval. `source` names file and line.
    """

    index: int
    prompt: str
    seed: int | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
