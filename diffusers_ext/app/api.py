"""Give programs and agents what the page does: endpoints with typed inputs and the checks of the library."""

# No `from __future__ import annotations`: gradio reads the types of parameters and results.

import inspect
import secrets
import typing
from collections.abc import Callable, Iterator
from contextlib import closing
from reprlib import repr as repr_of
from typing import Any

import gradio as gr

from ..core import nearest_names
from ..errors import MethodError
from ..models.forecast import plan as forecast
from ..models.presets import Preset, preset, shipped
from ..processors.sparse.method import SparseMethod
from ..settings.assign import settable
from ..settings.fields import describe, fit
from ..settings.methods import method_class
from ..settings.registry import METHODS
from . import masks_view, pictures
from .api_parts import LIGHT, file
from .asked import Asked
from .engine import Done
from .search_asked import USUAL, SearchAsked
from .search_run import Found
from .search_run import search as run_search
from .server import Server, said

Shown = tuple[dict[str, Any] | None, dict[str, Any]]  # a file, and what is known of it


def build(server: Server) -> None:
    """Make the endpoints. Call it inside the `gr.Blocks` of a page."""

    def generate(
        request: gr.Request,
        prompt: str,
        model: str = "shapes-sd",
        methods: list[dict[str, Any]] | None = None,
        negative_prompt: str = "",
        call: dict[str, Any] | None = None,
        seed: int = -1,
    ) -> Iterator[Shown]:
        """Draw a prompt, with methods if any are given. Returns the picture and what is known of it.

        Parameters:
            prompt: What to draw, for example "a red circle and a blue square".
            model: A model that this server offers; `models` lists them.
            methods: Tables with a name and settings, for example [{"name": "softpag", "scale": 2}].
            negative_prompt: What not to draw, for models that read one.
            call: Arguments such as num_inference_steps, guidance_scale, height and width.
            seed: A whole number from 0; -1 draws one.
        """
        with said():
            asked = Asked.of(
                {
                    "prompt": prompt,
                    "model": model,
                    "methods": methods or [],
                    "negative_prompt": negative_prompt,
                    "call": call or {},
                    "seed": seed,
                }
            )
            folder = server.folder.fresh()
            yield from _run(server, request, lambda c, p: pictures.make(c, p, asked, folder), facts)

    def search(
        request: gr.Request,
        prompt: str,
        model: str = "shapes-sd",
        sampler: str = "best-of-n",
        budget: int = USUAL,
        settings: dict[str, dict[str, Any]] | None = None,
        rewards: list[str] | None = None,
        methods: list[dict[str, Any]] | None = None,
        negative_prompt: str = "",
        call: dict[str, Any] | None = None,
        seed: int = -1,
    ) -> Iterator[Shown]:
        """Look for better noise for a prompt. Returns the best picture and what is known of the search.

        Parameters:
            prompt: What to draw, for example "a red circle and a blue square".
            model: A model that this server offers; `models` lists them.
            sampler: The search, for example best-of-n, ttsnap or best-of-n+reno.
            budget: Evaluations of the denoiser, at most.
            settings: Settings by the names in sampler, for example {"ttsnap": {"n": 8}}.
            rewards: Names of what scores the pictures; none means the reward of the model.
            methods: Tables with a name and settings, for example [{"name": "softpag", "scale": 2}].
            negative_prompt: What not to draw, for models that read one.
            call: Arguments such as num_inference_steps, guidance_scale, height and width.
            seed: A whole number from 0; -1 draws one.
        """
        with said():
            wanted = SearchAsked.of(
                {
                    "prompt": prompt,
                    "model": model,
                    "sampler": sampler,
                    "budget": budget,
                    "settings": settings or {},
                    "rewards": rewards or [],
                    "methods": methods or [],
                    "negative_prompt": negative_prompt,
                    "call": call or {},
                    "seed": seed,
                }
            )
            folder = server.folder.fresh()
            yield from _run(server, request, lambda c, p: run_search(c, p, wanted, folder), search_facts)

    def models() -> list[str]:
        """List the names of the models that this server offers."""
        return server.models.names()

    def methods() -> dict[str, Any]:
        """List the methods and their settings, with default, unit and bounds of each."""
        return {name: _settings(method_class(name)) for name in METHODS}

    def plan(model: str, method: str, height: int = 0, width: int = 0, num_frames: int = 0) -> dict[str, Any]:
        """Say what a sparse method would compute and save at a size, without running a model.

        Parameters:
            model: The name of a preset, such as flux.1 or wan2.1-t2v-14b.
            method: One of clear, gna, radial and rectified.
            height: Height in px; 0 is the model's own.
            width: Width in px; 0 is the model's own.
            num_frames: Frames of a video; 0 is the model's own.
        """
        with said():
            sizes = {"height": height, "width": width, "num_frames": num_frames}
            asked = {name: value for name, value in sizes.items() if value}
            known = _known(model)
            built = preset(known.name, fit(method, str, "method"))
            if known.tokens is not None and isinstance(built, SparseMethod):
                grid = known.tokens.grid(asked)
                masks_view.check(grid.shape, grid.text, built)
            return {"text": str(forecast(known.name, built, **asked))}

    for fn in (generate, search):
        gr.api(_typed(fn), api_name=fn.__name__, **server.lane)
    for fn in (models, methods, plan):
        gr.api(fn, api_name=fn.__name__, **LIGHT)


