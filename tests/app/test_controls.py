"""Controls show the settings of methods, and give back what differs from the usual ones."""

import gradio as gr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_ext.app import controls
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.settings.registry import METHODS
from diffusers_ext.zoo import catalogue

with gr.Blocks(analytics_enabled=False):
    NAG, STRUCTURED = (controls.of_method(name, {}) for name in ("nag", "structured"))


@pytest.fixture(scope="module", autouse=True)
def page():
    with gr.Blocks(analytics_enabled=False):
        yield


def values(fields):
    return [field.control.value for field in fields]


def texts(fields):
    return {field.name: field.control for field in fields}


@pytest.mark.parametrize("model", catalogue.MODELS)
def test_untouched_controls_set_nothing(model):
    presets = Checkpoint.resolve(model).preset.settings
    for name in METHODS:
        known = presets.get(name, {})
        fields = controls.of_method(name, known)
        assert controls.table(fields, values(fields), known) == {}
        again = [controls.shown(field, field.usual(known)) for field in fields]
        assert controls.table(fields, again, known) == {}


@pytest.mark.parametrize("name", METHODS)
def test_every_control_has_a_label_a_help_and_an_id(name):
    for field in controls.of_method(name, {}, tab="compare"):
        assert field.control.label and field.control.info
        assert field.control.elem_id == f"compare-{name}-{field.name}".replace("_", "-")


def read(name, known=None, **changes):
    fields = controls.of_method(name, known or {})
    held = dict(zip([f.name for f in fields], values(fields), strict=True)) | changes
    return controls.table(fields, list(held.values()), known)


def test_an_empty_control_replaces_what_is_known_by_none():
    known = {"strength": 0.7, "heads": {"mid_block": [0]}}
    assert read("softpag", known, strength="", heads="") == {"strength": None, "heads": None}
    assert read("softpag", known) == {}


def test_the_path_of_a_file_is_not_shown_and_stays_in_force():
    known = {"heads": "/srv/heads.json"}
    fields = controls.of_method("softpag", known)
    assert texts(fields)["heads"].value == ""
    assert controls.table(fields, values(fields), known) == {}


def test_a_share_and_a_count_are_two_things():
    assert read("gna", dense_steps="1") == {"dense_steps": 1}
    found = read("gna", dense_steps="1.0")["dense_steps"]
    assert isinstance(found, float)


def test_numbers_of_a_browser_fit_their_fields():
    assert isinstance(read("softpag", seed=3.0)["seed"], int)
    assert read("clear", train_tokens=64.0) == {"train_tokens": 64}


@pytest.mark.parametrize("text", ["seven", "{", "[1, 2", "[true]"])
def test_text_of_a_wrong_type_is_one_sentence(text):
    with pytest.raises(ValueError, match="dense_steps takes a whole number or a number, got") as caught:
        read("gna", dense_steps=text)
    assert "\n" not in str(caught.value)


@settings(max_examples=30)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(text):
    (field,) = (f for f in NAG if f.name == "negative_prompt")
    assert field.read(controls.shown(field, text)) == text


@settings(max_examples=30)
@given(st.lists(st.one_of(st.text(min_size=1), st.lists(st.integers(), min_size=2, max_size=2))))
def test_any_list_comes_back(phrases):
    (field,) = (f for f in STRUCTURED if f.name == "phrases")
    assert field.read(controls.shown(field, phrases)) == phrases


@settings(max_examples=30)
@given(st.floats(0, 1000), st.floats(0.01, 10_000))
def test_steps_of_a_slider_are_round_and_not_too_many(low, span):
    step = controls.nice_step(low, low + span)
    assert (low + span - low) / step <= controls.STEPS + 1e-6
    assert f"{step:e}"[0] in "125" and set(f"{step:e}"[2:8]) == {"0"}
