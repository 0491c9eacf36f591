"""Score pictures that are estimated during sampling, by weights that were trained for their noise level."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..outputs.files import output_folder, write_bytes, write_json
from ..zoo.cards import checksums, weight_files
from .base import Reward
from .clip import CLIPReward
from .shapes import ShapesCLIP
from .weights import read_weights

FILE = "noise_aware.json"


class NoiseAware(Reward):
    """Score estimates at a noise level by the weights that were trained for the nearest level.

    TTSnap (2511.22242): a reward of clean pictures is fine-tuned on estimates of each level, so that it
    ranks them as it ranks the finished pictures. A level is the share of noise in a sample, 0 to 1. That is
    sigma of flow matching, sigma / (1 + sigma) where the variance explodes, and
    sqrt(1 - a) / (sqrt(a) + sqrt(1 - a)) for a signal of sqrt(a).

    `levels` maps a level to tensors of the CLIPModel of `base`, by the names of its `state_dict`. Those that
    equal the base are dropped, the rest is kept in fp16. `base` itself is level 0 unless `levels` has that.
    Raises `ValueError` for levels outside 0..1, and for tensors that the model has not.
    """

    name = "noise-aware"

    def __init__(self, base: CLIPReward, levels: Mapping[float, Mapping[str, Tensor]]):
        if not isinstance(base, CLIPReward):
            raise ValueError(
                f"a noise-aware reward is made of a reward with a CLIPModel, got {base!r}; pass "
                "dx.rewards.ShapesCLIP()"
            )
        if not levels:
            raise ValueError(
                "a noise-aware reward needs weights for at least one level, got none; train some"
            )
        own = base.model.state_dict()
        self.base = base
        self.place: str | None = None  # the folder that it was read from
        self.levels = {_level(level): _changed(level, levels[level], own) for level in sorted(levels)}
        self.differentiable = base.differentiable
        self._built = {} if 0.0 in self.levels else {0.0: base}  # rewards by their level, made on first use

    def at(self, level: float) -> CLIPReward:
        """Return the reward of the closest level; of two, that with less noise."""
        asked = _level(level)
        nearest = min({0.0, *self.levels}, key=lambda known: (abs(known - asked), known))
        if nearest not in self._built:
            self._built[nearest] = _replaced(self.base, self.levels[nearest])
        return self._built[nearest]

    def _score(self, images: Tensor, prompts: list[str]) -> Tensor:
        return self.at(0.0).score(images, prompts)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Save a table of the levels, and for each a safetensors file of the tensors that are not the base's.

        The base is saved by its name and the checksums of its weights.
        """
        from safetensors.torch import save

        home = output_folder(folder)
        files = {level: f"level-{level!r}.safetensors" for level in self.levels}
        for level, tensors in self.levels.items():
            write_bytes(home / files[level], save(tensors, {"format": "pt"}))
        rows = [{"level": level, "file": file} for level, file in files.items()]
        write_json(home / FILE, {"base": self.base.name, "sha256": _sums(self.base), "levels": rows})
        for other in {*home.glob("level-*.safetensors")} - {home / file for file in files.values()}:
            other.unlink()  # of a reward that was saved here before

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        base: CLIPReward | None = None,
        device: str | torch.device | None = None,
    ) -> NoiseAware:
        """Load what `save_pretrained` wrote. Without `base` the shipped ShapesCLIP is the base.

        Raises `FileNotFoundError` without a table, and `ValueError` for another base than that of training.
        """
        home = Path(folder)
        if not (home / FILE).is_file():
            raise FileNotFoundError(
                f"a noise-aware reward is a folder with {FILE}, and {str(home)!r} has none; pass the folder "
                "that its training wrote"
            )
        table = _table(home / FILE)
        if base is None:
            base = ShapesCLIP(device=device)
        if (base.name, _sums(base)) != (table["base"], table["sha256"]):
            raise ValueError(
                f"{str(home)!r} was trained on other weights of {table['base']!r} than those of the base "
                f"{base.name!r} in {base.place!r}; pass its own base as base="
            )
        found = cls(base, {row["level"]: read_weights(home / row["file"]) for row in table["levels"]})
        found.place = str(home.resolve())
        return found


def _table(path: Path) -> dict[str, Any]:
    """Read the table of levels; raises `ValueError` if it is none."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if {"base", "sha256", "levels"} <= table.keys() and all(
            isinstance(row["level"], (int, float)) and Path(row["file"]).name == row["file"]
            for row in table["levels"]
        ):
            return table
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise ValueError(
        f"{str(path)!r} is no table of levels, as save_pretrained writes it; save the reward again"
    )


def _level(level: float) -> float:
    value = float(level)
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise ValueError(
            f"a noise level is the share of noise in a sample, 0 to 1, got {level!r}; convert it"
        )
    return value


def _changed(level: float, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors in fp16 that differ from those of the base `own`."""
    found = {}
    for name, value in tensors.items():
        if name not in own or own[name].shape != value.shape:
            came = list(value.shape)
            rule = f"must be {list(own[name].shape)}" if name in own else "is no tensor of the base"
            raise ValueError(
                f"{name!r} of level {level:g} {rule}, got {came}; take state_dict() of a model like the base"
            )
        half = value.detach().to("cpu", torch.float16).contiguous()
        if any(torch.equal(same.to(own[name]), own[name]) for same in (value.detach(), half)):
            continue
        if not torch.isfinite(half).all():
            raise ValueError(
                f"{name!r} of level {level:g} must be finite and below 65504, which fp16 holds; train again"
            )
        found[name] = half
    return found


def _replaced(base: CLIPReward, tensors: Mapping[str, Tensor]) -> CLIPReward:
    """Return a copy of `base` with some tensors replaced; the others are shared."""
    shared = [*base.model.parameters(), *base.model.buffers()]
    model = copy.deepcopy(base.model, {id(tensor): tensor for tensor in shared})
    for name, value in tensors.items():
        home, _, leaf = name.rpartition(".")
        old = getattr(model.get_submodule(home), leaf)
        new = value.to(old.device, old.dtype)
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=False)
        setattr(model.get_submodule(home), leaf, new)
    reward = copy.copy(base)
    vars(reward)["model"] = model
    return reward


def _sums(base: CLIPReward) -> dict[str, str]:
    """Return the checksums of the weight files of a base."""
    home = Path(base.place)
    return checksums(weight_files(home), home)