def _known(model: str) -> Preset:
    """Return the preset of that name; the library also reads the file or folder that a name stands for."""
    model = fit(model, str, "model")
    presets = shipped()
    for known in presets.values():
        if model.lower() in (known.name, *known.names):
            return known
    best = nearest_names(model.lower(), presets, count=1)[0]
    raise MethodError(
        f"there is no preset {repr_of(model)}; nearest is {best!r}, valid are {', '.join(presets)}."
    )


def _run(
    server: Server, request: gr.Request, work: Callable[..., Any], known: Callable[[Any], dict[str, Any]]
) -> Iterator[Shown]:
    """Run a job, and yield where it is; last comes its file with what is `known` of it.

    Whoever leaves is noticed where something is yielded, and the job ends.
    """
    visitor = request.session_hash or f"program {secrets.token_hex(8)}"
    with closing(server.engine.run(visitor, work)) as events:
        for event in events:
            if isinstance(event, Done):
                yield file(event.result.path), known(event.result)
            else:
                yield None, {"progress": getattr(event, "words", "")}


def _typed(fn: Any) -> Any:
    """Return a generator whose signature has the type of what it yields, which gradio reads."""
    signature = inspect.signature(fn)
    (shown,) = typing.get_args(signature.return_annotation)
    fn.__signature__ = signature.replace(return_annotation=shown)
    return fn


def facts(made: pictures.Made) -> dict[str, Any]:
    """Return what is known of a picture, as plain data."""
    return {
        "seed": made.seed,
        "seconds": round(made.seconds, 3),
        "correct": made.correct,
        "reason": made.reason,
        "report": list(made.report),
        "notes": list(made.notes),
        "record": dict(made.record),
    }


def search_facts(found: Found) -> dict[str, Any]:
    """Return what is known of a search, as plain data."""
    return {
        "seed": found.seed,
        "score": found.facts["score"],
        "evaluations": found.facts["evaluations"],
        "correct": found.correct,
        "reason": found.reason,
        "notes": list(found.words),
        "record": dict(found.record),
    }


def _settings(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {
        name: {
            "type": describe(hints[name]),
            "default": field.default if isinstance(field.default, (int, float, str, bool)) else None,
            **{key: field.metadata.get(key) for key in ("unit", "low", "high", "help")},
        }
        for name, field in settable(cls).items()
    }
