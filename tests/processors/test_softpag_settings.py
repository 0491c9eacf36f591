"""What SoftPAG refuses: settings out of range, unknown modules and heads, batches that do not fit."""

import json

import numpy as np
import pytest

import diffusers_ext as dx
from diffusers_ext.settings import as_dict

from ..tiny_models import sd3, unet, wan
from .test_softpag import LAYER


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (dict(strength=1.5), r"strength must lie in \[0, 1\], got 1.5"),
        (dict(strength=float("nan")), "strength takes a number or a list of numbers or null, got nan"),
        (dict(heads={"a": {0: -0.1}}), r"strength must lie in \[0, 1\], got -0.1"),
        (dict(scale=30), r"scale must lie in \[0, 20\], got 30.0; 3 is usual"),
        (dict(scale=-0.1), r"scale must lie in \[0, 20\], got -0.1"),
        (dict(scale=float("inf")), "scale takes a number, got inf"),
        (dict(scale=float("nan")), "scale takes a number, got nan"),
        (dict(scope="text"), r"scope takes image_rows \| image_block \| all, got 'text'"),
        (dict(scale=True), "scale takes a number, got True"),
        (dict(strength=[]), r"strength is a number or a list of them, got \[\]"),
        (dict(heads={"a": []}), "no head for a, which would change nothing"),
        (dict(heads={"a": [0.5]}), r"heads takes .*, got .*; for example heads=\{'NAME': None\}"),
        (dict(start=0.8, stop=0.2), "needs 0 <= start <= stop <= 1"),
        (
            dict(heads=[{"a": [0]}, {"a": [1]}], strength=[1.0]),
            "one entry of heads and of strength per image",
        ),
    ],
)
def test_settings_out_of_range(settings, match):
    with pytest.raises(dx.MethodError, match=match):
        dx.SoftPAG(**settings)


def test_numbers_of_numpy_are_numbers():
    found = dx.SoftPAG(
        heads={"a": np.array([0, 2]), "b": {np.int64(1): np.float32(0.5)}},
        scale=np.float32(3),
        strength=np.array([0.5]),
    )
    assert found == dx.SoftPAG(heads={"a": [0, 2], "b": {1: 0.5}}, scale=3.0, strength=[0.5])
    assert json.dumps(as_dict(found))


@pytest.mark.parametrize(
    ("heads", "match"),
    [
        ({"transformer_blocks.7.attn": None}, r"nearest names are .*transformer_blocks\.1\.attn"),
        ({LAYER: [99]}, r"has heads 0 to \d+, got 99; the nearest are \["),
        ({}, "empty head set"),
    ],
)
def test_unknown_modules_and_heads(heads, match):
    with pytest.raises(dx.MethodError, match=match):
        dx.apply(sd3.transformer(), dx.SoftPAG(heads=heads))


def test_cross_attention_is_refused():
    with pytest.raises(dx.UnsupportedError, match=r"cross-attention .* does not have"):
        dx.apply(wan.transformer(), dx.SoftPAG(heads={"blocks.0.attn2": None}))


def test_repeated_heads_warn():
    with (
        pytest.warns(UserWarning, match="named more than once"),
        dx.apply(sd3.transformer(), dx.SoftPAG(heads={LAYER: [0, 0]})),
    ):
        pass


def test_window_on_a_bare_denoiser_is_refused():
    model = sd3.transformer()
    with (
        dx.apply(model, dx.SoftPAG(stop=0.5)),
        pytest.raises(dx.UnsupportedError, match="applied to a bare denoiser"),
    ):
        model(**sd3.inputs(1))


def test_entries_must_match_the_batch():
    model = sd3.transformer()
    with (
        dx.apply(model, dx.SoftPAG(strength=[0.1, 0.2, 0.3])),
        pytest.raises(dx.MethodError, match="2 conditional rows"),
    ):
        model(**sd3.inputs(2))


def test_odd_rows_in_one_batch_are_refused():
    model = unet.unet()
    with (
        dx.apply(model, dx.SoftPAG(), cfg="batch"),
        pytest.raises(dx.UnsupportedError, match="even number of rows"),
    ):
        model(**unet.inputs(1))


def test_settings_of_tuples_and_numbers_can_be_hashed():
    assert hash(dx.SoftPAG(strength=(0.5, 1.0))) == hash(dx.SoftPAG(strength=(0.5, 1)))
