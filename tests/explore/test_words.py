"""Words of a prompt and their places among the text keys, for each family."""

import pytest

from diffusers_ext import explore
from diffusers_ext.errors import MethodError, UnsupportedError
from diffusers_ext.explore.words import every, find
from diffusers_ext.families import family_of
from diffusers_ext.families.denoisers import denoisers

from ..hosts import built
from ..tiny_models.parts import tokenizer

PROMPT = "a red cat"  # one token a letter: a 1, red 2 to 4, cat 5 to 7


def columns(pipe, words, prompt=PROMPT, **call):
    family = family_of(next(iter(denoisers(pipe).values())))
    return {word.label: word.columns for word in find(family, pipe, prompt, words, call)}


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("sd", (2, 3, 4)),
        ("sdxl", (2, 3, 4)),
        ("sd3", (2, 3, 4, 34, 35, 36)),  # behind the 32 tokens of CLIP
        ("flux", (2, 3, 4)),
        ("wan", (2, 3, 4)),
        ("mochi", (2, 3, 4)),
        ("hunyuan-video", (2, 3, 4)),
    ],
)
def test_text_keys_of_a_word(name, wanted):
    host, pipe = built(name)
    assert columns(pipe, ["red"], **host.extra) == {"red": wanted}


def test_sd3_without_t5_has_the_tokens_of_clip_alone():
    _, pipe = built("sd3")
    pipe.text_encoder_3 = None
    assert columns(pipe, "red") == {"red": (2, 3, 4)}


def test_a_word_that_clip_cuts_off_has_the_tokens_of_t5():
    _, pipe = built("sd3")
    long = f"{'a' * 30} red"
    assert columns(pipe, "red", long, max_sequence_length=64) == {"red": (63, 64, 65)}
    with pytest.raises(MethodError, match="'red' is cut off, since the text encoder sees 24 tokens"):
        columns(pipe, "red", long, max_sequence_length=24)
    assert "red" not in columns(pipe, None, f"cat {long}", max_sequence_length=24)


@pytest.mark.parametrize(
    "name, given", [("sdxl", "prompt_2"), ("sd3", "prompt_2"), ("sd3", "prompt_3"), ("flux", "prompt_2")]
)
def test_another_text_for_another_encoder_is_refused(name, given):
    host, pipe = built(name)
    for text in ("a red dog", ["a red dog"]):
        with pytest.raises(UnsupportedError, match=f"but {given} differs from prompt; leave {given} out"):
            columns(pipe, "red", **host.extra | {given: text})
    for same in (PROMPT, [PROMPT], None, ""):
        assert columns(pipe, "red", **host.extra | {given: same}) == columns(pipe, "red", **host.extra)


def test_hunyuan_video_crops_the_template():
    host, pipe = built("hunyuan-video")
    template = {"template": "so: {}.", "crop_start": 4}
    assert columns(pipe, "red", **host.extra | {"prompt_template": template}) == {"red": (1, 2, 3)}


def test_wan_cleans_the_prompt_first():
    _, pipe = built("wan")
    assert columns(pipe, "red", "a &amp;  red cat", max_sequence_length=16) == {"red": (3, 4, 5)}


def test_textual_inversion_counts_its_tokens():
    _, pipe = built("sd")
    pipe.tokenizer.add_tokens(["<x>", "<x>_1"])
    assert columns(pipe, ["cat"], "<x> cat") == {"cat": (3, 4, 5)}  # two tokens stand for <x>


def test_words_are_found_by_rules():
    prompt = "A red circle and the well-made red cross, 2 of them"
    found = [prompt[slice(*place)] for place in every(prompt)]
    assert found == ["red", "circle", "well-made", "red", "cross", "2", "red circle", "well-made red cross"]
    _, pipe = built("flux")
    labels = list(columns(pipe, None, prompt, max_sequence_length=64))
    assert labels[:4] == ["red", "circle", "well-made", "red (2)"]


def test_characters_and_commas_name_words():
    _, pipe = built("sd")
    assert columns(pipe, [[2, 3]]) == {"red": (2, 3, 4)}
    assert list(columns(pipe, "cat,  red cat")) == ["cat", "red cat"]


@pytest.mark.parametrize(
    "words, prompt, said",
    [
        ("dog", PROMPT, "'dog' is not in 'a red cat'"),
        ("", PROMPT, "got an empty text"),
        ([], PROMPT, "words are those of the prompt, got none"),
        (["red", "red"], PROMPT, "'red' is not in 'a red cat' a time number 2"),
        (None, "", "'' has no word that the text encoders see"),
        (None, "of the", "'of the' has no word"),
        ([[0, 99]], PROMPT, r"which has 9, got \[0, 99\]"),
    ],
)
def test_refused(words, prompt, said):
    _, pipe = built("sd")
    with pytest.raises(MethodError, match=said):
        columns(pipe, words, prompt)


def test_a_prompt_that_changes_on_its_way_has_no_maps():
    _, pipe = built("sd")
    pipe.unet.encoder_hid_proj = pipe.unet.conv_in
    with pytest.raises(
        UnsupportedError, match="does not give its attention the tokens of a prompt one by one"
    ):
        explore.maps(pipe, PROMPT, num_inference_steps=1)


def test_tokenizers_that_disagree():
    _, pipe = built("sdxl")
    pipe.tokenizer_2 = tokenizer(32)
    pipe.tokenizer_2.add_tokens(["red"])
    with pytest.raises(UnsupportedError, match="split 'a red cat' in different ways"):
        columns(pipe, "red")
