"""Read recipes from single files, JSON or TOML, and write them as JSON."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

from ..errors import MethodError
from ..outputs.files import write_json
from .recipe import Recipe, from_dict

FILE = "recipe.json"
ENDINGS = (".json", ".toml")


def find(place: str | os.PathLike[str]) -> Path | None:
    """Return the file of a recipe: `place` itself, or the one in the folder `place`; `None` if neither is."""
    path = Path(place).expanduser()
    if path.suffix in ENDINGS and not path.is_dir():
        return path
    return next((path / f"recipe{end}" for end in ENDINGS if (path / f"recipe{end}").is_file()), None)


def read(place: str | os.PathLike[str], device: Any = None) -> Recipe:
    """Read a recipe from a file, or from a folder with a `recipe.json` or a `recipe.toml`.

    Raises `OSError` for a file that cannot be read, and `MethodError`, naming it, for one that is no recipe.
    """
    path = find(place)
    if path is None:
        raise FileNotFoundError(
            f"a recipe is a file that ends in {' or '.join(ENDINGS)}, or a folder with one, got "
            f"{os.fspath(place)!r}; check the path"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise OSError(f"cannot read the recipe {str(path)!r} ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        kind = path.suffix[1:].upper()
        raise MethodError(f"{path} is no {kind} in UTF-8 ({error}); write the recipe again.") from error
    return from_dict(data, str(path), path.parent, device)


def write(recipe: Recipe, path: str | os.PathLike[str]) -> Path:
    """Write a recipe as JSON; return the path.

    Raises `MethodError` for another ending and for what a recipe cannot hold, and `OSError` if the file
    cannot be written.
    """
    path = target(path)
    write_json(path, recipe.to_dict())
    return path


def target(path: str | os.PathLike[str]) -> Path:
    """Return the path to write a recipe to; raises as `write` does for a name or folder that will not do."""
    path = Path(path).expanduser()
    if path.suffix != ".json":  # TOML has no null, which stands for all heads of a module
        raise MethodError(f"recipes are written as JSON, got {path.name!r}; name it {path.stem}.json.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} for the recipe; make it first")
    return path
