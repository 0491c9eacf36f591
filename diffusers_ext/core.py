"""Define the few types that every family, method and session shares.

A *family* turns the inputs of one model class into `q, k, v [B, N, H, D]` and a `Layout`. A *method* turns
those into an attention output and knows no model. A *session* joins the two and restores. This module imports
nothing else of the package.
"""

import difflib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Literal, Self

from torch import Tensor


class Slot(Enum):
    """The six places of a site or a denoiser that a method can own."""

    INPUTS = "inputs"  # edits k and v or adds keys; chains
    CORE = "core"  # how attention is computed; one owner per site
    OUTPUT = "output"  # edits the attention output; chains
    OBSERVE = "observe"  # reads maps; never conflicts
    DENOISER = "denoiser"  # extra passes through the denoiser; one owner per session
    TEXT = "text"  # a second text beside that of the prompt; one owner per session


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of text and vision tokens in one attention sequence.

    `grid` is `(t, h, w)` in tokens (an image has `t == 1`). `text` and `vision` slice the sequence axis of
    `q, k, v [B, N, H, D]`; `text` is empty if the sequence holds no text. `masked_text`: calls come with a
    mask `[B, 1, 1, N]` that hides the padding of prompts and nothing else. `raster=False`: the tokens are not
    the rows of one grid, and `grid` is then `(1, 1, N)`. `cross_text` slices the keys `[B, L, H, D]` of
    cross-attention, which are not in the sequence; it does not count when layouts are compared.
    """

    grid: tuple[int, int, int]
    text: slice
    vision: slice
    masked_text: bool = False
    raster: bool = True
    cross_text: slice | None = field(default=None, compare=False)

    def text_keys(self, kind: Literal["self", "joint", "cross"]) -> slice | None:
        """Return the slice of the text among the keys of a site of this kind.

        It is empty in self-attention, and `None` if the text of cross-attention is not known.
        """
        return self.cross_text if kind == "cross" else self.text

    @property
    def tokens(self) -> int:
        """The number of vision tokens, `t * h * w`."""
        t, h, w = self.grid
        return t * h * w


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary positions of queries and keys, which turn pairs of neighbouring channels.

    Axis a (frame, row, column) owns the next `channels[a]` channels, and its pair j turns by
    `position * theta ** (-2 j / channels[a])`. Without `channels` they turn in another way.
    """

    channels: tuple[int, ...] = ()
    theta: float = 10000.0


@dataclass(frozen=True, slots=True)
class Site:
    """One attention module of a denoiser.

    `name` is its exact module path inside the denoiser. `component` is the pipeline attribute that holds the
    denoiser (`unet`, `transformer`, `transformer_2`). `index` is its place in model order. `level` is the
    number of times that the grid is halved there, counted from the finest attention. `halvings` is the same
    number, counted from the latents. `rotary` is how positions turn queries and keys, if they do.
    """

    name: str
    index: int
    heads: int
    head_dim: int
    kind: Literal["self", "joint", "cross"]
    component: str = ""
    level: int = 0
    halvings: int = 0
    rotary: Rotary | None = None

    @property
    def path(self) -> str:
        """The path from the pipeline, for messages and reports."""
        return f"{self.component}.{self.name}" if self.component else self.name

    def __hash__(self) -> int:
        return hash((self.component, self.name))  # sites are keys in every call of a denoiser


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """An order of the grid tokens, in which each occurs once.

    `tokens [N]` holds their raster numbers place by place, `places [N]` the place of every token.
    """

    tokens: Tensor
    places: Tensor


class RunContext:
    """The current denoiser call of a session, as the hook writes it and cores read it.

    The constructor sets every field. An attribute that falls back to a class default would cost one more
    compiled graph.
    """

    __slots__ = (
        "cross_text",
        "gradient_pass",
        "layers",
        "layout",
        "order",
        "order_note",
        "pass_",
        "perturbed",
        "plans",
        "reordered",
        "rows",
        "second_text",
        "sigma",
        "step",
        "steps",
        "text_first",
    )

    def __init__(self) -> None:
        self.layout: Layout | None = None
        self.step: int | None = None  # index among the executed steps; None outside a pipeline
        self.steps: int | None = None  # number of executed steps
        self.sigma: float | None = None
        self.pass_: Literal["cond", "uncond", "both"] = "cond"
        self.perturbed: bool = False  # the extra pass of a guidance method is running
        # Tokens of a second text in this call: keys behind those of the prompt in cross-attention. In a joint
        # sequence they are as many as those of the prompt, and the prompt is between them and the grid.
        self.second_text: int = 0
        # In a call with a second text: whether text comes before the grid. The layout itself would cost
        # compiled code a graph for each size.
        self.text_first: bool = False
        self.gradient_pass: bool = False  # a pass for the gradients of a method is running
        self.cross_text: Any = None  # a CrossText that cross-attention reads in this call, if any
        self.layers: int = 1  # attention modules where a method of the session computes attention
        # Which candidates of a search this call holds, each once per branch; None: all rows of the pipeline.
        self.rows: tuple[int, ...] | None = None
        self.plans: dict[Hashable, Any] = {}  # block plans that the sites of a method share
        # During this call grid tokens are in the order that the cores asked for; otherwise in raster order.
        self.reordered: bool = False
        self.order: Order | None = None  # that order, while `reordered` is true
        self.order_note: str = ""  # for the report: how the last call that asked got its order


