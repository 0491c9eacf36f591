"""Write the `pipeline.py` by which diffusers loads a recipe as a custom pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .recipe import Recipe

# diffusers copies this one file elsewhere before it runs it, so it holds the recipe itself.
TEMPLATE = '''"""Run a recipe of diffusers_ext as a custom pipeline of diffusers.

`save_pretrained` wrote this file beside recipe.json. It has the same content, and the arguments that the
model was trained for.
"""

from diffusers_ext.pipelines.custom import recipe_class

Pipeline = recipe_class({name!r}, {text!r})
'''


def source(recipe: Recipe, own: Mapping[str, Any]) -> str:
    """Return the code for a recipe of a model with default arguments of its `own`.

    Raises `MethodError` for what a recipe cannot hold.
    """
    found = replace(recipe, call={**own, **recipe.call})
    return TEMPLATE.format(name=found.pipeline, text=json.dumps(found.to_dict(), allow_nan=False))
