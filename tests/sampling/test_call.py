import logging

import pytest

from diffusers_ext.models.truncation import TruncationFilter, cut_text
from diffusers_ext.sampling.call import arguments, seed_of

DEFAULTS = {"height": 64, "width": 64, "num_inference_steps": 15, "guidance_scale": 4.0, "num_frames": 9}


@pytest.mark.parametrize("text, seed", [("0", 0), (" 7 ", 7), (2**63 - 1, 2**63 - 1)])
def test_seeds(text, seed):
    assert seed_of(text) == seed


@pytest.mark.parametrize("text", ["-1", str(2**63), "1.5", "abc", "", "nan", "1e3"])
def test_bad_seeds(text):
    with pytest.raises(ValueError, match=r"whole number from 0 to 2\*\*63 - 1, got"):
        seed_of(text)


def test_what_was_asked_wins_and_unknown_defaults_stay_out(pipe):
    found = arguments(pipe, DEFAULTS, num_inference_steps=3, guidance_scale=None)
    assert found == {"height": 64, "width": 64, "num_inference_steps": 3, "guidance_scale": 4.0}


@pytest.mark.parametrize(
    "asked, match",
    [
        ({"true_cfg_scale": 2.0}, "StableDiffusion3Pipeline takes no true_cfg_scale"),
        ({"num_inference_steps": 0}, "between 1 and 1000, got 0"),
        ({"guidance_scale": float("inf")}, "finite number, got inf"),
        ({"height": 30}, "height that is a multiple of 4 px up to 64, got 30; the nearest are 28 and 32"),
        ({"width": 1000}, "the nearest is 64"),
        ({"width": 0}, "got 0; the nearest is 4"),
        ({"width": -8}, "got -8; the nearest is 4"),
    ],
)
def test_bad_arguments(pipe, asked, match):
    with pytest.raises(ValueError, match=match):
        arguments(pipe, DEFAULTS, **asked)


def test_cut_text_is_shown(pipe):
    prompt = "Abc. " * 10
    (clip, t5) = cut_text(pipe, prompt, {"max_sequence_length": 24})
    # Letters are tokens here: 40 plus start and end. Of 32 places two are taken, so 30 letters are read.
    assert clip == (
        "the prompt 'Abc. Abc. Abc. Abc. Abc. Abc. Abc....' has 42 tokens, the limit of tokenizer, "
        "tokenizer_2 is 32; cut off: 'c. Abc. Abc. '"
    )
    assert t5.endswith("the limit of tokenizer_3 is 24; cut off: 'c. Abc. Abc. Abc. Abc. '")
    assert cut_text(pipe, "abc", {"max_sequence_length": 24}) == []
    assert cut_text(pipe, "", {}) == []


def test_the_hosts_own_lines_are_dropped():
    def passes(text):
        return TruncationFilter().filter(logging.makeLogRecord({"msg": text}))

    assert not passes("The following part of your input was truncated because CLIP can only handle ...")
    assert passes("something else")
