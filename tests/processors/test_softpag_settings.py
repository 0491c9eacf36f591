"""SoftPAG refuses settings out of range, unknown modules and heads, and batches that do not fit."""

import json

import numpy as np
import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.settings.methods import as_dict

from ..hosts import every_host, host
from ..tiny_models import sd3, unet, wan
from .test_softpag import LAYER


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (dict(strength=1.5), r"strength must lie in \[0, 1\], got 1.5"),
        (dict(strength=float("nan")), "strength takes a number or a list of numbers or null, got nan"),
        (dict(heads={"a": {0: -0.1}}), r"strength must lie in \[0, 1\], got -0.1"),
        (dict(scale=30), r"scale must lie in \[0, 20\], got 30.0; 1 to 3 is usual"),
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


# By hand: the mid block of a U-Net, else of n layers that with n // 2 before it. Of 2 the last; of 2 double
# and 3 single ones (flux), or 2 and 2 (hunyuan-video), the first single one.
MID = "unet.mid_block.attentions.0.transformer_blocks"
DEFAULT = {
    "sd3": ["transformer.transformer_blocks.1.attn"],
    "sd3.5": ["transformer.transformer_blocks.1.attn"],
    "sd": [f"{MID}.0.attn1"],
    "sdxl": [f"{MID}.0.attn1", f"{MID}.1.attn1"],
    "flux": ["transformer.single_transformer_blocks.0.attn"],
    "flux-dev": ["transformer.single_transformer_blocks.0.attn"],
    "wan": ["transformer.blocks.1.attn1"],
    "wan2.2": ["transformer.blocks.1.attn1", "transformer_2.blocks.1.attn1"],
    "hunyuan-video": ["transformer.single_transformer_blocks.0.attn"],
    "skyreels": ["transformer.single_transformer_blocks.0.attn"],
    "mochi": ["transformer.transformer_blocks.1.attn1"],
}


@every_host
def test_the_default_layer_is_the_middle_one(host):
    with dx.apply(host.build(), dx.SoftPAG()) as session:
        assert [site["path"] for site in session.report().to_dict()["sites"]] == DEFAULT[host.name]


def test_a_layer_with_two_attention_modules_counts_once():
    """The third of 4 layers is taken; the fourth of their 6 modules would be image-only attention."""
    model = sd3.transformer(num_layers=4, qk_norm="rms_norm", dual_attention_layers=(0, 1))
    with dx.apply(model, dx.SoftPAG()) as session:
        assert [site["path"] for site in session.report().to_dict()["sites"]] == ["transformer_blocks.2.attn"]


@every_host
def test_a_module_may_be_named_by_its_path_in_the_pipeline(host):
    """The path has the effect of the name, with heads and their own strengths as well."""
    component = "unet" if host.name in ("sd", "sdxl") else "transformer"
    pipe, seen = host.build(), []
    stock = host.run(pipe, steps=host.least_steps)
    for layer in (host.layer, f"{component}.{host.layer}"):
        with dx.apply(pipe, dx.SoftPAG(heads={layer: {0: 1.0, 2: 0.5}})) as session:
            seen.append(host.run(pipe, steps=host.least_steps))
            assert session.report().extra_passes >= 1
    assert torch.equal(*seen) and not torch.equal(stock, seen[0])


def test_a_path_chooses_one_of_two_denoisers():
    pipe = host("wan2.2").build()
    for component in ("transformer", "transformer_2"):
        with dx.apply(pipe, dx.SoftPAG(heads={f"{component}.blocks.1.attn1": None})) as session:
            (site,) = session.report().to_dict()["sites"]
        assert site["path"] == f"{component}.blocks.1.attn1"


def test_what_guides_nothing_calls_the_denoiser_no_oftener():
    model, calls = sd3.transformer(), []
    model.proj_out.register_forward_hook(lambda *_: calls.append(1))  # the last part of every pass
    cases = [
        dict(scale=0.0),
        dict(scale=0.0, heads={LAYER: None}),
        dict(strength=0.0),
        dict(heads={LAYER: [0, 1]}, strength=[0.0, 0.0]),
        dict(heads={LAYER: {0: 0.0}}),
    ]
    for settings in cases:
        with dx.apply(model, dx.SoftPAG(**settings)):
            model(**sd3.inputs(2))
        assert len(calls) == 1, settings
        calls.clear()
    with dx.apply(model, dx.SoftPAG()):
        model(**sd3.inputs(2))
    assert len(calls) == 2, "the count sees an extra pass"


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
