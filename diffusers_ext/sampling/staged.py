"""Make pictures beyond the training size, by image-to-image in stages and stretched rotary positions.

The recipe is the section on high resolution of Liu et al., "CLEAR: Conv-Like Linearization Revs Pre-Trained
Diffusion Transformers Up" (arXiv 2412.16112). Pictures get noise and are denoised as in SDEdit (arXiv
2108.01073).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image, Resampling

from ..core import Method
from ..errors import ConflictError, MethodError, UnsupportedError
from ..families import every_family, family_of, latents
from ..families.denoisers import denoisers
from ..models.forecast import plan
from ..models.sizes import check_size
from ..processors.sparse.method import SparseMethod
from ..session.checks import session_of
from ..session.report import Report
from ..settings.fields import fit
from ..zoo import calling
from .call import arguments, makes_videos
from .generate import applied

# Arguments of pipelines that are given by `sizes` and `strength`, or could not fit every stage.
OURS = ("height", "width", "image", "strength", "latents", "output_type", "return_dict")


@dataclass(frozen=True)
class Staged:
    """Hold the pictures and the session report of every stage. Without methods there are no reports."""

    stages: tuple[list[Image], ...]
    reports: tuple[Report, ...]

    @property
    def images(self) -> list[Image]:
        """Return the pictures of the last stage."""
        return self.stages[-1]


def staged(
    pipe: Any,
    prompt: str | list[str] | None,
    sizes: Sequence[tuple[int, int]],
    *,
    strength: float | Sequence[float] = 0.7,
    methods: Method | Sequence[Method] = (),
    ntk_factor: float = 1.0,
    shift: float | None = None,
    later: Mapping[str, Any] | None = None,
    **call: Any,
) -> Staged:
    """Draw a picture at the first of `sizes`, `(height, width)` in px, then redraw it at each of the others.

    A later stage runs the pipeline's own image-to-image class on the same components. It resizes the picture
    (bicubic), adds noise of `strength` and runs the rest of the steps. `strength` is in 0..1, one value for
    all later stages or one for each. `methods`, one or several, are in force in every stage.

    The later stages have rotary positions stretched by `ntk_factor` (see `ntk`; 10 is published for FLUX.1).
    `shift` gives them a static time shift of the schedule; published runs keep the 3.0 of FLUX.1. `call` goes
    to the pipelines, and `later` overrides it after the first stage. Published: `guidance_scale` 3.5, then
    7.5, with 20 steps. The pipeline is unchanged afterwards.

    All arguments are checked before the first stage. Raises `ValueError` for sizes that the model cannot
    make, `MethodError` for arguments out of range, and `ConflictError` for a pipeline under a session. Raises
    `UnsupportedError` for pipelines without an image-to-image class and for methods that refuse a size.
    """
    sizes = _sizes(sizes)
    strengths = _strengths(strength, len(sizes) - 1)
    methods = methods if isinstance(methods, Sequence) else (methods,)
    _check_arguments(call, later or {})
    _check_pipeline(pipe, sizes, methods)
    if shift is not None and not (math.isfinite(shift) and shift > 0):
        raise MethodError(
            f"A time shift is a number above 0, got {shift}; FLUX.1 has 3.0, None keeps the schedule."
        )
    with ntk(pipe, ntk_factor):  # raises now what it would raise after the first stage
        pass
    first = arguments(pipe, {}, unread=True, **call, height=sizes[0][0], width=sizes[0][1])
    repeat = _image_to_image(pipe, shift) if len(sizes) > 1 else None
    own = {name: value for name, value in calling.of(pipe).items() if name not in OURS}
    rest = {}
    if repeat is not None:
        rest = arguments(repeat, own, given=("image",), unread=True, **call | dict(later or {}))

    pictures, report = _run(pipe, methods, prompt=prompt, **first)
    stages, reports = [pictures], [report]
    for (height, width), part in zip(sizes[1:], strengths, strict=True):
        resized = [x.resize((width, height), Resampling.BICUBIC) for x in pictures]
        sides = {"height": height, "width": width} if _takes(repeat, "height") else {}
        with ntk(pipe, ntk_factor):
            pictures, report = _run(
                repeat, methods, prompt=prompt, image=resized, strength=part, **sides, **rest
            )
        stages.append(pictures)
        reports.append(report)
    return Staged(tuple(stages), tuple(r for r in reports if r is not None))


@contextmanager
def ntk(target: Any, factor: float) -> Iterator[None]:
    """Multiply `theta` of rotary positions by `factor` on a pipeline or denoiser; restore it on leaving.

    A factor above 1 stretches the low frequencies, so that more tokens fit the range of training. A factor
    of 1 changes nothing and suits every model. Raises `MethodError` for factors out of range. Raises
    `UnsupportedError` for models whose positions are not rotary, or come from tables.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise MethodError(f"An NTK factor is a number above 0, got {factor}; 10 is published, 1 is none.")
    found = [_rotary(model) for model in denoisers(target).values()] if factor != 1 else []
    old = [module.theta for module in found]
    try:
        for module in found:
            module.theta = module.theta * factor
        yield
    finally:
        for module, theta in zip(found, old, strict=True):
            module.theta = theta


