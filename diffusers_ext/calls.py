"""Define methods that act before a call of the denoiser: they read the prompt, or move the latents.

Such a method has no state. What it keeps for a run is in `DenoiserCall.kept`, which belongs to the session.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from .core import Core, Method, Site

GRADIENT_COST = 3  # evaluations of a row that is propagated back: the way back costs about two forward ones


@dataclass(frozen=True, slots=True, eq=False)
class CrossText:
    """Other texts for cross-attention than the embeddings `[B, L, C]` that the denoiser was given.

    `values [B, L, C]` are projected to values. `keys`, each `[B, L, C]`, are projected to keys; attention
    runs once with each of them, and `weights [K, B]` say how its results are added up. Without keys there is
    one attention, with the keys of the denoiser's own text.
    """

    values: Tensor
    keys: tuple[Tensor, ...] = ()
    weights: Tensor | None = None

    def take(self, rows: Any) -> "CrossText":
        """Return the texts of some rows, a slice or an index."""
        weights = None if self.weights is None else self.weights[:, rows]
        return CrossText(self.values[rows], tuple(key[rows] for key in self.keys), weights)


class PassEnded(Exception):
    """A pass for gradients has computed all that it was made for."""


class DenoiserCall(ABC):
    """One call of a denoiser by its pipeline, as a `PromptMethod` sees it.

    Rows are the n conditional ones. `numbers` are those of their pictures among all pictures of the
    pipeline's call, and `prompts` their texts. `kept` is a dictionary that is empty at the begin of a run.
    """

    kept: dict[Any, Any]
    numbers: tuple[int, ...]
    prompts: tuple[str, ...]
    tokenizers: tuple[Any, ...]
    prompt_count: int  # texts given to the pipeline
    prompt_numbers: tuple[int, ...]  # of the text of each row, among them

    @property
    @abstractmethod
    def text(self) -> Tensor:
        """The embeddings of the conditional rows, `[n, L, C]`."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Encode texts as the pipeline encodes its prompts, `[T, L, C]`."""

    @abstractmethod
    def read(self, text: CrossText) -> None:
        """Let cross-attention read other texts in the conditional rows of this call."""

    @property
    @abstractmethod
    def latents(self) -> Tensor:
        """The latents of the conditional rows before the scheduler scaled them, `[n, ...]`."""

    @abstractmethod
    def gradient(self, loss: Callable[[], Tensor]) -> Tensor | None:
        """Return the gradient of a loss by the latents, `[n, ...]`; `None` if they do not matter.

        The conditional rows run once more, until a core raises `PassEnded`. `loss` is called then, and reads
        what the cores have kept. The gradient is in fp32 or finer.
        """

    @abstractmethod
    def move(self, latents: Tensor) -> None:
        """Let this call, and the step of the scheduler after it, begin at other latents `[n, ...]`."""


class PromptMethod(Method):
    """A method that acts before each call of the denoiser by a pipeline.

    `moves_latents` says that it may call `DenoiserCall.move`, which needs a scheduler of the session's own.
    """

    __slots__ = ()

    moves_latents: ClassVar[bool] = False

    @abstractmethod
    def before(self, call: DenoiserCall, cores: dict[Site, Core]) -> None:
        """Prepare a call; `cores` are those of the method on this denoiser."""
