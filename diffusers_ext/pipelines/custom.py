"""Let diffusers load a recipe: the class that a `custom_pipeline` of a recipe's folder gives."""

from __future__ import annotations

import copy
import json
from functools import wraps
from typing import Any

from ..errors import MethodError
from .recipe import Recipe, from_dict

# diffusers copies this one file elsewhere before it runs it, so it holds the recipe itself.
TEMPLATE = '''"""Run a recipe of diffusers_ext as a custom pipeline of diffusers.

`save_pretrained` wrote this file beside recipe.json, with the same content; change neither by hand alone.
"""

from diffusers_ext.pipelines.custom import recipe_class

Pipeline = recipe_class({name!r}, {text!r})
'''


def source(recipe: Recipe) -> str:
    """Return the code of `pipeline.py` for a recipe; raises `MethodError` for what it cannot hold."""
    return TEMPLATE.format(name=recipe.pipeline, text=json.dumps(recipe.to_dict(), allow_nan=False))


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
        from .base import ExtPipeline

        # The stock class around the same components: sessions and samplers know pipelines by their class.
        plain = copy.copy(self)
        plain.__class__ = stock
        return ExtPipeline(plain, recipe.methods, recipe.sampler, call=recipe.call)(*args, **kwargs)

    return type(stock)(stock.__name__, (stock,), {"__call__": call, "__doc__": stock.__doc__})
