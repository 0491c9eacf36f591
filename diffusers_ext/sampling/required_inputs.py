"""Find the inputs that a pipeline needs beside a prompt, from its signature."""

import ast
import inspect
import re
import textwrap
from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import nn

# Media that the pipelines of diffusers take. Some are required although they have a default of `None`.
MEDIA = ("image", "mask_image", "control_image", "control_mask", "original_image", "video", "control_video")
# Media that many pipelines take and can do without, so that only a failure shows the need.
RARELY_NEEDED = ("images", "reference_image", "conditioning_frames", "conditions", "mask")


@cache
def missing(pipeline: type) -> tuple[str, ...]:
    """Return the arguments without which `pipeline` cannot be called, besides a prompt.

    They are those without a default, and media with a default of `None` that neither their annotation nor a
    test in `__call__` allows to be `None`.
    """
    parameters = inspect.signature(pipeline.__call__).parameters
    found = []
    for name, p in list(parameters.items())[1:]:
        if name == "prompt" or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            continue
        if p.default is p.empty or (name in MEDIA and p.default is None and not _optional(pipeline, name)):
            found.append(name)
    return tuple(found)


def _optional(pipeline: type, name: str) -> bool:
    annotation = str(inspect.signature(pipeline.__call__).parameters[name].annotation)
    tests, refusals = _tests(pipeline)
    return name not in refusals and ("None" in annotation or name in tests)


@cache
def _tests(pipeline: type) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names that `__call__` compares with `None`, and the names that it refuses to be `None`."""
    tests, refusals = set(), set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(pipeline.__call__)))):
        compares = isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Is | ast.IsNot)
        if compares and isinstance(node.left, ast.Name):
            tests.add(node.left.id)
        alone = isinstance(node, ast.If) and isinstance(node.test, ast.Compare)
        if alone and isinstance(node.body[0], ast.Raise) and isinstance(node.test.ops[0], ast.Is):
            refusals |= {n.id for n in ast.walk(node.test.left) if isinstance(n, ast.Name)}
    return frozenset(tests), frozenset(refusals)


def check(pipe: Any, given: Sequence[str] = ()) -> None:
    """Raise `ValueError` for a pipeline that needs more than a prompt and the arguments named in `given`."""
    pipeline = type(pipe)
    if "prompt" not in inspect.signature(pipeline.__call__).parameters:
        raise ValueError(
            f"{pipeline.__name__} takes no prompt, and pictures are made of one here; use it from Python"
        )
    if names := tuple(name for name in missing(pipeline) if name not in given):
        raise ValueError(_sentence(pipeline, names))


def blame(pipe: Any, call: dict[str, Any], error: Exception) -> ValueError | None:
    """Return a `ValueError` about media that were not given if `error` comes from that, else `None`.

    It does if the pipeline met one of them as `None`, names one, or never asks whether there is one. Errors
    raised after a model of the pipeline ran do not count.
    """
    within, trace = [], error.__traceback__
    while trace is not None:
        within.append(trace.tb_frame.f_locals.get("self"))
        trace = trace.tb_next
    if any(isinstance(owner, nn.Module) for owner in within) or not any(owner is pipe for owner in within):
        return None
    names = inspect.signature(type(pipe).__call__).parameters
    absent = [name for name in MEDIA + RARELY_NEEDED if name in names and call.get(name) is None]
    if "NoneType" not in str(error):
        asked_for, _ = _tests(type(pipe))
        absent = [n for n in absent if n not in asked_for or re.search(rf"\b{n}\b", str(error))]
    return ValueError(_sentence(type(pipe), absent)) if absent else None


def _sentence(pipeline: type, names: Sequence[str]) -> str:
    return (
        f"{pipeline.__name__} needs {' and '.join(names)}, which cannot be given here; use it from Python, "
        "or take a pipeline that a prompt alone runs"
    )
