"""Test that the block of AUTOMATIC1111 is read as it writes it, and that ours comes back."""

import time

import pytest

from diffusers_ext.outputs.parameters import parameters, parse

THEIRS = """masterpiece, (a cat:1.2), <lora:x:0.8>
second line, Steps of stone
Negative prompt: blurry,
bad hands
Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 1234567890, Size: 512x768, Model: v1-5, \
Lora hashes: "x: 1a2b, y: 3c4d", Version: v1.6.0"""


def test_a_block_of_theirs():
    prompt, negative, facts = parse(THEIRS)
    assert prompt == "masterpiece, (a cat:1.2), <lora:x:0.8>\nsecond line, Steps of stone"
    assert negative == "blurry,\nbad hands"
    assert facts["Steps"] == "20" and facts["Seed"] == "1234567890" and facts["Size"] == "512x768"
    assert facts["Sampler"] == "DPM++ 2M Karras" and facts["Lora hashes"] == "x: 1a2b, y: 3c4d"


@pytest.mark.parametrize("negative", [None, "blau"])
@pytest.mark.parametrize("prompt", ["a red circle", "a: b, c: d", "", "two\nlines"])
def test_ours_comes_back(prompt, negative):
    call = {"num_inference_steps": 15, "guidance_scale": 4.5}
    record = {"prompt": prompt, "seed": 3, "size": [64, 32], "call": call | {"negative_prompt": negative}}
    facts = {"Steps": "15", "CFG scale": "4.5", "Seed": "3", "Size": "64x32"}
    assert parse(parameters(record)) == (prompt, negative, facts)


@pytest.mark.parametrize("text", ["a cat", "a cat, size: big, seed: wheat", ""])
def test_text_without_facts_is_a_prompt(text):
    assert parse(text) == (text, None, {})


@pytest.mark.parametrize("piece", ["a", "a ", " ", "a:", 'ab: "', 'ab: "x,', "ab: \\", ","])
def test_a_long_text_of_others_takes_no_time(piece):
    text = "x" + piece * 50_000
    began = time.process_time()
    parse(text)
    assert time.process_time() - began < 10, "each takes below a second, and hours if its square counts"
