"""Build methods and samplers that were given as objects or by name, for a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core import Method
from ..errors import MethodError
from ..models.checkpoint import Checkpoint
from ..rewards.base import ensemble
from ..rewards.names import named
from ..settings import methods as method_settings
from ..settings import samplers as sampler_settings
from ..zoo import catalogue


def checkpoint_of(pipe: Any) -> Checkpoint | None:
    """Return the model that a pipeline was loaded from, or `None` if it was built from its parts."""
    name = getattr(pipe, "name_or_path", None)
    if not name:
        return None
    shipped = {Path(catalogue.path(zoo)): zoo for zoo in catalogue.MODELS}
    if Path(name) in shipped:
        return Checkpoint.resolve(shipped[Path(name)])
    if cached := next((part for part in Path(name).parts if part.startswith("models--")), None):
        return Checkpoint(cached.removeprefix("models--").replace("--", "/", 1))  # in the cache of the Hub
    return Checkpoint(name, Path(name) if Path(name).is_dir() else None)


def name_of(checkpoint: Checkpoint) -> str:
    """Return the name under which a recipe finds a model again; the path of a local folder is absolute."""
    local = checkpoint.folder is not None and not checkpoint.shipped
    return str(checkpoint.folder.resolve()) if local else checkpoint.name


def methods(given: Any, checkpoint: Checkpoint | None) -> tuple[Any, ...]:
    """Return methods, those given by name with the settings that are known for the model.

    Raises `ValueError` for unknown names, and for one that comes twice.
    """
    known = checkpoint.preset if checkpoint is not None else None
    tables = known.settings if known is not None else {}
    given = listed(given)
    names = [each for each in given if isinstance(each, str)]
    method_settings.once(names)
    by_name = dict(zip(names, method_settings.build(names, (), tables, required=False), strict=True))
    return tuple(by_name[each] if isinstance(each, str) else each for each in given)


def listed(given: Any) -> tuple[Any, ...]:
    """Return methods as a tuple; one alone needs no list. Raises `MethodError` for other objects."""
    if isinstance(given, (str, Method)):
        return (given,)
    if not isinstance(given, (list, tuple)):
        step = "pass it as sampler=" if hasattr(given, "sample") else "write methods=[dx.SoftPAG()]"
        raise MethodError(f"methods is a list of methods, got {given!r}; {step}.")
    return tuple(given)


def sampler(given: Any, rewards: Any, checkpoint: Checkpoint | None) -> Any:
    """Return a sampler; one given by name, as `npnet+best-of-8`, has `rewards`.

    Raises `ValueError` for unknown names, for rewards that are none, and for rewards beside an object, which
    has its own.
    """
    if not isinstance(given, str):
        if rewards is not None:
            raise MethodError("a sampler that is an object has its own rewards; pass them to it.")
        return given
    names, chain = sampler_settings.parts(given)
    if names or not chain:
        raise MethodError(f"sampler takes the name of a search, got {given!r}; for example 'best-of-8'.")
    if rewards is None and checkpoint is not None:
        rewards = checkpoint.reward
    scorers = _rewards(rewards)
    if scorers is None and any(each.cls.needs_rewards for each in chain):
        raise MethodError(
            f"{given} chooses by a reward, and none is known for this model; pass rewards=['hpsv2']."
        )
    return sampler_settings.chained([sampler_settings.build(each, {}, scorers) for each in chain])


def _rewards(given: Any) -> Any:
    """Return rewards with those given by name built; there may be one, or a list that may have weights."""
    if given is None:
        return None
    found = [_named(each) for each in given] if isinstance(given, (list, tuple)) else _named(given)
    ensemble(found)  # refuses what is no reward now, and not after the first pictures
    return found


def _named(each: Any) -> Any:
    if isinstance(each, (list, tuple)) and len(each) == 2:
        return _named(each[0]), each[1]
    return named(each) if isinstance(each, str) else each
