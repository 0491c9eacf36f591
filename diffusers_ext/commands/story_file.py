"""Read a story from a TOML file and from options of the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..pipelines.story_text import StoryScene

if TYPE_CHECKING:
    from ..models.checkpoint import Checkpoint

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


def method_of(told: Told, settings: Sequence[str], checkpoint: Checkpoint, preset: bool | None) -> Any:
    """Build the method: the settings known for the model, those of the file, then those of `--set`.

    `preset` False leaves the first, True requires them.
    """
    from ..settings.methods import build, checked

    name, masks = "ir-diffusion", ("reference_masks", "scene_masks")
    table = checked(name, told.settings, "the story's method")
    named = [*table, *(text.partition("=")[0].split(".")[-1] for text in settings)]
    if given := [key for key in named if key in masks]:
        raise ValueError(f"a story finds {given[0]} by itself; leave it out, or use dx.IRDiffusion in Python")
    found = checkpoint.required_preset() if preset else checkpoint.preset
    known = found.settings.get(name, {}) if found and preset is not False else {}
    if preset and not known:
        raise ValueError(f"no settings of {name} are known for {checkpoint.name}; leave --preset out")
    (method,) = build([name], settings, {name: {**known, **table}}, required=False)
    return method


def segmenter_of(masks: str, world: bool, subjects: Mapping[str, str]) -> Any:
    """Return the function that finds subjects; `None` stands for cross-attention.

    `world` says that the model is one of shapes world. Raises `ValueError` for an unknown name, and for
    subjects that the detector does not know.
    """
    from ..zoo.world.captions import parse
    from ..zoo.world.detect import find

    if masks not in ("auto", "attention", "detector"):
        raise ValueError(f"--masks is auto, attention or detector, got {masks!r}; choose one")
    if masks == "attention" or (masks == "auto" and not world):
        return None
    for text in subjects.values():
        try:
            single = len(parse(text).objects) == 1
        except ValueError:
            single = False
        if not single and masks == "auto":
            return None
        if not single:
            raise ValueError(
                "--masks detector finds single objects of shapes world such as 'a red circle', got "
                f"{text!r}; use --masks attention"
            )
    return find


def _table(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(
            f"the story {str(path)!r} cannot be read ({error.strerror}); name a TOML file, or give "
            "--subject and --scene"
        ) from error
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
