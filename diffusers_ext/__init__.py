"""Apply inference-time methods to diffusers pipelines. Everything public is named here and loaded on use."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from ._version import __version__
from .settings.registry import METHODS, SAMPLERS

if TYPE_CHECKING:  # for editors and type checkers
    from . import explore, rewards  # noqa: F401
    from .core import Layout, RunContext, Site  # noqa: F401
    from .errors import ConflictError, MethodError, UnsupportedError  # noqa: F401
    from .models.forecast import plan  # noqa: F401
    from .models.loading import load  # noqa: F401
    from .models.presets import preset  # noqa: F401
    from .models.sizes import Grid  # noqa: F401
    from .parallel import patch_parallel  # noqa: F401
    from .pipelines.guider import SoftPAGGuidance  # noqa: F401
    from .pipelines.image import ImageExtPipeline  # noqa: F401
    from .pipelines.search import NoiseSearchPipeline  # noqa: F401
    from .pipelines.story import StoryPipeline  # noqa: F401
    from .pipelines.story_text import StoryScene  # noqa: F401
    from .pipelines.video import VideoExtPipeline  # noqa: F401
    from .processors.astar import AStar  # noqa: F401
    from .processors.clear import CLEAR  # noqa: F401
    from .processors.gna import GNA  # noqa: F401
    from .processors.head_set import HeadSet  # noqa: F401
    from .processors.ir_diffusion import IRDiffusion  # noqa: F401
    from .processors.nag import NAG  # noqa: F401
    from .processors.radial import Radial  # noqa: F401
    from .processors.rectified import RectifiedSparse  # noqa: F401
    from .processors.softpag import SoftPAG  # noqa: F401
    from .processors.structured import StructuredGuidance  # noqa: F401
    from .sampling.best_of_n import BestOfN  # noqa: F401
    from .sampling.fk_steering import FKSteering  # noqa: F401
    from .sampling.headhunter.fast import FastHeadHunter  # noqa: F401
    from .sampling.headhunter.search import HeadHunter  # noqa: F401
    from .sampling.npnet.transform import NPNet  # noqa: F401
    from .sampling.paths import Paths  # noqa: F401
    from .sampling.reno import ReNO  # noqa: F401
    from .sampling.staged import staged  # noqa: F401
    from .sampling.svdd import SVDD  # noqa: F401
    from .sampling.ttsnap import TTSnap  # noqa: F401
    from .sampling.zero_order import ZeroOrder  # noqa: F401
    from .session.session import Session, apply, remove  # noqa: F401
    from .session.summary import summary  # noqa: F401

_HOME = {
    "load": ".models.loading",
    "apply": ".session.session",
    "remove": ".session.session",
    "Session": ".session.session",
    "summary": ".session.summary",
    "patch_parallel": ".parallel",
    "plan": ".models.forecast",
    "preset": ".models.presets",
    "staged": ".sampling.staged",
    "HeadHunter": ".sampling.headhunter.search",
    "FastHeadHunter": ".sampling.headhunter.fast",
    "HeadSet": ".processors.head_set",
    "SoftPAGGuidance": ".pipelines.guider",
    "Grid": ".models.sizes",
    "ImageExtPipeline": ".pipelines.image",
    "VideoExtPipeline": ".pipelines.video",
    "NoiseSearchPipeline": ".pipelines.search",
    "StoryPipeline": ".pipelines.story",
    "StoryScene": ".pipelines.story_text",
    **{name: module for module, name in (place.split(":") for place in (METHODS | SAMPLERS).values())},
    "Layout": ".core",
    "RunContext": ".core",
    "Site": ".core",
    "MethodError": ".errors",
    "ConflictError": ".errors",
    "UnsupportedError": ".errors",
}
_MODULES = ("explore", "rewards")  # with names of their own
__all__ = ["__version__", *_HOME, *_MODULES]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _HOME:
        about = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(about, name=name, obj=sys.modules[__name__])  # Python then adds the nearest name
    # No file may have a public name: importing it as a submodule would hide the object from then on.
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
