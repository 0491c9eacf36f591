"""Name the pictures of a job as the evaluators of benchmarks expect them."""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, ClassVar

from ..outputs.files import subfolder, write_bytes
from ..outputs.names import component, cut
from .rows import Row

NAME_BYTES = 255  # of a file name, on the file systems in use
# T2I-CompBench makes 10 pictures a prompt, and numbers all of a category by six digits.
_COMPBENCH_MOST, _COMPBENCH_PROMPTS = 10, 10**5
_WORDS = MappingProxyType({"geneval": "metadata"})


class Layout(ABC):
    """A layout gives each picture of a job a path below the output folder.

    `suffix` is the only ending that the evaluator reads, or `None` for any. Nothing but pictures belongs
    beside pictures: some evaluators take every file there for one.
    """

    suffix: ClassVar[str | None] = None

    @abstractmethod
    def path(self, row: Row, k: int, suffix: str) -> PurePosixPath:
        """Return the path of the `k`-th picture of a row, counted from 0.

        Raises `ValueError` for a row that lacks what the layout needs, and for a `suffix` or `k` that the
        evaluator does not read.
        """

    def beside(self, row: Row) -> Mapping[PurePosixPath, bytes]:
        """Return the other files that the evaluator reads of a row, with their content."""
        return {}

    def _checked(self, row: Row, k: int, suffix: str, most: int | None = None) -> None:
        name = next(name for name, layout in LAYOUTS.items() if layout is self)
        if self.suffix not in (None, suffix):
            raise ValueError(f"the evaluator of {name} reads {self.suffix} files, got {suffix!r}")
        if most is not None and k >= most:
            raise ValueError(f"the layout {name} takes at most {most} pictures for a prompt, got {k + 1}")


class Flat(Layout):
    """Put all pictures into one folder, as `00012-0.png`."""

    def path(self, row: Row, k: int, suffix: str) -> PurePosixPath:
        return PurePosixPath(f"{row.index:05d}-{k}{suffix}")


class GenEval(Layout):
    """Make a folder for each prompt, with `metadata.jsonl` and `samples/00000.png`."""

    suffix = ".png"

    def path(self, row: Row, k: int, suffix: str) -> PurePosixPath:
        self._checked(row, k, suffix)
        return PurePosixPath(f"{row.index:05d}", "samples", f"{k:05d}{suffix}")

    def beside(self, row: Row) -> Mapping[PurePosixPath, bytes]:
        facts = _fact(row, "geneval", "geneval", Mapping)
        text = json.dumps(facts, ensure_ascii=False) + "\n"
        return {PurePosixPath(f"{row.index:05d}", "metadata.jsonl"): text.encode()}


class CompBench(Layout):
    """Make a folder for each category, with `samples/<prompt>_000120.png`."""

    suffix = ".png"

    def path(self, row: Row, k: int, suffix: str) -> PurePosixPath:
        self._checked(row, k, suffix, _COMPBENCH_MOST)
        category, number = _fact(row, "category", "t2i-compbench"), _number(row, "t2i-compbench")
        if number >= _COMPBENCH_PROMPTS:
            raise ValueError(
                f"the layout t2i-compbench takes at most {_COMPBENCH_PROMPTS} prompts a category, "
                f"got {number + 1}"
            )
        end = f"_{number * _COMPBENCH_MOST + k:06d}{suffix}"
        prompt = row.prompt.replace("/", "-")
        kept = cut(prompt, NAME_BYTES - len(end))
        if kept != prompt:
            warnings.warn(
                f"diffusers_ext: {row.source} is longer than a file name, from which the evaluator of "
                "t2i-compbench reads it; the end is cut off",
                stacklevel=2,
            )
        return PurePosixPath(component(category), "samples", kept + end)


class HPDv2(Layout):
    """Make a folder for each style, with `00012.jpg`."""

    suffix = ".jpg"

    def path(self, row: Row, k: int, suffix: str) -> PurePosixPath:
        self._checked(row, k, suffix, 1)
        number = _number(row, "hpdv2")
        return PurePosixPath(component(_fact(row, "style", "hpdv2")), f"{number:05d}{suffix}")


class DrawBench(Layout):
    """Make a folder for each category, with `00012.png` and, for more pictures, `00012-1.png`."""

    def path(self, row: Row, k: int, suffix: str) -> PurePosixPath:
        number = _number(row, "drawbench")
        more = f"-{k}" if k else ""
        return PurePosixPath(component(_fact(row, "category", "drawbench")), f"{number:05d}{more}{suffix}")


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "flat": Flat(),
        "geneval": GenEval(),
        "t2i-compbench": CompBench(),
        "hpdv2": HPDv2(),
        "drawbench": DrawBench(),
    }
)


def layout(name: str) -> Layout:
    """Find a layout by its name; raises `ValueError` with the known names."""
    if name not in LAYOUTS:
        raise ValueError(f"unknown layout {name!r}; the layouts are {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def prepare(root: Path, layout: Layout, row: Row, suffix: str) -> None:
    """Make the folder of a row's pictures and write the files beside them, before any picture is made.

    Evaluators fail on a folder that is missing, so it is there even if no picture can be made. Files that
    hold the same already are left alone.
    """
    subfolder(root, *layout.path(row, 0, suffix).parts[:-1])
    for name, content in layout.beside(row).items():
        path = root / name
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)


def _number(row: Row, layout: str) -> int:
    """Return the number of a row in its benchmark. Columns of a table hold it as text."""
    number = row.meta.get("number", row.index)
    if isinstance(number, str) and number.isascii() and number.isdecimal():
        return int(number)
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(
            f"the layout {layout} takes whole numbers from 0 as the number of a prompt, got {number!r} in "
            f"{_place(row)}; correct it, or choose flat"
        )
    return number


def _fact(row: Row, name: str, layout: str, kind: type = str) -> Any:
    if name not in row.meta:
        raise ValueError(
            f"the layout {layout} needs the {_WORDS.get(name, name)} of each prompt, and "
            f"{_place(row)} has none; read prompts in the format {layout}, or choose flat"
        )
    if not isinstance(row.meta[name], kind):
        what = "text" if kind is str else "a table of keys"
        raise ValueError(
            f"the layout {layout} takes {what} as the {_WORDS.get(name, name)} of a prompt, got "
            f"{row.meta[name]!r} in {_place(row)}; correct it, or choose flat"
        )
    return row.meta[name]


def _place(row: Row) -> str:
    return row.source or repr(row.prompt)
