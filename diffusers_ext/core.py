"""The few types every family, method and session shares.

A *family* turns the inputs of one model class into `q, k, v [B, N, H, D]` and a `Layout`; a *method* turns
those into an attention output and knows no model; a *session* joins the two and restores. Nothing here
imports anything of ours.
"""

import difflib
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor


class Slot(Enum):
    """The five places of a site or a denoiser that a method can own."""

    INPUTS = "inputs"  # edits k and v or adds keys; chains
    CORE = "core"  # how attention is computed; one owner per site
    OUTPUT = "output"  # edits the attention output; chains
    OBSERVE = "observe"  # reads maps; never conflicts
    DENOISER = "denoiser"  # extra passes through the denoiser; one owner per session


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie in one attention sequence.

    `grid` is `(t, h, w)` in tokens (an image has `t == 1`); `text` and `vision` slice the sequence axis of
    `q, k, v [B, N, H, D]`. `text` is empty where the sequence holds no text. `masked_text`: calls come with a
    mask `[B, 1, 1, N]` that hides text keys only, those of the padding of prompts. `raster=False`: the tokens
    are not the rows of one grid, which is then `(1, 1, N)` for want of a better one.
    """

    grid: tuple[int, int, int]
    text: slice
    vision: slice
    masked_text: bool = False
    raster: bool = True

    @property
    def tokens(self) -> int:
        """Number of vision tokens, `t * h * w`."""
        t, h, w = self.grid
        return t * h * w


@dataclass(frozen=True, slots=True)
class Site:
    """One attention module of a denoiser.

    `name` is its exact module path inside the denoiser, `component` the pipeline attribute that holds the
    denoiser (`unet`, `transformer`, `transformer_2`), `index` its place in model order, `level` how often the
    grid is halved there, counted from the finest attention.
    """

    name: str
    index: int
    heads: int
    head_dim: int
    kind: Literal["self", "joint", "cross"]
    component: str = ""
    level: int = 0

    @property
    def path(self) -> str:
        """Path from the pipeline, for messages and reports."""
        return f"{self.component}.{self.name}" if self.component else self.name


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """An order of the grid tokens, each once: `tokens [N]` holds their raster numbers place by place, `places
    [N]` the place of every token.
    """

    tokens: Tensor
    places: Tensor


class RunContext:
    """What the current denoiser call is about; one per session, written by the hook, read by cores.

    Every field is set here: an attribute that falls back to a class default costs one more compiled graph.
    """

    __slots__ = ("hoisted", "layout", "order", "pass_", "perturbed", "plans", "sigma", "step", "steps")

    def __init__(self) -> None:
        self.layout: Layout | None = None
        self.step: int | None = None  # index among the executed steps; None outside a pipeline
        self.steps: int | None = None  # number of executed steps
        self.sigma: float | None = None
        self.pass_: Literal["cond", "uncond", "both"] = "cond"
        self.perturbed: bool = False  # the extra pass of a guidance method is running
        self.plans: dict[Hashable, Any] = {}  # block plans that the sites of a method share
        # Grid tokens lie in the order that the cores asked for, for the whole call; else in raster order.
        self.hoisted: bool = False
        self.order: str = ""  # how tokens came into that order in the last call that asked, for the report


# (q, k, v, mask, layout) -> out, all [B, N, H, D]; mask as in scaled_dot_product_attention, or None
Core = Callable[[Tensor, Tensor, Tensor, Tensor | None, Layout | None], Tensor]


class Method(Protocol):
    """A frozen dataclass of settings that knows how to act on a site.

    Two optional attributes: `reads_layout` (taken to be true), whether its cores look at the layout they are
    given; `order_free` (taken to be false), whether they do with grid tokens in any order, or ask for one.
    """

    name: ClassVar[str]
    slots: ClassVar[frozenset[Slot]]

    def select(self, sites: Sequence[Site]) -> list[Site]:
        """Sites to act on, out of all the sites of all denoisers; raises `MethodError` where the settings
        name none.
        """

    def why_not(self, site: Site, layout: Layout | None) -> str | None:
        """`None` where the site is usable, else one sentence for the error and the doctor."""

    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        """The core of this site, wrapped around the one below."""


class ReportingCore(Protocol):
    """A core with a schedule of its own and something to say about itself; sessions look for both names."""

    def begin_call(self, like: Tensor) -> None:
        """Called before each call of the denoiser, outside compiled regions, with the run up to date; `like`
        has the device and dtype of the latents.
        """

    def describe(self) -> dict[str, Any]:
        """Fields of `SiteReport` about what ran last."""

    def idle(self) -> str | None:
        """Why the run that is in its last step has been that of the plain model here, or `None`."""


class OrderingCore(ReportingCore, Protocol):
    """A core that puts tokens into an order of its own; sessions look for the name."""

    def order(self) -> Order | str | None:
        """The order for grid tokens in the call that has begun; `None` where any will do, a sentence where it
        has to be that of the host.
        """


class Guidance(Method, Protocol):
    """A method with the `DENOISER` slot: one more pass over the conditional rows, combined linearly."""

    def active(self, run: RunContext) -> bool:
        """Whether the current step needs the extra pass."""

    def idle(self, run: RunContext) -> str | None:
        """Why no step of a run needed the extra pass, unless the settings switch it off."""

    def begin_pass(self, cores: dict[Site, Core], rows: int, like: Tensor) -> None:
        """Prepares the bound cores for an extra pass over `rows` conditional rows, on the device and dtype of
        `like`.
        """

    def delta(self, cond: Tensor, perturbed: Tensor) -> Tensor:
        """What to add to the guided prediction, given the two predictions `[B, ...]`."""


def nearest_names(wanted: str, names: Iterable[str], count: int = 5) -> list[str]:
    """The `count` names closest to `wanted`, best first."""
    names = list(dict.fromkeys(names))
    close = difflib.get_close_matches(wanted, names, n=count, cutoff=0.0)
    return close + [n for n in names if n not in close][: count - len(close)]


def step_window(start: float, stop: float, steps: int) -> range:
    """Indices of the steps from `start` to `stop`, fractions of `steps`.

    The step that holds `start` is always one of them, unless both are the same: then there is none.
    """
    if start == stop:
        return range(0)
    first, end = (math.floor(share * steps + 1e-9) for share in (start, stop))
    first = min(first, steps - 1)
    return range(first, max(end, first + 1))
