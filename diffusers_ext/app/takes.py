"""Find out which methods a model takes, from its configs alone: no weights are read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..calls import PromptMethod
from ..core import Method
from ..errors import MethodError, UnsupportedError
from ..families import FAMILIES
from ..families.denoisers import COMPONENTS
from ..models.checkpoint import Checkpoint
from ..processors.sparse.method import SparseMethod
from ..session.checks import Denoiser, inspect, select
from ..settings.methods import method_class
from ..settings.registry import METHODS

SEVERAL = ("ir-diffusion",)  # they draw several prompts in one call, so they are not for one picture


def offered() -> list[str]:
    """Return the methods that can act on one picture, in the order of the registry."""
    return [name for name in METHODS if name not in SEVERAL]


def refusals(model: Checkpoint) -> dict[str, str]:
    """Return, by method, one sentence why a model does not take it with its usual settings.

    Methods that it takes are not in it, nor are those that only want other settings. A model whose files are
    not here, or whose class is not known, refuses none until it runs.
    """
    try:
        found = _denoisers(model.here())
    except (OSError, ValueError):
        return {}
    known = {} if model.preset is None else model.preset.settings
    said = {}
    for name in offered() if found else ():
        try:
            _check(method_class(name)(**known.get(name, {})), found, model)
        except UnsupportedError as error:
            said[name] = str(error)
        except MethodError:  # of settings, which the visitor may change
            continue
    return said


def _check(method: Method, found: Sequence[Denoiser], model: Checkpoint) -> None:
    if isinstance(method, PromptMethod):
        for each in found:
            if (why := each.family.hides_prompt(each.model)) is not None:
                raise UnsupportedError(
                    f"{method.name} reads the prompt in cross-attention; such models {why}."
                )
    select((method,), [site for each in found for site in each.sites])
    tokens = None if model.preset is None else model.preset.tokens
    if isinstance(method, SparseMethod) and tokens is not None:
        for grid in tokens.grids({}).values():
            if (why := method.refuses(grid.shape)) is not None:
                raise UnsupportedError(f"{why}.")


def _denoisers(model: Checkpoint) -> list[Denoiser]:
    """Return the denoisers of a model without weights, as far as their classes are known."""
    import diffusers
    import torch

    index: Any = json.loads((model.home / "model_index.json").read_text(encoding="utf-8"))
    found = []
    for component in COMPONENTS if isinstance(index, Mapping) else ():
        entry = index.get(component)
        if isinstance(entry, list) and len(entry) == 2 and entry[1] in FAMILIES:
            cls = getattr(diffusers, entry[1])
            with torch.device("meta"):
                denoiser = cls.from_config(cls.load_config(model.home, subfolder=component))
            found.append(inspect(component, denoiser))
    return found
