"""Run a pipeline of diffusers with methods and a sampler: what pipelines of pictures and clips share."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Self

from ..errors import MethodError
from ..models.checkpoint import Checkpoint
from ..outputs.files import write_text
from ..sampling.call import makes_videos
from ..sampling.generate import applied
from ..sampling.search_arguments import check_numbers, instead
from ..session.session import Session
from ..zoo import calling
from . import chosen, custom_file, recipe_file
from .recipe import Recipe

OWN = ("methods", "sampler", "rewards", "call")  # what from_pretrained takes for itself
DEPRECATED = ("callback", "callback_steps")  # what pipelines still read though their signature hides it


class ExtPipeline:
    """A pipeline of diffusers, the methods that are in force while it runs, and a sampler if there is one.

    `pipe` is the pipeline itself, neither copied nor cast. `methods` are objects such as `dx.SoftPAG()`.
    `call` holds arguments of the call; what a caller passes wins. `model` is the name under which a recipe
    finds the pipeline again.

    Each call puts the methods on and takes them off, also where it fails. `with pipeline:` leaves them on
    between calls, which saves the plans of sparse methods, and the graphs of compiled blocks. Reports then
    count all calls since its begin.

    Raises `MethodError` for a pipeline of another kind, and for arguments that it does not take.
    """

    videos: ClassVar[bool | None] = None  # whether it makes clips or pictures; `None` for both
    needs_sampler: ClassVar[bool] = False

    def __init__(
        self,
        pipe: Any,
        methods: Sequence[Any] = (),
        sampler: Any = None,
        *,
        call: Mapping[str, Any] | None = None,
        model: str | None = None,
    ) -> None:
        self.pipe, self.methods, self.sampler = pipe, chosen.listed(methods), sampler
        self.call, self.model = dict(call or {}), model
        self.report: Any = None  # of the last call; `None` without methods
        self._open: tuple[ExitStack, Session | None] | None = None
        self._check()

    @classmethod
    def from_pretrained(
        cls,
        model: Any,
        methods: Sequence[Any] | None = None,
        sampler: Any = None,
        *,
        rewards: Any = None,
        call: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a model with methods and a sampler, or a recipe that names them.

        `model` is a name of the zoo, a folder, a Hub id, the file or folder of a recipe, or a pipeline that
        is loaded already. Methods are objects or names; those named have the settings that are known for the
        model. A sampler is an object or a name, such as `"best-of-8"`. A named one has `rewards`, objects or
        names; by default `shapes-clip` for models of shapes world. What is given replaces that of a recipe.
        `kwargs` go to `from_pretrained` of diffusers.

        Raises `ValueError` for unknown names, and `OSError` for files that cannot be read.
        """
        for key in kwargs:
            if meant := difflib.get_close_matches(key, OWN, n=1, cutoff=0.8):
                raise MethodError(f"from_pretrained() takes {meant[0]}=, got {key}=; write {meant[0]}=.")
        if not isinstance(model, (str, os.PathLike)):
            checkpoint = chosen.checkpoint_of(model)
            found, pipe = Recipe(""), model
        else:
            found = recipe_file.read(model) if recipe_file.find(model) else Recipe(os.fspath(model))
            checkpoint, pipe = Checkpoint.resolve(found.model), None
        methods = found.methods if methods is None else chosen.methods(methods, checkpoint)
        sampler = found.sampler if sampler is None else chosen.sampler(sampler, rewards, checkpoint)
        if pipe is None:
            pipe = checkpoint.read(**kwargs)
        elif kwargs:
            raise MethodError(f"a pipeline that is loaded takes no {next(iter(kwargs))}; leave it out.")
        name = None if checkpoint is None else chosen.name_of(checkpoint)
        return cls(pipe, methods, sampler, call=found.call | dict(call or {}), model=name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline, or the sampler with it; arguments are those of the pipeline.

        Returns the output of the pipeline's own class with the attribute `report`, `None` without methods.
        With a sampler it also has `scores [P]`, `seeds`, `nfe` (evaluations of the denoiser), and `result`
        with every candidate. A sampler also takes `progress` and `stop`. With `return_dict=False` the tuple
        of the pipeline is returned as it is.
        """
        taken = inspect.signature(type(self.pipe).__call__)
        call = self.call | taken.bind_partial(self.pipe, *args).arguments | kwargs
        call.pop("self", None)
        with ExitStack() as stack:
            session = (
                stack.enter_context(applied(self.pipe, self.methods)) if self._open is None else self._open[1]
            )
            out = self._plain(call) if self.sampler is None else self._searched(call)
        self.report = session.report() if session is not None else None
        if not isinstance(out, tuple):
            out.report = self.report
        return out

    def __enter__(self) -> Self:
        if self._open is not None:
            raise MethodError("the methods of this pipeline are on already; leave the first with block.")
        stack = ExitStack()
        self._open = stack, stack.enter_context(applied(self.pipe, self.methods))
        return self

    def __exit__(self, *exc: object) -> None:
        stack, _ = self._open
        self._open = None
        stack.close()

    def __getattr__(self, name: str) -> Any:
        """Raise `AttributeError`, which names the attribute of the pipeline if it has one of that name."""
        about = f"{type(self).__name__!r} object has no attribute {name!r}"
        if not name.startswith("_") and hasattr(self.__dict__.get("pipe"), name):
            about += f", but its pipeline of diffusers has: write .pipe.{name}"
        raise AttributeError(about, name=name, obj=self)

    def __repr__(self) -> str:
        parts = [type(self.pipe).__name__, *map(repr, self.methods)]
        return f"{type(self).__name__}({', '.join(parts + ([repr(self.sampler)] if self.sampler else []))})"

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the pipeline, as `pipe.to` does."""
        self.pipe.to(*args, **kwargs)
        return self

    def recipe(self) -> Recipe:
        """Return the recipe of this pipeline; raises `MethodError` if its model has no name."""
        if not self.model:
            raise MethodError(
                "a recipe names its model, and this pipeline was not loaded by a name; pass model= as a name "
                "of the zoo, a folder or a Hub id."
            )
        return Recipe(self.model, self.methods, self.sampler, self.call, type(self.pipe).__name__)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write the recipe, and no weights, to `recipe.json` and `pipeline.py`; return the folder.

        `from_pretrained(folder)` reads it back. So does `DiffusionPipeline.from_pretrained(model,
        custom_pipeline=folder, trust_remote_code=True)`. Raises `MethodError` for what a recipe cannot hold.
        """
        recipe, home = self.recipe(), Path(folder).expanduser()
        code = custom_file.source(recipe, calling.of(self.pipe))
        home.mkdir(parents=True, exist_ok=True)
        recipe_file.write(recipe, home / recipe_file.FILE)
        write_text(home / "pipeline.py", code)
        return home

    def _plain(self, call: dict[str, Any]) -> Any:
        self._check_call(call)
        return self.pipe(**call)

    def _searched(self, call: dict[str, Any]) -> Any:
        as_dict = call.pop("return_dict", True)
        result = self.sampler.sample(self.pipe, call.pop("prompt", None), **call)
        if not as_dict:
            return (result.images,)
        out = output_of(self.pipe, result.images)
        out.scores, out.seeds, out.nfe, out.result = result.scores, result.seeds, result.nfe, result
        return out

    def _check_call(self, call: Mapping[str, Any]) -> None:
        """Raise `MethodError` for arguments that pipelines of diffusers drop, or take and make noise of."""
        known = inspect.signature(type(self.pipe).__call__).parameters
        unknown = [name for name in call if name not in known and name not in DEPRECATED]
        if unknown and not _hands_on(type(self.pipe).__call__):
            raise MethodError(
                f"{type(self.pipe).__name__} takes no {unknown[0]}; {instead(unknown[0], known)}."
            )
        check_numbers(self.pipe, call)

    def _check(self) -> None:
        kind, name = type(self.pipe).__name__, type(self).__name__
        if not callable(self.pipe) or not hasattr(self.pipe, "components"):
            raise MethodError(f"{name} takes a pipeline of diffusers, got {kind}; use from_pretrained().")
        makes = makes_videos(self.pipe)
        if self.videos is not None and makes != self.videos:
            made, other = ("videos", "VideoExtPipeline") if makes else ("pictures", "ImageExtPipeline")
            raise MethodError(f"{name} got {kind}, which makes {made}; use {other}.")
        if self.needs_sampler and self.sampler is None:
            raise MethodError(
                f"{name} needs a sampler, got none; pass sampler='best-of-8' or dx.BestOfN(...)."
            )
        if self.sampler is not None and not hasattr(self.sampler, "sample"):
            raise MethodError(f"{name} takes a sampler, got {self.sampler!r}; write dx.BestOfN(...).")
        known = inspect.signature(type(self.pipe).__call__).parameters
        unknown = [argument for argument in self.call if argument not in known]
        if unknown and not _hands_on(type(self.pipe).__call__):
            raise MethodError(f"{kind} takes no {unknown[0]}; leave it out of call.")


def _hands_on(call: Callable[..., Any]) -> bool:
    """Return whether the call of a user's own class takes any name; those of diffusers drop what they do."""
    named = inspect.signature(call).parameters.values()
    foreign = call.__module__.partition(".")[0] != "diffusers"
    return foreign and any(parameter.kind is parameter.VAR_KEYWORD for parameter in named)


def output_of(pipe: Any, pictures: Any) -> Any:
    """Return pictures or clips in the output class of a pipeline; its other fields are `None`.

    Raises `MethodError` for a pipeline whose module has no such class.
    """
    from diffusers.utils import BaseOutput

    for module in (sys.modules[cls.__module__] for cls in type(pipe).__mro__):
        for kind in vars(module).values():
            if (
                isinstance(kind, type)
                and issubclass(kind, BaseOutput)
                and kind.__name__.endswith("PipelineOutput")
            ):
                names = [f.name for f in fields(kind)]
                field = next((name for name in ("frames", "images") if name in names), None)
                if field is not None:
                    return kind(**dict.fromkeys(names) | {field: pictures})
    raise MethodError(
        f"{type(pipe).__name__} returns no output of pictures that is known; pass return_dict=False."
    )
