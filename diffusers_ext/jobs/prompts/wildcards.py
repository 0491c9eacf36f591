"""Write out variants and wildcards in prompts, such as `a {red|blue} __animal__`, fixed by a seed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from ..rows import Row

if TYPE_CHECKING:
    from dynamicprompts.wildcards.wildcard_manager import WildcardManager


def expand(
    rows: Iterable[Row], wildcards: str | os.PathLike[str] | None = None, seed: int = 0
) -> Iterator[Row]:
    """Yield each row with one choice for each of its variants and wildcards, as dynamicprompts writes them.

    `wildcards` is a folder of text, JSON or YAML files. A choice depends on `seed` and the index of the row
    alone. The prompt as it was is kept in `meta["template"]`.

    Raises `ValueError` with the place of the row for a prompt that is no template, for a wildcard without
    values, and for wildcards that name each other in a circle.
    """
    try:
        from dynamicprompts.enums import SamplingMethod
        from dynamicprompts.sampling_context import SamplingContext
        from dynamicprompts.wildcards.wildcard_manager import WildcardManager
    except ImportError as error:
        raise ValueError(
            "wildcards need the package dynamicprompts; run pip install 'diffusers-ext[wildcards]'"
        ) from error
    folder = None if wildcards is None else Path(wildcards).expanduser()
    if folder is not None and not folder.is_dir():
        raise ValueError(f"wildcards are files in a folder, and there is no folder {str(folder)!r}")
    manager = WildcardManager(folder)
    guard = _Guard(manager)
    for row in rows:
        try:
            template = guard.checked(row.prompt)
            context = SamplingContext(SamplingMethod.RANDOM, manager, rand=Random(f"{seed} {row.index}"))
            prompt = "".join(found.text for found in context.sample_prompts(template, 1))
        except (ValueError, KeyError, RecursionError) as error:
            reason = error.args[0] if isinstance(error, KeyError) else error
            raise ValueError(f"{row.source}: {reason}") from error
        yield dataclasses.replace(row, prompt=prompt, meta={**row.meta, "template": row.prompt})


class _Guard:
    """Refuse what dynamicprompts would leave in the prompt, or never come back from."""

    def __init__(self, manager: WildcardManager) -> None:
        self._manager = manager
        self._good: set[str] = set()
        # Parsing takes milliseconds, and a job often has one template for many rows.
        self._parsed = lru_cache(1000)(_parsed)

    def checked(self, text: str, above: tuple[str, ...] = ()) -> Any:
        """Parse a text; raises `ValueError` if wildcards are missing, or name each other in a circle.

        `above` are the wildcards that the text comes from.
        """
        parsed = self._parsed(text)
        for name in _wildcards(parsed):
            if name in above:
                circle = " > ".join(f"__{n}__" for n in (*above[above.index(name) :], name))
                raise ValueError(f"the wildcards name each other in a circle, {circle}; take one of them out")
            if name in self._good:
                continue
            # For these the library itself logs a line, and leaves the name in the prompt.
            found = [] if ".." in name else list(self._manager.match_collections(name))
            values = self._manager.get_values(name).string_values if found else []
            if not values:
                raise ValueError(self._missing(name, bool(found)))
            for value in values:
                self.checked(value, (*above, name))
            self._good.add(name)
        return parsed

    def _missing(self, name: str, empty: bool) -> str:
        from ...core import nearest_names

        if empty:
            return f"the wildcard __{name}__ has no values; write one a line into its file"
        if not (known := sorted(self._manager.get_collection_names())):
            return f"the wildcard __{name}__ has no file; give the job a folder of wildcards"
        return f"the wildcard __{name}__ has no file; nearest is __{nearest_names(name, known, count=1)[0]}__"


def _parsed(text: str) -> Any:
    from dynamicprompts.parser.parse import parse
    from pyparsing import ParseBaseException

    if "#" in text:
        raise ValueError(f"a # begins a comment in templates, which would cut off the rest of {text[:60]!r}")
    try:
        return parse(text)
    except ParseBaseException as error:
        raise ValueError(f"{text[:60]!r} is no template from character {error.loc + 1} on") from None


def _wildcards(part: Any) -> Iterator[str]:
    """Yield the names of wildcards in a parsed prompt, at any depth."""
    from dynamicprompts.commands import WildcardCommand

    if isinstance(part, WildcardCommand):
        if not isinstance(part.wildcard, str):
            raise ValueError("a wildcard whose name is chosen itself cannot be checked; write its name out")
        yield part.wildcard
    if dataclasses.is_dataclass(part):
        part = vars(part)
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, (list, tuple)) else ():
        yield from _wildcards(inner)
