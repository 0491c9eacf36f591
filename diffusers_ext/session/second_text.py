"""Add the second text of a method to the calls of a denoiser; it is encoded once in each run."""

from collections.abc import Hashable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from ..core import RunContext, SecondText, Site
from ..errors import ConflictError, UnsupportedError
from ..families import texts
from ..families.base import Family


class TextCalls:
    """Calls of one denoiser that get a second text; `sites` are those where the method is bound.

    Raises `UnsupportedError` for a model that mixes the tokens of a text outside attention, and for a bare
    denoiser (`home` is `None`), which has no text encoder.
    """

    def __init__(
        self,
        method: SecondText,
        family: Family,
        model: nn.Module,
        run: RunContext,
        sites: frozenset[Site],
        home: Any,
    ) -> None:
        if (why := family.one_text(model)) is not None:
            raise UnsupportedError(
                f"{method.name} puts a second text beside that of the prompt, but {why}; use it with a model "
                "whose blocks get each token alone, such as Stable Diffusion, SD3, FLUX.1 or Wan."
            )
        if home is None:
            raise UnsupportedError(
                f"{method.name} encodes its text with the text encoders of a pipeline, but it was applied to "
                "a bare denoiser; apply it to the pipeline."
            )
        self.method, self.family, self.run = method, family, run
        self.joint = any(site.kind == "joint" for site in sites)
        self.acts = any(method.changes(site) for site in sites)
        self.calls = 0
        # By pipeline: the run, and its texts. A LoRA or new words may come between two runs.
        self._texts: WeakKeyDictionary[Any, tuple[Hashable, dict[Hashable, Tensor]]] = WeakKeyDictionary()

    def added(
        self, module: nn.Module, call: Mapping[str, Any], pipe: Any, point: Hashable
    ) -> dict[str, Any] | None:
        """Return the call with the second text, and note it in `run`; `None` if it needs none.

        `point` is the run of the pipeline. Unconditional calls need no second text. Raises `ConflictError`
        while a cache of diffusers is enabled.
        """
        if not self.acts or self.run.pass_ == "uncond" or not self.method.active(self.run):
            return None
        check_cache(self.method, module)
        text = self._encoded(pipe, call["encoder_hidden_states"].shape[1], point)
        self.run.second_text, self.run.text_first = text.shape[1], self.run.layout.vision.start > 0
        self.calls += 1
        return self.family.with_second_text(call, text)

    def _encoded(self, pipe: Any, tokens: int, point: Hashable) -> Tensor:
        """Return the embedding of the text for prompts of so many tokens, encoded as they are."""
        known, made = self._texts.get(pipe, (None, {}))
        if known != point:
            made = {}
        self._texts[pipe] = point, made
        key = (tokens, *texts.settings(pipe))
        if key not in made:
            text = self.family.encode_text(pipe, self.method.text, tokens)
            if self.joint and text.shape[1] != tokens:
                raise UnsupportedError(
                    f"{self.method.name} needs a text of as many tokens as the prompt in joint attention, "
                    f"got {text.shape[1]} and {tokens}; let the pipeline encode the prompt."
                )
            made[key] = text
        return made[key]


def check_cache(method: SecondText, model: nn.Module) -> None:
    """Raise `ConflictError` if a denoiser keeps results that a call with another text would use."""
    if getattr(model, "is_cache_enabled", False):
        raise ConflictError(
            f"{method.name} lengthens the text of some calls only, but the cache enabled on "
            f"{type(model).__name__} keeps results from call to call; call disable_cache() first."
        )
