"""Find the pictures of a folder that has the layout of a benchmark, with the prompt of each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..outputs.parameters import parse
from ..outputs.record import PICTURES, sources
from .layouts import LAYOUTS, layout
from .prompts.entries import check_prompt

_COMPBENCH = re.compile(r"(.+)_(\d{6})")


@dataclass(frozen=True, slots=True)
class Found:
    """A picture on the disk, and the prompt that it was made for."""

    path: Path
    prompt: str


def find(root: Path, name: str = "flat") -> Iterator[Found]:
    """Yield the pictures below `root` in the order of their paths, as the evaluator of a layout finds them.

    Prompts come from `metadata.jsonl` for geneval and from the name of the file for t2i-compbench. Otherwise
    they are in the picture, or in the JSON or text file beside it.

    Raises `ValueError` for an unknown layout, for a folder without such pictures, and for a picture whose
    prompt is nowhere.
    """
    layout(name)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder of pictures {str(root)!r}; check the path")
    any_found = False
    for found in _READERS[name](root):
        any_found = True
        yield found
    if not any_found:
        raise ValueError(
            f"{str(root)!r} has no pictures in the layout {name}; name another folder, or one of the layouts "
            f"{', '.join(LAYOUTS)}"
        )


def _geneval(root: Path) -> Iterator[Found]:
    for folder in sorted(f for f in root.iterdir() if f.is_dir() and f.name.isdigit()):
        file = folder / "metadata.jsonl"
        try:
            prompt = check_prompt(json.loads(file.read_text(encoding="utf-8"))["prompt"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{str(file)!r} does not say the prompt of its pictures ({type(error).__name__}); write "
                "it again"
            ) from error
        pictures = (p for p in (folder / "samples").glob("*.png") if re.fullmatch(r"\d+", p.stem))
        yield from (Found(path, prompt) for path in sorted(pictures))


def _compbench(root: Path) -> Iterator[Found]:
    """Look into each folder of samples; a category may be named itself."""
    for folder in sorted(f for f in (root, *root.iterdir()) if (f / "samples").is_dir()):
        for path in sorted((folder / "samples").glob("*.png"), key=lambda p: p.stem[-6:]):
            if match := _COMPBENCH.fullmatch(path.stem):
                yield Found(path, match[1])


def _below(root: Path) -> Iterator[Found]:
    for folder in sorted(f for f in root.iterdir() if f.is_dir()):
        yield from _flat(folder)


def _flat(root: Path) -> Iterator[Found]:
    for path in sorted(root.iterdir()):
        if path.suffix.lower() in PICTURES and path.is_file():
            yield Found(path, prompt_of(path))


def prompt_of(path: Path) -> str:
    """Return the prompt in a picture, or in the JSON or text file beside it; raises `ValueError` for none."""
    record, block, _ = sources(path)
    if record is not None and isinstance(record.get("prompt"), str):
        return record["prompt"]
    if block is not None:
        return parse(block)[0]
    text = path.with_suffix(".txt")
    if text.is_file():
        return text.read_text(encoding="utf-8-sig").strip()
    raise ValueError(
        f"the prompt of {str(path)!r} is neither in it nor in a .json or .txt file beside it; write it into "
        "such a file, or name the layout of the folder"
    )


_READERS: Mapping[str, Callable[[Path], Iterator[Found]]] = MappingProxyType(
    {
        "flat": _flat,
        "geneval": _geneval,
        "t2i-compbench": _compbench,
        "hpdv2": _below,
        "drawbench": _below,
    }
)
