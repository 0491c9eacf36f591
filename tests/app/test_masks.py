"""The sparse masks of the page: views, their limits, and the controls of methods."""

import shlex

import gradio as gr
import pytest
from typer.testing import CliRunner

from diffusers_ext.app import masks, masks_view
from diffusers_ext.app.masks_view import Viewer, Wanted
from diffusers_ext.cli import app
from diffusers_ext.errors import MethodError
from diffusers_ext.models.presets import preset
from diffusers_ext.settings.methods import method_class

NONE = {"height": None, "width": None, "num_frames": None, "text": None}


@pytest.fixture(scope="module")
def viewer():
    return Viewer()


def wanted(viewer, model="flux.1", method="gna", size=NONE, query=(0, 3, 5), **settings):
    built = method_class(method)(**(viewer.settings(model, method) | settings))
    return Wanted(model, built, {**NONE, **size}, query)


@pytest.mark.parametrize("method", masks_view.sparse_methods())
@pytest.mark.parametrize("model", ["flux.1", "hunyuan-video", "sd1.5", "shapes-sd3", "shapes-wan"])
def test_every_model_and_sparse_method_has_a_view_or_a_sentence(model, method, viewer):
    size = {} if "shapes" in model else {"height": 384, "width": 384}
    video = viewer.tokens(model).frames > 0
    size |= {"num_frames": 4 * viewer.tokens(model).frames + 1} if video else {}
    coarsest = list(viewer.tokens(model).grids(size).values())[-1]
    own = {"window": coarsest.shape, "stride": [1, 1, 1]} if method == "gna" else {}
    asked = wanted(viewer, model, method, size, (0, 1, 1), **own)
    if method == ("clear" if video else "radial"):
        with pytest.raises(MethodError, match=r"CLEAR needs one image|Radial thins out frames"):
            viewer.view(asked)
        return
    view = viewer.view(asked)
    assert view.seen.seen[view.seen.query] and tuple(view.seen.seen.shape) == view.grid
    assert dict(masks_view.facts(view))["Speed-up of attention"].startswith(
        f"{view.forecast.expected_speedup:.2f}x expected on H100"
    )


def test_sparse_methods_are_those_of_the_registry():
    assert set(masks_view.sparse_methods()) >= {"clear", "gna", "radial", "rectified"}


def test_the_line_for_a_terminal_prints_the_same_forecast(viewer):
    asked = wanted(
        viewer, "wan2.1", "gna", {"height": 480, "width": 832, "num_frames": 33}, window=[8, 24, 24]
    )
    view = viewer.view(asked)
    program, *words = shlex.split(viewer.command(asked))
    printed = CliRunner().invoke(app, words)
    assert program == "diffusers-ext" and str(view.forecast) in printed.output, printed.output
    assert "--text" not in words and "--height" in words  # usual values are left out
    usual = viewer.command(wanted(viewer, "flux.1", "gna"))
    assert usual == "diffusers-ext plan flux.1 --method gna --device h100"


def test_a_token_outside_the_grid_moves_to_its_border(viewer):
    assert viewer.view(wanted(viewer, query=(9, -4, 900))).seen.query == (0, 0, 63)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"size": {"height": 1023}}, "needs a height that is a multiple of 16 px, got 1023; the nearest are"),
        ({"size": {"height": 10**6}}, "up to 200,000 tokens here, got"),
        ({"size": {"text": -1}}, "0 or more text tokens"),
        ({"size": {"num_frames": 5}}, "makes images, got num_frames=5"),
        ({"model": "wan2.1", "method": "clear"}, "CLEAR needs one image"),
        ({"model": "hunyuan-video", "method": "radial", "block": 1}, "set block to"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(asked, words, viewer):
    with pytest.raises(ValueError, match=words):
        viewer.view(wanted(viewer, **asked))


def test_a_click_on_another_token_lists_no_blocks_again(viewer):
    viewer.view(wanted(viewer, query=(0, 0, 0)))
    kept = viewer._bitmap, viewer._spec, viewer._plan
    before = [each.cache_info().misses for each in kept]
    assert viewer.view(wanted(viewer, query=(0, 40, 40))).seen.query == (0, 40, 40)
    assert [each.cache_info().misses for each in kept] == before and min(before) > 0


@pytest.fixture(scope="module")
def inputs(viewer):
    with gr.Blocks():
        return masks.controls_of(viewer)


def test_controls_begin_with_the_settings_of_the_preset(inputs):
    values = [control.value for control in inputs.all]
    for method in ("gna", "radial", "rectified"):
        asked = inputs.wanted(values[0], method, *values[2:])
        wanted, grid = preset("wan2.1", method), (21, 45, 80)
        if method == "gna":  # the sliders hold tokens, the preset shares of an axis
            assert asked.method.sizes(grid) == wanted.sizes(grid)
        else:
            assert asked.method == wanted
        assert asked.query == (10, 22, 40)


@pytest.mark.parametrize("bad", [("nothing", "gna"), ("wan2.1", "softpag"), ("../etc", "gna")])
def test_names_that_are_not_offered_are_refused(bad, inputs):
    with pytest.raises(MethodError, match="choose a model, a method and a device of the lists"):
        inputs.wanted(*bad, *[control.value for control in inputs.all[2:]])


@pytest.mark.parametrize("number", [0.5, "7", True, float("nan")])
def test_a_size_is_a_whole_number(number, inputs):
    values = [control.value for control in inputs.all]
    with pytest.raises(MethodError, match="a size is a whole number, got"):
        inputs.wanted(*values[:3], number, *values[4:])


def test_sliders_follow_the_grid(inputs):
    window = next(knob for knob in inputs.every_knob if knob.name == "window")
    frames, rows, columns = window.limits([14, 24, 24], (1, 16, 256))
    assert not frames["visible"] and (rows["value"], rows["maximum"]) == (16, 16)
    assert (columns["value"], columns["maximum"]) == (24, 256)
    radius = next(knob for knob in inputs.every_knob if knob.name == "radius")
    assert radius.limits([16], (1, 64, 96))[0]["maximum"] == 96
    assert radius.updates({"radius": 300}, (1, 64, 64))[0]["maximum"] == 300


def test_text_of_a_view_is_escaped():
    assert "<script>" not in masks.sorry(ValueError("<script>alert(1)</script>"))
