"""Structured guidance: cross-attention reads each noun phrase of the prompt as it reads it alone.

Paper: Feng et al., "Training-Free Structured Diffusion Guidance" (arXiv 2212.05032), eq. 4-6. The values of k
phrases are averaged under the keys of the prompt. Attention is linear in its values, and values are affine in
the text. So one attention with the values of the mean text gives the same as k + 1 attentions.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..calls import CrossText, DenoiserCall, PromptMethod
from ..core import Core, RunContext, Site, Slot
from ..errors import MethodError
from ..prompts.phrases import noun_phrases
from ..prompts.places import Place, Tokens, by_prompt, for_prompt, whole_words, word_places
from ..settings.fields import fit_fields, setting

Words = str | Sequence[int]


@dataclass(frozen=True)
class StructuredGuidance(PromptMethod):
    """Binds words to their phrase: a noun phrase is encoded alone, and its tokens give their own values.

    With k phrases and the texts `c0` (the prompt) and `c1..ck` (the prompt with one phrase in place of its
    words), `form="mean"` is the average of `softmax(Q K(c0)') V(ci)` over all texts, at the cost of the plain
    model. `"conjunction"` has one value of all phrases and the average over the keys of all texts, in k + 1
    attentions. `"conjunction_release"` is what the published code computes: there the first key has all
    phrases, too. The unconditional rows stay as they are. A prompt without phrases is the plain model,
    with a warning.

    Raises `MethodError` for phrases that are empty, not in the prompt or cut off, and `UnsupportedError` for
    models without cross-attention to the prompt.
    """

    name: ClassVar[str] = "structured"
    slots: ClassVar[frozenset[Slot]] = frozenset({Slot.INPUTS})
    reads_layout: ClassVar[bool] = False
    order_free: ClassVar[bool] = True

    phrases: str | Sequence[Words] | Sequence[Sequence[Words]] | Callable | None = setting(
        None,
        "words of the prompt",
        "phrases with commas between them, a list of words or of [first, end] of characters, a list of such "
        "lists for each prompt, or a function of the prompt; none: noun phrases, found by rules",
    )
    form: Literal["mean", "conjunction", "conjunction_release"] = setting(
        "mean", "kind", "mean: values are averaged, at no cost; conjunction: keys are averaged, for 'A and B'"
    )

    def __post_init__(self) -> None:
        fit_fields(self)
        for phrases in self.phrases if by_prompt(self.phrases) else [self.phrases]:
            if isinstance(phrases, Sequence) and not phrases:
                raise MethodError(
                    "structured phrases are words of the prompt, got none, which would change "
                    "nothing; leave phrases out to have them found."
                )

    def select(self, sites: Sequence[Site]) -> list[Site]:
        """Select all cross-attention."""
        return [site for site in sites if site.kind == "cross"]

    def bind(self, site: Site, run: RunContext, inner: Core) -> Core:
        """Return the core below: the processor reads the texts that `before` sets."""
        return inner

    def before(self, call: DenoiserCall, cores: dict[Site, Core]) -> None:
        """Set the texts of a call from its prompts; phrases are encoded once in a run."""
        encoded = call.kept.setdefault("phrases", {})
        rows = []
        for prompt, number in zip(call.prompts, call.prompt_numbers, strict=True):
            if number not in encoded:
                encoded[number] = self._encoded(call, prompt, number)
                if not encoded[number]:
                    _warn(call)
            rows.append(encoded[number])
        if not any(rows):
            return
        text = call.text
        if self.form == "mean":
            call.read(
                CrossText(torch.stack([_mean(c0, spans) for c0, spans in zip(text, rows, strict=True)]))
            )
            return
        merged = torch.stack([_replaced(c0, spans) for c0, spans in zip(text, rows, strict=True)])
        first = merged if self.form == "conjunction_release" else text
        count = max(map(len, rows))
        keys = [first]
        for place in range(count):
            each = [spans[place : place + 1] for spans in rows]
            keys.append(torch.stack([_replaced(c0, spans) for c0, spans in zip(text, each, strict=True)]))
        weights = text.new_zeros((count + 1, len(rows)))
        for row, spans in enumerate(rows):
            weights[: len(spans) + 1, row] = 1 / (len(spans) + 1)
        call.read(CrossText(merged, tuple(keys), weights))

    def _encoded(self, call: DenoiserCall, prompt: str, number: int) -> list[tuple[slice, Tensor]]:
        """Return the tokens of each phrase of a prompt, and their embeddings `[T, C]` when encoded alone."""
        places = self._places(prompt, number, call.prompt_count)
        tokens = Tokens(call.tokenizers, prompt)
        if self.phrases is None:  # what rules find behind the end of what is seen is no one's mistake
            places = [place for place in places if tokens.seen(place)]
        spans = [tokens.require(place, self.name, "phrase") for place in places]
        if self.form != "mean" and len({token for span in spans for token in span}) < sum(map(len, spans)):
            raise MethodError(
                f"structured form={self.form!r} has one value for each token, but the phrases of {prompt!r} "
                "overlap; give phrases that do not, or use form='mean'."
            )
        if not places:
            return []
        words = [prompt[slice(*place)] for place in places]
        found = []
        for phrase, span, alone in zip(words, spans, call.encode(words), strict=True):
            own = Tokens(call.tokenizers, phrase)
            if own.last - 1 != len(span):
                raise MethodError(
                    f"structured phrase {phrase!r} has {len(span)} tokens in the prompt and {own.last - 1} "
                    "alone; choose words that stand between spaces."
                )
            found.append((slice(span.start, span.stop), alone[1 : 1 + len(span)]))
        return found

    def _places(self, prompt: str, number: int, count: int) -> list[Place]:
        if self.phrases is None:
            return noun_phrases(prompt)
        phrases = for_prompt(self.phrases, prompt, number, count, self.name, "phrases")
        places = word_places(prompt, phrases, self.name, "phrases")
        return [whole_words(prompt, place) for place in places]


def _warn(call: DenoiserCall) -> None:
    """Warn once in a run of a prompt without phrases."""
    if not call.kept.setdefault("warned", False):
        call.kept["warned"] = True
        warnings.warn(
            "diffusers_ext: structured changes nothing for a prompt without phrases, and found none of two "
            "or more words that the text encoder sees; name phrases of the prompt.",
            stacklevel=2,
        )


def _replaced(c0: Tensor, spans: Sequence[tuple[slice, Tensor]]) -> Tensor:
    """Return the prompt `c0 [L, C]` with phrases in place of their tokens."""
    out = c0.clone()
    for tokens, alone in spans:
        out[tokens] = alone
    return out


def _mean(c0: Tensor, spans: Sequence[tuple[slice, Tensor]]) -> Tensor:
    """Return the mean `[L, C]` of the prompt and of the prompt with each phrase in its place."""
    change = torch.zeros_like(c0)
    for tokens, alone in spans:
        change[tokens] += alone - c0[tokens]
    return c0 + change / (len(spans) + 1)