# (q, k, v, mask, layout) -> out, all [B, N, H, D]; mask as in scaled_dot_product_attention, or None
Core = Callable[[Tensor, Tensor, Tensor, Tensor | None, Layout | None], Tensor]


class Method(ABC):
    """A method: settings that know how to act on a site.

    Subclasses are usually frozen dataclasses. `reads_layout` says whether the cores of the method look at the
    layout they get. `order_free` says that grid tokens may come in any order, or that its cores ask for one.
    `differentiable` says that gradients pass through its cores. `needs_dense` says that they repeat dense
    attention, so no other method may decide how it is computed there. `saves_pairs` says that a method with
    the `CORE` slot is sparse, so that reports compare it with dense attention.
    """

    __slots__ = ()

    name: ClassVar[str]
    slots: ClassVar[frozenset[Slot]]
    reads_layout: ClassVar[bool] = True
    order_free: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    needs_dense: ClassVar[bool] = False
    saves_pairs: ClassVar[bool] = True

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        check_settings(cls, settings)
        return super().__new__(cls)

    @abstractmethod
    def select(self, sites: Sequence[Site]) -> list[Site]:
        """Select the sites to act on, out of the sites of all denoisers.

        Raises `MethodError` if the settings name none.
        """

    def why_not(self, site: Site, layout: Layout | None) -> str | None:
        """Return `None` if the site is usable, else one sentence for the error and the doctor."""
        return None

    @abstractmethod
    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        """Return the core of this site, wrapped around `inner`, the core below."""


class Guidance(Method):
    """A method with the `DENOISER` slot: one more pass over the conditional rows, combined linearly."""

    __slots__ = ()

    @abstractmethod
    def active(self, run: RunContext) -> bool:
        """Return whether the current step needs the extra pass."""

    def idle(self, run: RunContext) -> str | None:
        """Return why no step of a run needed the extra pass; `None` also if the settings switch it off."""
        return None

    def begin_pass(self, cores: dict[Site, Core], rows: int, like: Tensor) -> None:
        """Prepare the bound cores for an extra pass over `rows` conditional rows.

        `like` has the device and dtype of the pass.
        """

    @abstractmethod
    def delta(self, cond: Tensor, perturbed: Tensor) -> Tensor:
        """Return what to add to the guided prediction, given the two predictions `[B, ...]`."""


class SecondText(Method):
    """A method with the `TEXT` slot: its sites also get the tokens of a second text.

    The session encodes `text` as the pipeline encodes a prompt. The cores of the method stand outside those
    of all other methods, which see one text at a time. `RunContext.second_text` counts the tokens.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def text(self) -> str:
        """The second text."""

    @abstractmethod
    def active(self, run: RunContext) -> bool:
        """Return whether the current step needs the second text."""

    def changes(self, site: Site) -> bool:
        """Return whether the second text changes the grid tokens of a site that the method selected."""
        return True

    def idle(self, run: RunContext) -> str | None:
        """Return why no step of a run needed the text; `None` also if the settings switch it off."""
        return None


class ReportingCore:
    """A core that prepares itself for each call and reports about itself.

    A plain core is any function.
    """

    def begin_call(self, like: Tensor) -> None:
        """Prepare for a call of the denoiser, outside compiled regions and with the run up to date.

        `like` has the device and dtype of the latents.
        """

    def describe(self) -> dict[str, Any]:
        """Return the fields of `SiteReport` about what ran last."""
        return {}

    def acted(self) -> bool:
        """Return whether the method acted here in the call of the denoiser that ends now."""
        return True

    def idle(self) -> str | None:
        """Return why the method changed nothing here in the run that ends now, or `None`."""
        return None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        """Compute the attention of one site; arguments and result are those of `Core`."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__()")


class OrderingCore(ReportingCore):
    """A core that needs the grid tokens in an order of its own."""

    def order(self) -> Order | str | None:
        """Return the order for grid tokens in the call that has begun.

        It is `None` if any order will do, and a sentence with the reason if tokens must stay in raster order.
        """
        return None


def nearest_names(wanted: str, names: Iterable[str], count: int = 5) -> list[str]:
    """Return the `count` names closest to `wanted`, best first."""
    names = list(dict.fromkeys(names))
    close = difflib.get_close_matches(wanted, names, n=count, cutoff=0.0)
    return close + [n for n in names if n not in close][: count - len(close)]


def check_settings(cls: type, names: Iterable[str]) -> None:
    """Raise `TypeError` with the nearest name for the first of `names` that the constructor does not take."""
    taken = list(inspect.signature(cls.__init__).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken):
        return
    known = [parameter.name for parameter in taken]
    for name in names:
        if name not in known:
            nearest = (
                f"nearest is {nearest_names(name, known, 1)[0]!r}, valid are " if known else "it has none"
            )
            raise TypeError(f"{cls.__name__} has no setting {name!r}; {nearest}{', '.join(known)}.")


def step_window(start: float, stop: float, steps: int) -> range:
    """Return the indices of the steps from `start` to `stop`, which are fractions of `steps`.

    The step that holds `start` is always one of them. If both fractions are the same, there is none.
    """
    if start == stop:
        return range(0)
    first, end = (math.floor(share * steps + 1e-9) for share in (start, stop))
    first = min(first, steps - 1)
    return range(first, max(end, first + 1))


def no_steps(start: float, stop: float, steps: int | None) -> str:
    """Return the sentence about a method whose window of steps is empty."""
    return f"none of its {steps} steps is between start={start} and stop={stop}; set them apart"
