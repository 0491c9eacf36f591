"""Words as places of characters, and places as tokens of real tokenizers."""

import pytest

from diffusers_ext.errors import MethodError, UnsupportedError
from diffusers_ext.prompts.places import Tokens, whole_words, word_places
from diffusers_ext.zoo.models.tokenizer import build_tokenizer

from ..tiny_models.parts import tokenizer

PROMPT = "a red circle and a Blue square, blue star"


def places(*wanted):
    return [PROMPT[a:b] for a, b in word_places(PROMPT, wanted, "astar", "concepts")]


def test_words_are_found_as_they_stand():
    assert places("red circle", "BLUE  square") == ["red circle", "Blue square"]
    first, second = word_places(PROMPT, ["blue", "blue"], "astar", "concepts")
    assert (first[0], second[0]) == (PROMPT.index("Blue"), PROMPT.index("blue"))
    assert places([2, 5], (6, 12)) == ["red", "circle"]


@pytest.mark.parametrize("wanted", [["circ"], ["green"], [" "], [[5, 2]], [[0, 99]], ["star", "star"]])
def test_words_that_are_not_there(wanted):
    with pytest.raises(MethodError, match="astar concepts"):
        places(*wanted)


def test_places_are_widened_to_complete_words():
    found = [PROMPT[slice(*whole_words(PROMPT, p))] for p in ((3, 8), (1, 6), (2, 5), (18, 21))]
    assert found == ["red circle", "red", "red", "Blue"]


def test_one_token_a_word_and_one_a_letter():
    place = (2, 12)
    by_word = Tokens([build_tokenizer()], PROMPT)
    assert list(by_word.of(place)) == [2, 3] and by_word.last == 11
    by_letter = Tokens([tokenizer(64)], PROMPT)
    assert by_letter.of(place) == range(2, 11) and by_letter.seen(place)
    assert by_letter.require(place, "astar", "concept") == range(2, 11)


def test_what_is_cut_off_is_not_seen():
    tokens = Tokens([tokenizer(12)], PROMPT)  # start, ten letters, end
    assert tokens.seen((2, 12)) and tokens.last == 11
    assert not tokens.seen((2, 15))
    with pytest.raises(MethodError, match="'square' is cut off, since the text encoder sees 12 tokens"):
        tokens.require((24, 30), "astar", "concept")


def test_two_tokenizers_agree_or_are_refused():
    assert Tokens([tokenizer(32), tokenizer(20)], PROMPT).limit == 20
    with pytest.raises(UnsupportedError, match="in different ways"):
        Tokens([tokenizer(32), build_tokenizer()], PROMPT)
    with pytest.raises(UnsupportedError, match="fast tokenizer"):
        Tokens([object()], PROMPT)
