"""Make names of files from templates such as `{index:05d}-{slug}-{seed}`, below one folder."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from string import Formatter
from typing import Any

from .files import slug

MOST = 240  # bytes of a name; file systems take 255, and files beside it have longer endings
_VALUE = 120  # bytes of a text in a name; the rest is cut off
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # devices of Windows
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]+')


def name(template: str, facts: Mapping[str, Any], root: str | os.PathLike[str], suffix: str = "") -> Path:
    """Return the path of a file below `root`, named by `template` with the values of `facts`.

    `/` in the template makes folders; in values it becomes `-`. Fields are written as Python writes them,
    `{index:05d}`. `{slug}` is the prompt in harmless letters. Texts are cut at 120 bytes.

    Raises `ValueError` for what `check` refuses, for a value that a field cannot write, for a name above 240
    bytes, and where a link would lead out of `root`. Creates nothing.
    """
    facts = dict(facts)
    if "prompt" in facts:
        facts.setdefault("slug", slug(facts["prompt"]))
    check(template, facts)
    parts = [component(_filled(part, facts, template)) for part in template.split("/")]
    parts[-1] += suffix
    if long := next((part for part in parts if len(part.encode()) > MOST), None):
        raise ValueError(
            f"the name {template!r} takes {len(long.encode())} bytes, {MOST} are the most; use fewer fields"
        )
    return inside(root, Path(*parts))


def check(template: str, known: Collection[str]) -> None:
    """Raise `ValueError` unless a template stays below its folder and has only fields that are `known`."""
    parts = template.split("/")
    outside = template.startswith(("/", "~")) or "\\" in template or re.match(r"[A-Za-z]:", template)
    if outside or any(part.strip() in ("", ".", "..") for part in parts):
        raise ValueError(
            f"a name stays below the output folder, got {template!r}; write names with / between folders, as "
            "{category}/{index:05d}"
        )
    names = sorted({*known, *(["slug"] if "prompt" in known else [])})
    for part in parts:
        for field, spec in _fields(part, template):
            if field not in names:
                near = next(iter(difflib.get_close_matches(field, names, 1, 0.0)), "")
                raise ValueError(
                    f"the name {template!r} has an unknown field {field!r}; nearest is {near!r}, valid are "
                    f"{', '.join(names)}"
                )
            if "{" in spec or re.search(r"\d{3}", spec):
                raise ValueError(f"the name {template!r} has a format {spec!r} of {field}; write it as 05d")


def component(text: str) -> str:
    """Return a text as the name of one file or folder, on every system."""
    clean = _UNSAFE.sub("-", text).strip().rstrip(". ")
    if clean.startswith("."):  # hidden, and used for files that are not complete
        clean = "_" + clean[1:]
    return f"{clean}_" if not clean or _RESERVED.fullmatch(clean) else clean


def inside(root: str | os.PathLike[str], path: Path) -> Path:
    """Return `path` below `root`; raises `ValueError` if links lead out of it."""
    base = os.path.realpath(root)
    found = os.path.realpath(os.path.join(base, path))
    if os.path.commonpath([base, found]) != base:
        raise ValueError(
            f"{str(path)!r} would lead out of the output folder {os.fspath(root)!r}; choose another name"
        )
    return Path(root) / path


def cut(text: str, most: int) -> str:
    """Return the beginning of a text that has at most `most` bytes in UTF-8."""
    return text.encode()[:most].decode(errors="ignore")


def _fields(part: str, template: str) -> list[tuple[str, str]]:
    try:
        found = [piece for piece in Formatter().parse(part) if piece[1] is not None]
    except ValueError as error:
        raise ValueError(f"the name {template!r} is no template: {error}; write {{index}}") from None
    if any(conversion for *_, conversion in found):
        raise ValueError(f"the name {template!r} has a conversion with '!'; leave it out")
    return [(field, spec or "") for _, field, spec, _ in found]


def _filled(part: str, facts: Mapping[str, Any], template: str) -> str:
    text = ""
    for literal, field, spec, _ in Formatter().parse(part):
        text += literal
        if field is not None:
            value = facts[field]
            try:
                written = format(value, spec or "")
            except (TypeError, ValueError) as error:
                raise ValueError(f"the name {template!r} cannot write {field} {value!r}: {error}") from None
            text += cut(_UNSAFE.sub("-", written), _VALUE)
    return text