def _rotary(model: Any) -> Any:
    if (path := family_of(model).rotary) is None:
        known = ", ".join(family.name for family in every_family() if family.rotary is not None)
        raise UnsupportedError(
            f"An NTK factor stretches rotary positions that are computed in each call, as in "
            f"{known}, but {type(model).__name__} has others; leave ntk_factor at 1."
        )
    return model.get_submodule(path)


def _check_arguments(call: Mapping[str, Any], later: Mapping[str, Any]) -> None:
    taken = [name for name in (*call, *later) if name in OURS or name == "prompt"]
    if taken:
        raise MethodError(
            f"staged() decides about {', '.join(OURS)} itself, got {', '.join(taken)}; use its arguments "
            "prompt, sizes and strength."
        )


def _check_pipeline(pipe: Any, sizes: list[tuple[int, ...]], methods: Sequence[Method]) -> None:
    if not hasattr(pipe, "components") or _takes(pipe, "image") or makes_videos(pipe):
        raise UnsupportedError(
            f"staged() begins with a pipeline from text to image, got {type(pipe).__name__}; pass the one "
            "that makes the first picture."
        )
    for model in denoisers(pipe).values():
        if session_of(model) is not None:
            raise ConflictError(
                "staged() runs two pipelines on one denoiser, which is under a session of the first already; "
                "close the session and pass methods=."
            )
    for height, width in sizes:
        check_size(pipe, {"height": height, "width": width})
        for method in methods:
            if isinstance(method, SparseMethod):
                plan(pipe, method, height=height, width=width)


def _sizes(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    nested = isinstance(sizes, Sequence) and all(isinstance(size, Sequence) for size in sizes)
    if not nested or not sizes or any(len(size) != 2 for size in sizes):
        raise MethodError(
            f"staged() takes one (height, width) in px for each stage, got {sizes}; for example [(1024, "
            "1024), (2048, 2048)]."
        )
    return [tuple(size) for size in sizes]


def _strengths(strength: float | Sequence[float], stages: int) -> list[float]:
    try:
        fitted = fit(strength, float | Sequence[float], "The strength of staged()")
    except ValueError as error:
        raise MethodError(f"{error}; 0.7 is published.") from error
    values = fitted if isinstance(fitted, list) else [fitted] * stages
    if len(values) != stages or not all(0 < s <= 1 for s in values):
        raise MethodError(
            f"A strength lies above 0 and not above 1, one for all of the {stages} later stages or one for "
            f"each, got {strength}; 0.7 is published."
        )
    return values


def _image_to_image(pipe: Any, shift: float | None) -> Any:
    """Make diffusers' image-to-image pipeline on the same components, with a scheduler of its own.

    The scheduler of the first pipeline would remember where image-to-image began.
    """
    from diffusers import AutoPipelineForImage2Image

    config = pipe.scheduler.config
    if shift is not None and "shift" not in config:
        raise UnsupportedError(
            "A time shift belongs to flow matching, but this pipeline has a "
            f"{type(pipe.scheduler).__name__}; leave shift out."
        )
    change = {} if shift is None else {"shift": shift, "use_dynamic_shifting": False}
    scheduler = type(pipe.scheduler).from_config(config, **change)
    try:
        # unlike DiffusionPipeline.from_pipe(), this casts no component
        found = AutoPipelineForImage2Image.from_pipe(pipe, scheduler=scheduler)
    except ValueError as error:
        raise UnsupportedError(
            f"diffusers has no image-to-image pipeline for {type(pipe).__name__}; staged() needs one, give a "
            "single size."
        ) from error
    found.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return found


def _run(pipe: Any, methods: Sequence[Method], **call: Any) -> tuple[list[Image], Report | None]:
    with applied(pipe, methods) as session:
        pictures = pipe(**call, output_type="pil").images
    return pictures, session.report() if session is not None else None


def _takes(pipe: Any, name: str) -> bool:
    return name in latents.defaults(pipe)
