"""Find the text keys of the words of a prompt, in whatever list of tokens a model reads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import MethodError, UnsupportedError
from ..families.base import Family
from ..families.texts import TextPart
from ..prompts.phrases import CUTS, DETERMINERS, noun_phrases
from ..prompts.places import Place, Tokens, listed, whole_words, word_places

_WORD = re.compile(r"\w+(?:['’\-]\w+)*")


@dataclass(frozen=True)
class Word:
    """A word or phrase of a prompt, its characters `[first, end)`, and its places among the text keys.

    A model with several lists of tokens, such as SD3, has places in each of them.
    """

    label: str
    place: Place
    columns: tuple[int, ...]


def find(
    family: Family,
    pipe: Any,
    prompt: str,
    words: str | Sequence[str | Sequence[int]] | None,
    call: Mapping[str, Any],
) -> list[Word]:
    """Return the words of a prompt that are asked for, with their text keys.

    `words` is text with commas between words, or a list of words and of `[first, end]` characters. `None`
    takes all words but articles, prepositions and the like, then all noun phrases.

    Raises `MethodError` for words that are empty, not in the prompt, or cut off by every text encoder, and
    for a prompt without words. Raises `UnsupportedError` for models whose text keys are not tokens, and for a
    call that gives other encoders another text.
    """
    for name in ("prompt_2", "prompt_3"):
        other = call.get(name)
        if other and other != prompt and other != [prompt]:  # an empty one stands for the prompt
            raise UnsupportedError(
                f"Words are found at the same tokens of all text encoders, but {name} differs from prompt; "
                f"leave {name} out."
            )
    parts = family.text_parts(pipe, prompt, call)
    if not parts:
        raise UnsupportedError(
            f"{type(pipe).__name__} does not give its attention the tokens of a prompt one by one, so words "
            "have no maps; use a text-to-image or text-to-video pipeline."
        )
    prompt = parts[0].prompt
    lists = [(part, _tokens(part)) for part in parts]
    if words is None:
        places = [place for place in every(prompt) if any(_seen(*each, place) for each in lists)]
        if not places:
            raise MethodError(
                f"{prompt!r} has no word that the text encoders see; name words, or write some."
            )
    else:
        asked = listed(words)
        if not len(asked):
            raise MethodError("words are those of the prompt, got none; leave words out to have them found.")
        places = [whole_words(prompt, place) for place in word_places(prompt, asked, "maps", "words")]
    return _labelled(prompt, [(place, _columns(lists, place)) for place in places])


def every(prompt: str) -> list[Place]:
    """Return the places of the words of a prompt that mean something, then those of its noun phrases.

    Phrases begin behind their articles, whose maps say little.
    """
    spans = [found.span() for found in _WORD.finditer(prompt)]
    single = [(a, b) for a, b in spans if prompt[a:b].lower() not in CUTS | DETERMINERS]
    phrases = []
    for start, end in noun_phrases(prompt):
        first = next((a for a, b in single if start <= a and b <= end), end)
        phrases.append((first, end))
    return single + [(a, b) for a, b in phrases if a < b and (a, b) not in single]


def _tokens(part: TextPart) -> Tokens:
    return Tokens(part.tokenizers, part.before + part.prompt + part.after, part.limit)


def _within(part: TextPart, place: Place) -> Place:
    return place[0] + len(part.before), place[1] + len(part.before)


def _seen(part: TextPart, tokens: Tokens, place: Place) -> bool:
    return tokens.seen(_within(part, place))


def _columns(lists: Sequence[tuple[TextPart, Tokens]], place: Place) -> tuple[int, ...]:
    """Return the text keys of a place in each list of tokens that has all of it."""
    found: list[int] = []
    for part, tokens in lists:
        if _seen(part, tokens, place):
            found += [part.start - part.cropped + token for token in tokens.of(_within(part, place))]
    if not found:
        part, tokens = lists[-1]
        tokens.require(_within(part, place), "maps", "word")  # which says what is cut off
    return tuple(found)


def _labelled(prompt: str, found: Sequence[tuple[Place, tuple[int, ...]]]) -> list[Word]:
    """Name words as they stand in the prompt; one that comes again gets a number."""
    seen: Counter[str] = Counter()
    words = []
    for place, columns in found:
        text = " ".join(prompt[slice(*place)].split())
        seen[text] += 1
        words.append(Word(text if seen[text] == 1 else f"{text} ({seen[text]})", place, columns))
    return words
