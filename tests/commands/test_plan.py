"""Test `diffusers-ext plan`: grids, presets and models as text, and errors of one line."""

import json
from functools import partial

import pytest

from diffusers_ext.commands import plan as command
from diffusers_ext.kernels.plan import spec


@pytest.fixture
def plan(cli):
    """Run the command; return exit code, output and error."""
    return partial(cli, "plan")


def test_a_preset(plan):
    code, out, _ = plan(
        "flux", "--method", "clear", "--set", "radius=8", "--height", "2048", "--width", "2048"
    )
    assert code == 0 and "clear on 1 x 128 x 128 grid tokens and 512 text tokens" in out
    assert "10.07x at best" in out and "x expected on H100/H200 (model)" in out


def test_the_settings_of_a_preset(plan):
    """The published settings have 11 dense steps of 40, which the plan leaves out, and 0.8 of the band."""
    code, out, _ = plan("wan2.2", "--method", "radial", "--preset", "--json")
    alone = plan("wan2.2", "--method", "radial", "--set", "decay=0.8", "--json")
    assert code == 0 and out == alone[1]
    assert plan("wan2.2", "--method", "radial", "--preset", "--set", "decay=0.2", "--json")[1] != out
    usual = plan("wan2.2", "--method", "radial", "--json")
    assert usual[1] == out and usual[2].startswith(
        "radial: the settings that are known for wan2.2 (decay 0.8"
    )
    code, own, err = plan("wan2.2", "--method", "radial", "--no-preset", "--json")
    assert code == 0 and own != out and not err


def test_a_checkpoint_that_a_preset_names_is_not_fetched(plan, monkeypatch):
    monkeypatch.setattr("diffusers_ext.models.checkpoint.Checkpoint.load", lambda *_: pytest.fail("fetched"))
    words = ["--method", "clear", "--json"]
    assert plan("black-forest-labs/FLUX.1-dev", *words)[:2] == plan("flux", *words)[:2]


def test_a_grid_with_tiles_as_json(plan):
    settings = ["--set", "window=[18,24,24]", "--set", "stride=[2,8,8]", "--tile", "2x8x8", "--json"]
    code, out, _ = plan("30x48x80", "--method", "gna", *settings)
    found = json.loads(out)
    assert code == 0 and found["full_share"] == 1.0 and round(found["predicted_speedup"], 1) == 11.1
    assert found["nearest"]["stride"] == [2, 8, 8]


def test_a_saved_model(plan, saved_model):
    code, out, _ = plan(str(saved_model), "--method", "clear", "--set", "radius=2", "--text", "4")
    assert code == 0 and "clear on 1 x 16 x 16 grid tokens and 4 text tokens" in out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("wan2.1", "--method", "clear"), "CLEAR needs one image"),
        (("30x30", "--method", "gna"), "needs a window"),
        (("30x30", "--method", "softpag"), "takes a sparse method"),
        (
            ("30x30", "--method", "clear", "--preset"),
            "No preset fits the model '30x30'; the presets are flux.1",
        ),
        (("wan2.1", "--method", "clear", "--preset"), "for radial, gna, nag, rectified, got clear"),
        (("30x30", "--method", "clear", "--tile", "8"), "--tile takes TxHxW"),
        (("30x30", "--method", "clear", "--height", "64"), "a size already"),
        (
            ("wan2.1", "--method", "radial", "--preset", "--height", "481"),
            "a height that is a multiple of 16 px up to 16384, got 481; the nearest are 480 and 496",
        ),
        (
            ("wan2.1", "--method", "radial", "--preset", "--frames", "80"),
            "a num_frames that is 1 more than a multiple of 4 up to 4093, got 80; the nearest are 77 and 81",
        ),
    ],
)
def test_errors_are_one_line(plan, arguments, words):
    code, out, error = plan(*arguments)
    assert code == 2 and not out and words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("4000x4000", "--method", "clear"),
        ("flux", "--method", "clear", "--height", "64000", "--width", "64000"),
        ("4000x4000", "--method", "rectified"),
        ("21x45x80", "--method", "radial", "--set", "block=1"),
        ("21x45x80", "--method", "gna", "--set", "window=[3,3,3]", "--tile", "1x1x1"),
        ("64x64", "--method", "clear", "--text", "100000000"),
        ("1x2000000", "--method", "clear"),
    ],
)
def test_plans_of_minutes_are_refused_before_a_block_is_counted(plan, arguments, monkeypatch):
    monkeypatch.setattr(spec, "cover", lambda *_: pytest.fail("blocks were counted"))
    code, out, error = plan(*arguments)
    assert (code, out) == (2, "") and error.count("\n") == 1 and "up to 268435456 pairs of blocks" in error


def test_the_most_tokens_that_are_told_can_be_planned(plan, monkeypatch):
    monkeypatch.setattr(command, "MOST_PAIRS", 1 << 10)
    refusal = plan("96x96", "--method", "clear")[2]
    assert "got 5184 for 9216 tokens" in refusal and refusal.rstrip().endswith("one of at most 4096")
    assert plan("64x64", "--method", "clear")[0] == 0
    assert plan("64x72", "--method", "clear")[0] == 2
