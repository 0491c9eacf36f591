"""Find words of a prompt: as places of characters, and as tokens of one or two tokenizers."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..errors import MethodError, UnsupportedError

Place = tuple[int, int]  # first character, and the one behind the last


def word_places(prompt: str, wanted: Sequence[str | Sequence[int]], method: str, what: str) -> list[Place]:
    """Return the places of words or of pairs `(start, end)` in a prompt.

    Complete words are found, in upper or lower case. Words that are given twice are found twice. `method` and
    `what` name the setting in errors. Raises `MethodError` for words that are empty or not in the prompt.
    """
    seen: Counter[str] = Counter()
    places = []
    for item in wanted:
        if not isinstance(item, str):
            places.append(_pair(prompt, item, method, what))
            continue
        words = item.split()
        if not words:
            raise MethodError(
                f"{method} {what} are words of the prompt, got an empty text; leave it out or write the "
                "words."
            )
        pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, words)) + r"(?!\w)"
        found = [m.span() for m in re.finditer(pattern, prompt, re.IGNORECASE)]
        key = " ".join(words).lower()
        if seen[key] >= len(found):
            times = "" if not found else f" a time number {seen[key] + 1}"
            raise MethodError(
                f"{method} {what} are words of the prompt, but {item!r} is not in {prompt!r}{times}; write "
                "words as they stand there."
            )
        places.append(found[seen[key]])
        seen[key] += 1
    return places


def by_prompt(wanted: object) -> bool:
    """Return whether a setting has a list of words for each prompt; a pair of numbers is a place."""
    if not isinstance(wanted, Sequence) or not wanted or isinstance(wanted[0], str):
        return False
    return all(isinstance(w, Sequence) and not (w and isinstance(w[0], int)) for w in wanted)


def listed(wanted: Any) -> Any:
    """Return a setting of words as a list if it is text, with commas between words; else as it is."""
    return [words.strip() for words in wanted.split(",")] if isinstance(wanted, str) else wanted


def for_prompt(wanted: Any, prompt: str, number: int, count: int, method: str, what: str) -> Sequence[Any]:
    """Return the words for prompt `number` of `count`: a setting is text, a list, lists, or a function.

    Raises `MethodError` for another number of lists than of prompts.
    """
    if callable(wanted):
        return wanted(prompt)
    if not by_prompt(wanted):
        return listed(wanted)
    if len(wanted) != count:
        raise MethodError(
            f"{method} {what} has {len(wanted)} lists, one for each prompt, but the call has {count} "
            "prompts; give as many, or one list for all."
        )
    return wanted[number]


def _pair(prompt: str, item: Sequence[int], method: str, what: str) -> Place:
    if len(item) != 2 or not 0 <= item[0] < item[1] <= len(prompt):
        raise MethodError(
            f"{method} {what} as numbers are [first, end] of characters of the prompt, which has "
            f"{len(prompt)}, got {list(item)}; write such a pair, or the words."
        )
    return int(item[0]), int(item[1])


def whole_words(prompt: str, place: Place) -> Place:
    """Widen a place to complete words, and leave out white space at its ends."""
    start, end = place
    while start < end and prompt[start].isspace():
        start += 1
    while end > start and prompt[end - 1].isspace():
        end -= 1
    while 0 < start < end and prompt[start - 1].isalnum() and prompt[start].isalnum():
        start -= 1
    while start < end < len(prompt) and prompt[end - 1].isalnum() and prompt[end].isalnum():
        end += 1
    return start, end


class Tokens:
    """The tokens of a prompt, the same for every tokenizer of a pipeline.

    `ends` has the places of characters of each token, `(0, 0)` for special ones. `limit` is the number of
    tokens that the text encoders see, special ones included: as many as the tokenizers take, unless the
    pipeline asks for another number. `last` is the place of the end token.

    Raises `UnsupportedError` for tokenizers without places of characters, and for two that split a prompt in
    different ways.
    """

    def __init__(self, tokenizers: Sequence[Any], prompt: str, limit: int | None = None) -> None:
        self.prompt = prompt
        split = [_split(tokenizer, prompt) for tokenizer in tokenizers]
        if any(other != split[0] for other in split[1:]):
            raise UnsupportedError(
                f"words are found by one list of tokens, but the tokenizers of this pipeline split "
                f"{prompt!r} in different ways; use a pipeline whose tokenizers agree, as those of SDXL do."
            )
        self.ends = split[0]
        self.limit = limit or min(tokenizer.model_max_length for tokenizer in tokenizers)
        self.last = min(len(self.ends), self.limit) - 1

    def of(self, place: Place) -> range:
        """Return the tokens that hold the characters of a place, also those behind the limit."""
        start, end = place
        found = [i for i, (a, b) in enumerate(self.ends) if a < b and a < end and b > start]
        return range(found[0], found[-1] + 1) if found else range(0)

    def seen(self, place: Place) -> bool:
        """Return whether the text encoders see all of a place, which needs room for the end token."""
        found = self.of(place)
        return bool(found) and found[-1] < self.last

    def require(self, place: Place, method: str, what: str) -> range:
        """Return the tokens of a place; raises `MethodError` if the text encoders do not see them."""
        if not self.seen(place):
            words = self.prompt[slice(*place)]
            raise MethodError(
                f"{method} {what} {words!r} is cut off, since the text encoder sees {self.limit} tokens of "
                f"the prompt, which has {len(self.ends)}; shorten the prompt or leave it out."
            )
        return self.of(place)


def _split(tokenizer: Any, prompt: str) -> list[Place]:
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedError(
            f"words are found by the places of tokens, which {type(tokenizer).__name__} does not give; load "
            "a fast tokenizer."
        )
    return [tuple(p) for p in tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]]
