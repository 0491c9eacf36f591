"""Read a story from a TOML file and from options of the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..pipelines.story_text import StoryScene

KEYS = "seed", "subjects", "scenes", "method"


@dataclass(frozen=True)
class Told:
    """Holds what a story asks for: subjects by name, scenes, a seed if any, and settings of the method."""

    subjects: Mapping[str, str]
    scenes: Sequence[str | StoryScene]
    seed: int | None
    settings: Mapping[str, Any]


def read(path: str | None, subjects: Sequence[str], scenes: Sequence[str]) -> Told:
    """Return the story of a file with what options add to it.

    Raises `ValueError` for a file that is not TOML, keys that a story does not have, and options that are not
    `NAME=TEXT`.
    """
    table: dict[str, Any] = {} if path is None else _table(Path(path).expanduser())
    named = dict(_fits(path, table, "subjects", Mapping, "a table of names and texts"))
    for option in subjects:
        name, equals, text = option.partition("=")
        if not equals:
            raise ValueError(f"--subject takes NAME=TEXT, got {option!r}; for example 'ann=a red circle'")
        named[name.strip()] = text.strip()
    listed = [*_fits(path, table, "scenes", list, "a list of texts"), *scenes]
    if not named or not listed:
        raise ValueError(
            f"a story has subjects and scenes, got {len(named)} and {len(listed)}; name a TOML file, or give "
            "--subject 'ann=a red circle' --scene 'ann and a blue star'"
        )
    seed = table.get("seed")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise ValueError(f"{path}: seed is a whole number, got {seed!r}; for example seed = 7")
    settings = _fits(path, table, "method", Mapping, "a table of settings")
    return Told(named, [_scene(path, scene) for scene in listed], seed, settings)


def _table(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML ({error}); correct it there") from error
    if unknown := next((key for key in table if key not in KEYS), None):
        raise ValueError(
            f"{path}: the keys of a story are {', '.join(KEYS)}, got {unknown!r}; use one of these"
        )
    return table


def _fits(path: str | None, table: Mapping[str, Any], key: str, kind: type, words: str) -> Any:
    value = table.get(key, kind() if kind is list else {})
    if not isinstance(value, kind):
        raise ValueError(f"{path}: {key} is {words}, got {value!r}; write it so")
    return value


def _scene(path: str | None, scene: Any) -> str | StoryScene:
    if not isinstance(scene, Mapping):
        return scene
    prompt, subjects = scene.get("prompt"), scene.get("subjects", {})
    if (
        set(scene) - {"prompt", "subjects"}
        or not isinstance(prompt, str)
        or not isinstance(subjects, Mapping)
    ):
        raise ValueError(
            f"{path}: a scene is a text, or a table of its prompt and the words of its subjects, got "
            f"{dict(scene)!r}; for example {{prompt = 'the circle rests', subjects = {{ann = 'circle'}}}}"
        )
    return StoryScene(prompt, dict(subjects))
