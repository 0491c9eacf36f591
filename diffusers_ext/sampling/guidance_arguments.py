"""Find out which guidance arguments a pipeline reads at given values, by the pipeline's own rule."""

import ast
import copy
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from typing import Any

from ..families.latents import config_of

# Variables of `__call__` that decide about classifier-free guidance (CFG) if no property does.
_DECIDING = ("do_true_cfg", "do_classifier_free_guidance", "do_cfg")
_HELPING = ("has_neg_prompt", "has_negative_prompt")
SCALES = ("guidance_scale", "true_cfg_scale")
_NAG = ", or put it into attention by --method nag --set negative_prompt=TEXT"
ON = 100.0  # a scale at which every pipeline that has CFG runs it


def uses_cfg(pipe: Any, call: Mapping[str, Any]) -> bool | None:
    """Return whether `pipe(**call)` computes an unconditional prediction; `None` if its code does not say.

    The rule is the pipeline's own: its property `do_classifier_free_guidance`, or the expression that
    `__call__` assigns to a variable of such a name. It is evaluated with the values of this call.
    """
    values = {
        name: p.default for name, p in inspect.signature(type(pipe).__call__).parameters.items()
    } | dict(call)
    probe = copy.copy(pipe)  # pipelines store the values of a call on themselves
    for name in values:
        if name.endswith("guidance_scale"):
            object.__setattr__(probe, f"_{name}", values[name])
    found = None
    if (guider := getattr(pipe, "guider", None)) is not None and hasattr(guider, "num_conditions"):
        found = guider.num_conditions > 1
    if isinstance(getattr(type(pipe), "do_classifier_free_guidance", None), property):
        found = bool(probe.do_classifier_free_guidance)
    scope = values | {"self": probe}
    for name, rule in _rules(type(pipe)):
        try:
            scope[name] = eval(rule, vars(inspect.getmodule(type(pipe))), scope)
        except (NameError, TypeError, AttributeError):  # it needs values that `__call__` computes earlier
            continue
        if name in _DECIDING:
            found = bool(scope[name])
    if found is None and isinstance(scale := values.get("guidance_scale"), int | float):
        return scale > 1
    return found


@cache
def _rules(pipeline: type) -> tuple[tuple[str, Any], ...]:
    """Collect what `__call__` assigns to the variables that decide about CFG, if it calls nothing for it."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(pipeline.__call__)))
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        name = node.targets[0].id
        if name in _DECIDING + _HELPING and not any(isinstance(n, ast.Call) for n in ast.walk(node.value)):
            found.append((node.lineno, name, compile(ast.Expression(node.value), name, "eval")))
    return tuple((name, rule) for _, name, rule in sorted(found, key=lambda entry: entry[0]))


def switch(pipe: Any, call: Mapping[str, Any]) -> str | None:
    """Return the argument that switches CFG on and off in this pipeline, or `None`."""
    known = inspect.signature(type(pipe).__call__).parameters
    call = {**call, "negative_prompt": call.get("negative_prompt") or ""}
    for name in SCALES:
        on, *off = (name in known and uses_cfg(pipe, {**call, name: value}) for value in (ON, 0.0, 1.0))
        if on and not all(off):
            return name
    return None


def embeds_guidance(pipe: Any) -> bool | None:
    """Return whether the denoiser takes the guidance scale as an input; `None` if its class never does."""
    config = config_of(pipe)
    if "guidance_embeds" in config:
        return bool(config["guidance_embeds"])
    if "time_cond_proj_dim" in config:
        return config["time_cond_proj_dim"] is not None
    return None


def read(pipe: Any, own: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the model's `own` arguments with the `asked` ones; leave out guidance arguments without effect.

    Raises `ValueError` for an argument that was asked and is not read at these values.
    """
    call = {**own, **asked}
    name = type(pipe).__name__
    by = switch(pipe, call)
    runs = uses_cfg(pipe, call)
    if "true_cfg_scale" in call and by != "true_cfg_scale":
        if "true_cfg_scale" in asked:
            raise ValueError(f"{name} does not read true_cfg_scale; leave it out{_instead(by)}")
        del call["true_cfg_scale"]
    if "true_cfg_scale" in call and "negative_prompt" not in call and not runs:
        if "true_cfg_scale" in asked:
            raise ValueError(
                f"{name} reads true_cfg_scale beside a negative prompt only; add one (--negative '' is an "
                "empty one), or leave it out"
            )
        del call["true_cfg_scale"]
    if "guidance_scale" in call and by != "guidance_scale" and embeds_guidance(pipe) is False:
        if "guidance_scale" in asked:
            raise ValueError(
                f"{name} does not read guidance_scale, since this model was made without guidance embedding; "
                f"leave it out{_instead(by)}"
            )
        del call["guidance_scale"]
    if by == "guidance_scale" and "guidance_scale" in asked and runs is False:
        _check_off(pipe, asked["guidance_scale"])
    if "negative_prompt" in call and runs is False:
        if "negative_prompt" in asked:
            raise ValueError(_unread_negative(pipe, own, call, asked, by))
        del call["negative_prompt"]
    return call


def _instead(by: str | None) -> str:
    hints = {
        "true_cfg_scale": ", or guide by true_cfg_scale and a negative prompt (--true-cfg-scale, --negative)",
        "guidance_scale": ", its guidance is guidance_scale (--guidance-scale)",
    }
    return hints.get(by, "")


def _check_off(pipe: Any, scale: float) -> None:
    """Raise `ValueError` for a scale that looks like a strength and switches guidance off."""
    if scale not in (0, 1):
        raise ValueError(
            f"guidance_scale {scale:g} switches guidance off in {type(pipe).__name__}; ask for more, or for "
            "0 if off is what you want"
        )


def _unread_negative(
    pipe: Any, own: Mapping[str, Any], call: Mapping[str, Any], asked: Mapping[str, Any], by: str | None
) -> str:
    name = type(pipe).__name__
    if by is None:
        return f"{name} has no classifier-free guidance and reads no negative prompt; leave it out{_NAG}"
    if by not in asked and by in own:
        return (
            f"this model draws without classifier-free guidance ({by} {own[by]:g}), so its {name} reads no "
            f"negative prompt; leave it out{_NAG}"
        )
    default = inspect.signature(type(pipe).__call__).parameters[by].default
    flag = "--" + by.replace("_", "-")
    return (
        f"{name} reads no negative prompt at {by} {call.get(by, default):g}; ask for a {by} above 1 "
        f"({flag}), or leave it out"
    )
