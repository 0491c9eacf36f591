"""A link restores what was asked for; a broken or hostile one is one sentence."""

import json
from urllib.parse import parse_qs, quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_ext.app import share
from diffusers_ext.app.asked import Asked

TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


def parameters(query):
    """What a server reads from a query."""
    return {key: values[0] for key, values in parse_qs(query[1:], keep_blank_values=True).items()}


@settings(max_examples=50)
@given(TEXTS, st.integers(0, 2**63 - 1), st.floats(0, 20), TEXTS)
def test_a_link_comes_back(prompt, seed, scale, negative):
    asked = Asked.of(
        {
            "prompt": prompt,
            "negative_prompt": negative,
            "model": "shapes-sd",
            "methods": [{"name": "softpag", "scale": scale, "heads": {"mid_block": None}, "strength": None}],
            "call": {"num_inference_steps": 4, "guidance_scale": scale},
            "seed": seed,
        }
    )
    assert share.read(parameters(share.query(asked))) == asked


def test_other_parameters_are_no_link():
    assert share.read({"__theme": "dark"}) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "cut or changed"),
        ('{"prompt": "a red', "cut or changed"),
        ("[" * 15_000, "cut or changed"),
        ("7", "settings are a table"),
        ('{"prompt": 7}', "the prompt is a text"),
        ('{"prompt": "' + "a" * 3000 + '"}', "may have 2000 characters"),
        (json.dumps({"prompt": "\ud800"}), "lone surrogate"),
        ('{"prompt": "a\\u0000"}', "NUL"),
        ('{"seed": 1e99}', "seed must be a whole number"),
        ('{"seed": true}', "seed must be a whole number"),
        ('{"methods": [{"name": "softpag", "heads": "/etc/passwd"}]}', "may name a file on the command line"),
        ('{"methods": ["softpag", "softpag"]}', "applied once"),
        ('{"methods": [{"name": "softpag", "scale": NaN}]}', "softpag scale takes"),
        ('{"call": {"callback_on_step_end": "x"}}', "a call has no"),
        ('{"__proto__": {}}', "settings have no '__proto__'"),
        ("x" * 30_000, "20000 are taken"),
    ],
)
def test_a_hostile_link_is_one_sentence(text, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        share.read(parameters(f"?compare={quote(text)}"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
