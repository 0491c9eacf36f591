"""Write a sampler as plain data, with its rewards by name, and build it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import MethodError
from ..rewards.base import ensemble
from ..rewards.names import REWARDS, name_of, named
from ..settings import samplers
from ..settings.assign import settable
from ..settings.registry import SAMPLERS
from .plain import fitted, only, settings_of

CHAINED = ("noise", "refine")  # fields that hold another sampler


def to_data(sampler: Any) -> dict[str, Any]:
    """Return a sampler as plain JSON data: name, settings, rewards with weights, and the samplers in it.

    Raises `MethodError` for a sampler, a reward or a network that no name or path stands for.
    """
    name = getattr(sampler, "name", None)
    if name not in SAMPLERS or type(sampler) is not samplers.named(name).cls:
        raise MethodError(
            f"a recipe names its samplers, and {type(sampler).__name__} has no name there; the names are "
            f"{', '.join(SAMPLERS)}."
        )
    network = getattr(sampler, "model", None)
    found = {"name": name, **settings_of(sampler, {} if network is None else {"model": _place(network)})}
    for field in ("rewards", "prune_reward"):
        if (given := getattr(sampler, field, None)) is not None:
            parts = ensemble(given).parts
            found[field] = [{"name": _reward(reward), "weight": weight} for reward, weight in parts]
    inner = {field: getattr(sampler, field) for field in CHAINED}
    return found | {field: to_data(each) for field, each in inner.items() if each is not None}


def from_data(data: Any, source: str, folder: Path | None = None, device: Any = None) -> Any:
    """Build the sampler that `to_data` wrote; rewards go to `device`.

    Raises `ValueError`, naming `source`, for unknown names, keys and settings.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise MethodError(f"{source}: a sampler is a table with its name, got {data!r}; write name.")
    sampler = samplers.named(data["name"])
    objects = [f.name for f in dataclasses.fields(sampler.cls) if f.name in samplers.OBJECTS]
    only(data, ("name", *settable(sampler.cls), *objects), source, sampler.kind)
    values = {key: value for key, value in data.items() if key not in ("name", *objects)}
    values = fitted(sampler.cls, values, source, folder)
    values |= {f: from_data(data[f], source, folder, device) for f in CHAINED if data.get(f) is not None}
    if data.get("prune_reward") is not None:
        values["prune_reward"] = rewards_of(data["prune_reward"], source, device)
    rewards = data.get("rewards")
    return samplers.build(sampler, values, None if rewards is None else rewards_of(rewards, source, device))


def rewards_of(entries: Any, source: str, device: Any = None) -> list[tuple[Any, float]]:
    """Return rewards with their weights from a list of names, or of tables of `name` and `weight`."""
    if isinstance(entries, (str, Mapping)):
        entries = [entries]
    if not isinstance(entries, Sequence):
        raise MethodError(f"{source}: rewards is a list of names, got {entries!r}; for example ['hpsv2'].")
    found = []
    for entry in entries:
        row = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(row, Mapping) or not isinstance(row.get("name"), str):
            raise MethodError(f"{source}: a reward is a name, or a table of name and weight, got {entry!r}.")
        only(row, ("name", "weight"), source, "a reward")
        found.append((named(row["name"], device), row.get("weight", 1.0)))
    ensemble(found)  # checks the weights
    return found


def _reward(reward: Any) -> str:
    if (name := name_of(reward)) is not None:
        return name
    raise MethodError(
        f"a recipe names its rewards, and {reward.name!r} has no name there; the names are "
        f"{', '.join(REWARDS)}, or the folder of one."
    )


def _place(network: Any) -> str:
    """Return the name or the path from which a network was loaded."""
    if name := getattr(network.config, "_name_or_path", None):
        return name
    raise MethodError(
        "a recipe names the network of an NPNet by its path, and this one was not loaded from any; write it "
        "by save_pretrained(), and load the NPNet from that folder."
    )
