"""Faults at the seams of a real run: inside a module of the denoiser, in the scheduler, between two steps."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from diffusers_ext.families.denoisers import denoisers

from .hosts import Host


class Trap:
    """Raises `error` at one of its visits, counted from 0; `sprung` tells whether that came."""

    def __init__(self, visit: int, error: BaseException) -> None:
        self.left = visit
        self.error = error
        self.sprung = False

    def __call__(self) -> None:
        self.sprung = self.left == 0
        self.left -= 1
        if self.sprung:
            raise self.error


@contextmanager
def in_modules(modules: list[nn.Module], visit: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """`visit` before every call of the modules, through the hooks of torch."""
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(lambda *_: visit()).remove)
        yield {}


@contextmanager
def in_scheduler(pipe: Any, visit: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """`visit` before every step of the scheduler, through an attribute of the instance."""
    step = pipe.scheduler.step

    @functools.wraps(step)  # pipelines read the signature
    def watched(*args: Any, **kwargs: Any) -> Any:
        visit()
        return step(*args, **kwargs)

    pipe.scheduler.step = watched
    try:
        yield {}
    finally:
        del pipe.scheduler.step


@contextmanager
def between_steps(visit: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """`visit` after every step, through the callback of the pipeline: what it yields goes into the call."""

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        visit()
        return tensors

    yield {"callback_on_step_end": callback}


@contextmanager
def in_products(visit: Callable[[], None]) -> Iterator[None]:
    """`visit` before every product of matrices: nothing is hung into the model, which methods could see."""

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
                visit()
            return func(*args, **kwargs or {})

    with Watch():
        yield


def layers(host: Host, pipe: Any) -> list[nn.Module]:
    """The attention module in the middle of each denoiser that the host's tests act on."""
    return [model.get_submodule(host.layer) for model in denoisers(pipe).values()]


def ends(host: Host, pipe: Any) -> list[nn.Module]:
    """The last module of each denoiser, behind all attention."""
    return [getattr(model, "conv_out", None) or model.proj_out for model in denoisers(pipe).values()]


# Where a run is broken off, and at how many visits of the place; None: at each.
PLACES: dict[str, tuple[Callable[..., Any], int | None]] = {
    "an attention module": (lambda host, pipe, visit: in_modules(layers(host, pipe), visit), None),
    "the end of a denoiser": (lambda host, pipe, visit: in_modules(ends(host, pipe), visit), 2),
    "the scheduler": (lambda host, pipe, visit: in_scheduler(pipe, visit), 1),
    "the callback": (lambda host, pipe, visit: between_steps(visit), 1),
}
