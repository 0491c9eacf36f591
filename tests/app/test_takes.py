"""What the page says of a model before it is loaded is what `apply` says of the loaded model."""

import pytest

import diffusers_ext as dx
from diffusers_ext.app import takes
from diffusers_ext.errors import UnsupportedError
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.settings.methods import method_class


@pytest.mark.parametrize("name", ["shapes-sd-turbo", "shapes-sd3", "shapes-wan"])
def test_refusals_are_those_of_the_library(name):
    model = Checkpoint.resolve(name)
    refused, pipe = takes.refusals(model), model.load("cpu")
    for method in takes.offered():
        known = {"gna": {"window": [1, 2, 2]}} | model.preset.settings
        try:
            with dx.apply(pipe, method_class(method)(**known.get(method, {}))):
                if method in ("clear", "radial"):  # the grid is known in the call
                    pipe("a red circle", num_inference_steps=1, guidance_scale=1.0)
            said = False
        except UnsupportedError:
            said = True
        assert (method in refused) == said, method


def test_a_story_is_not_one_picture():
    assert "ir-diffusion" not in takes.offered()


def test_reasons_are_sentences():
    found = takes.refusals(Checkpoint.resolve("shapes-sd3"))
    assert {"astar", "structured", "radial"} == set(found)
    assert all(why.endswith(".") and "\n" not in why for why in found.values())


def test_a_model_that_is_not_here_refuses_nothing(tmp_path):
    assert takes.refusals(Checkpoint("nobody/nothing")) == {}
    (tmp_path / "model_index.json").write_text('{"_class_name": "X", "unet": ["diffusers", "OtherModel"]}')
    assert takes.refusals(Checkpoint("x", tmp_path)) == {}
    for text in ("{", "[]"):
        (tmp_path / "model_index.json").write_text(text)
        assert takes.refusals(Checkpoint("x", tmp_path)) == {}
