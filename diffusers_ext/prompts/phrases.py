"""Find noun phrases of an English prompt by rules, without a language model."""

import re
from itertools import dropwhile


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = _words("""a an the this that these those some any each every no its his her their our my your
    another both one two three four five six seven eight nine ten several many few""")
COLOURS = _words("""red orange yellow green blue purple pink brown black white grey gray cyan magenta golden
    gold silver beige tan teal turquoise violet maroon navy crimson scarlet ivory olive lavender""")
_PREPOSITIONS = """about above across after against along alongside amid among around as at atop away before
    behind below beneath beside besides between beyond by down during for from front in inside into like near
    next of off on onto opposite out outside over past per since through throughout to toward towards under
    underneath until up upon via with within without"""
_CONJUNCTIONS = "and or but nor so yet while when where which who whose whom if because than then there"
_VERBS = """is are was were be been being am has have had having do does did can could will would may might
    must should shall sits sit sat stands stand stood lies lie lay rides ride rode holds hold held wears wear
    wore walks walk walked runs run ran looks look looked plays play played eats eat ate flies fly flew hangs
    hang hung shows show showed takes take took makes make made gets get got goes go went comes come came
    features feature contains contain contained includes include seen surrounded covered filled parked seated
    placed decorated perched attached located topped mounted displayed made grows grow moves move appears
    appear not very it they he she we you him them himself itself together"""
CUTS = _words(f"{_PREPOSITIONS} {_CONJUNCTIONS} {_VERBS}")
# Words that end in -ing and are things; other such words are cut where a thing stands before them.
_THINGS = _words("""building ceiling wing ring string king painting clothing morning evening railing thing
spring icing lighting drawing earring swing frosting stuffing awning siding housing pudding sibling""")
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*|[^\w\s]")


def noun_phrases(prompt: str) -> list[tuple[int, int]]:
    """Return the noun phrases of two or more words as places `(start, end)` of characters.

    A phrase ends at prepositions, verbs, conjunctions, punctuation and before the next determiner. Two
    colours joined by "and" stay together. Phrases inside phrases are not looked for.
    """
    return [(words[0][1], words[-1][2]) for words in _chunks(prompt) if len(words) > 1]


def head_nouns(prompt: str) -> list[tuple[int, int]]:
    """Return the last word of each noun phrase, also of those of one word, as places of characters."""
    return [(words[-1][1], words[-1][2]) for words in _things(prompt)]


def described_nouns(prompt: str) -> list[tuple[int, int]]:
    """Return each head noun with the words that describe it, as places of characters."""
    return [(words[0][1], words[-1][2]) for words in _things(prompt)]


def _things(prompt: str) -> list[list[tuple[str, int, int]]]:
    """Return the words of each noun phrase without its determiners, where it ends in a noun."""
    phrases = [list(dropwhile(lambda w: w[0] in DETERMINERS, words)) for words in _chunks(prompt)]
    return [words for words in phrases if words[-1][0] not in DETERMINERS | COLOURS]


def _chunks(prompt: str) -> list[list[tuple[str, int, int]]]:
    """Split a prompt into runs of words, each a lower-case word and its place."""
    words = [(m[0].lower(), m.start(), m.end()) for m in _WORD.finditer(prompt)]
    chunks: list[list[tuple[str, int, int]]] = [[]]
    for place, word in enumerate(words):
        text, current = word[0], chunks[-1]
        if text == "and" and _joins_colours(words, place):
            current.append(word)
        elif text in CUTS or not text[0].isalnum() or _acts(text, current) or _is_side(words, place):
            chunks.append([])
        elif text in DETERMINERS and any(w not in DETERMINERS for w, *_ in current):
            chunks.append([word])
        else:
            current.append(word)
    return [chunk for chunk in chunks if any(w not in DETERMINERS for w, *_ in chunk)]


def _is_side(words: list[tuple[str, int, int]], place: int) -> bool:
    """Return whether a word is part of "left of" or "right of"."""
    following = words[place + 1][0] if place + 1 < len(words) else ""
    return words[place][0] in ("left", "right") and following == "of"


def _joins_colours(words: list[tuple[str, int, int]], place: int) -> bool:
    around = words[place - 1 : place + 3 : 2] if place else []
    described = (
        place + 2 < len(words) and words[place + 2][0][0].isalnum() and words[place + 2][0] not in CUTS
    )
    return len(around) == 2 and all(word in COLOURS for word, *_ in around) and described


def _acts(text: str, before: list[tuple[str, int, int]]) -> bool:
    """Return whether a word ends in -ing and says what the thing before it does."""
    if not text.endswith("ing") or text in _THINGS or len(text) < 5:
        return False
    return bool(before) and before[-1][0] not in DETERMINERS | COLOURS
