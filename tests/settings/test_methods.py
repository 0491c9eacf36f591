import json
import re

import pytest

from diffusers_ext import CLEAR, MethodError, SoftPAG
from diffusers_ext.commands.listing import describe_method
from diffusers_ext.settings.assign import convert
from diffusers_ext.settings.fields import describe
from diffusers_ext.settings.methods import as_dict, build, method_class
from diffusers_ext.settings.registry import METHODS


def softpag(*assignments):
    (method,) = build(["softpag"], assignments)
    return method


def test_defaults_and_values():
    assert softpag() == SoftPAG()
    assert softpag("scale=2") == SoftPAG(scale=2.0)
    assert softpag("softpag.scale=2.5", "scope=all", "stop=0.5") == SoftPAG(scale=2.5, scope="all", stop=0.5)
    assert softpag("strength=null") == SoftPAG()
    assert softpag("strength=0.25").strength == 0.25
    assert softpag("strength=[0.25, 1]").strength == [0.25, 1.0]


def test_later_assignments_win():
    assert softpag("scale=2", "scale=4").scale == 4.0


@pytest.mark.parametrize(
    "text, value",
    [
        ('{"transformer_blocks.3.attn": [0, 2]}', {"transformer_blocks.3.attn": [0, 2]}),
        ('{"a": null}', {"a": None}),
        ('{"a": {"0": 0.5}}', {"a": {0: 0.5}}),
        ('[{"a": [0]}, {"b": null}]', [{"a": [0]}, {"b": None}]),
        ("null", None),
    ],
)
def test_heads(text, value):
    assert softpag(f"heads={text}").heads == value


@pytest.mark.parametrize(
    "assignment, match",
    [
        ("scal=3", "softpag has no setting 'scal'; nearest is 'scale', valid are heads, scale, strength"),
        ("scale", "--set takes key=value, got 'scale'"),
        ("=3", "--set takes key=value"),
        ("clear.scale=3", "a method that is not in use; in use are softpag"),
        ("scale=big", r"softpag.scale takes a number, got 'big'.*example softpag.scale=1"),
        ("scale=nan", "takes a number"),
        ("scale=Infinity", "takes a number"),
        ("scale=1e999", "takes a number"),
        ("scale=true", "takes a number"),
        ("scale=null", "takes a number"),
        ("scope=image", r"image_rows \| image_block \| all, got 'image'"),
        ("heads=3", "The head set '3' cannot be read"),
        ('heads={"a": [0.5]}', "softpag.heads takes"),
    ],
)
def test_bad_assignments(assignment, match):
    with pytest.raises(ValueError, match=match):
        softpag(assignment)


def test_ranges_are_checked_by_the_method():
    with pytest.raises(MethodError, match=r"strength must lie in \[0, 1\]"):
        softpag("strength=2")


def test_unknown_method_and_missing_method():
    with pytest.raises(
        ValueError, match="unknown method 'softpg'; nearest is 'softpag', the methods are soft"
    ):
        build(["softpg"])
    with pytest.raises(ValueError, match="a method is named alone, got 'softpag,nag'"):
        build(["softpag,nag"])
    with pytest.raises(ValueError, match="'best-of-n' is a sampler and no method; the methods are softpag"):
        build(["best-of-n"])
    with pytest.raises(ValueError, match="--set scale needs a method"):
        build([], ["scale=3"])


def test_a_method_is_built_once():
    with pytest.raises(
        ValueError, match="a method is applied once, got clear, softpag, clear; name clear on"
    ):
        build(["clear", "softpag", "clear"])


@pytest.mark.parametrize("name", METHODS)
def test_the_ranges_that_are_printed_hold(name):
    """Some settings can be checked only with a grid."""
    needed = {"gna": {"window": [4, 4, 4]}, "clear": {"backend": "reference"}}.get(name, {})
    for setting in describe_method(name)["settings"]:
        for bound, beyond in ((setting["low"], -1), (setting["high"], 1)):
            if bound is None:
                continue
            value = bound + beyond
            if setting["type"].startswith("a list"):
                value = [value] * 3
            with pytest.raises(MethodError, match=re.escape(str(bound + beyond))):
                method = method_class(name)(**needed | {setting["name"]: value})
                method.plan_spec((8, 8, 8))


def test_presets_give_way_to_assignments():
    preset = {"softpag": {"scale": 1.5, "scope": "all"}}
    assert build(["softpag"], ["scale=2"], preset) == (SoftPAG(scale=2.0, scope="all"),)
    assert build(["softpag"], ["scale=2"], {}) == (SoftPAG(scale=2.0),)
    with pytest.raises(ValueError, match="the preset of this model has settings for softpag, got clear"):
        build(["softpag", "clear"], [], preset)
    assert build(["softpag", "clear"], [], preset, required=False) == (SoftPAG(**preset["softpag"]), CLEAR())
    assert build([], [], preset, required=False) == ()


def test_settings_survive_json():
    method = SoftPAG(heads={"a": [0, 2], "b": None}, scale=2.0, stop=0.5)
    found = as_dict(method)
    assert found.pop("name") == "softpag"
    assert method_class("softpag")(**json.loads(json.dumps(found))) == method


def test_words_for_types():
    assert describe(float | None) == "number or null"
    assert describe(int | list[int] | None, "a ") == "a whole number or a list of whole numbers or null"
    assert describe(dict[str, list[int]]) == "an object of text to a list of whole numbers"
    assert convert(" 3 ", int, "n") == 3
    assert [convert(text, float, "n") for text in (".5", "+.5", "-5.", "+5")] == [0.5, 0.5, -5.0, 5.0]
    assert convert("+5", int, "n") == 5
    with pytest.raises(ValueError, match=r"a list of whole numbers, got '3x5'.*for example window=\[3,3\]"):
        convert("3x5", tuple[int, ...], "window")
    assert convert("3", str, "text") == "3"
