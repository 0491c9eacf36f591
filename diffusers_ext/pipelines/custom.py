"""Define the class that `custom_pipeline` of diffusers gets from the folder of a recipe."""

from __future__ import annotations

import copy
import json
from functools import wraps
from typing import Any

from ..errors import MethodError
from .base import ExtPipeline
from .recipe import from_dict


def recipe_class(name: str, text: str) -> type:
    """Return a subclass of a pipeline of diffusers whose calls run under a recipe.

    `name` is the class in diffusers, and `text` the recipe as JSON. Components and configuration are those of
    that class. Its calls return what `ExtPipeline` does. Raises `MethodError` for an unknown class, and for a
    text that is no recipe.
    """
    import diffusers

    stock = getattr(diffusers, name, None)
    if not (isinstance(stock, type) and issubclass(stock, diffusers.DiffusionPipeline)):
        raise MethodError(f"diffusers has no pipeline {name!r}; write the recipe again with this version.")
    recipe = from_dict(json.loads(text), "pipeline.py")

    @wraps(stock.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        # The stock class around the same components: sessions and samplers know pipelines by their class.
        plain = copy.copy(self)
        plain.__class__ = stock
        return ExtPipeline(plain, recipe.methods, recipe.sampler, call=recipe.call)(*args, **kwargs)

    return type(stock)(stock.__name__, (stock,), {"__call__": call, "__doc__": stock.__doc__})
