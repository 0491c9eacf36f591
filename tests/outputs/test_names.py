"""Test that names made from templates stay below their folder, whatever the prompt is."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_ext.outputs.names import MOST, check, component, name

FACTS = {
    "index": 7,
    "prompt": "A red/blue Hat!",
    "seed": 3,
    "model": "org/name",
    "category": "..",
    "scale": 2.5,
}


def made(template, root, **facts):
    return name(template, FACTS | facts, root, ".png").relative_to(root).as_posix()


def test_fields_are_written_as_python_writes_them(tmp_path):
    assert made("{index:05d}-{slug}-{seed}", tmp_path) == "00007-a-red-blue-hat-3.png"
    assert made("{model}/{scale:.2f}_{{x}}", tmp_path) == "org-name/2.50_{x}.png"
    assert (
        made("v1.5 {index}", tmp_path) == "v1.5 7.png"
        and made("100%s {seed:>3}", tmp_path) == "100%s   3.png"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "template",
    [
        "../../x",
        "/etc/{seed}",
        "~/{seed}",
        "~root",
        "a/../../b",
        "a//b",
        "./x",
        "",
        "C:x",
        "a\\..\\b",
        "{slug}/..",
    ],
)
def test_templates_that_leave_the_folder_are_refused(tmp_path, template):
    with pytest.raises(ValueError, match="a name stays below the output folder"):
        made(template, tmp_path)


@pytest.mark.parametrize(
    "template, said",
    [
        (
            "{sede}",
            "an unknown field 'sede'; nearest is 'seed', valid are category, index, model, prompt, scale,",
        ),
        ("{}", "an unknown field ''"),
        ("{0}", "an unknown field '0'"),
        ("{prompt.__class__}", "an unknown field 'prompt.__class__'; nearest is 'prompt'"),
        ("{prompt[0]}", "an unknown field 'prompt[0]'"),
        ("{prompt!r}", "a conversion with '!'"),
        ("{index:0999999999d}", "a format '0999999999d' of index; write it as 05d"),
        ("{index:{seed}}", "a format '{seed}' of index"),
        ("{prompt:05d}", "cannot write prompt 'A red/blue Hat!': Unknown format code 'd'"),
        ("{index", "is no template: expected '}' before end of string"),
        ("index}", "is no template: Single '}'"),
        ("{prompt}" * 3, "bytes, 240 are the most"),
    ],
)
def test_fields_are_checked(tmp_path, template, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        made(template, tmp_path, prompt=("x" * 300 if template == "{prompt}" * 3 else FACTS["prompt"]))


def test_templates_can_be_checked_before_any_work():
    check("{index:05d}-{slug}", ["index", "prompt"])
    with pytest.raises(ValueError, match="unknown field 'slug'"):
        check("{index:05d}-{slug}", ["index"])


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("../../x", "_.-..-x"),
        ("/etc/passwd", "-etc-passwd"),
        ("CON", "CON_"),
        ("com1.txt", "com1.txt_"),
        ("..", "_"),
        ("", "_"),
        (".hidden", "_hidden"),
        ("a\0b\nc\x7f", "a-b-c-"),
        ("<b>&|?*", "-b-&-"),
        ("ends. ", "ends"),
        ("~", "~"),
        ("日本 ☂", "日本 ☂"),
        ("%s %d {seed}", "%s %d {seed}"),
        ("é" * 300, "é" * 60),
    ],
)
def test_prompts_become_one_name(tmp_path, prompt, expected):
    path = name("{prompt}", {"prompt": prompt}, tmp_path)
    assert path == tmp_path / expected
    path.touch()


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_no_prompt_leaves_the_folder(tmp_path_factory, prompt, model):
    root = tmp_path_factory.mktemp("root")
    path = name("{model}/{prompt}-{seed}", {"prompt": prompt, "model": model, "seed": 1}, root, ".png")
    assert path.parent.parent == root and os.path.realpath(path).startswith(os.path.realpath(root) + os.sep)
    path.parent.mkdir()
    path.touch()
    assert [p.name for p in path.parent.iterdir()] == [path.name] and len(path.name.encode()) <= MOST


def test_links_out_of_the_folder_are_refused(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    root.mkdir(), other.mkdir()
    (root / "link").symlink_to(other)
    (root / "in").mkdir()
    (root / "within").symlink_to(root / "in")
    with pytest.raises(ValueError, match="would lead out of the output folder"):
        name("link/{seed}", {"seed": 1}, root)
    assert name("within/{seed}", {"seed": 1}, root) == root / "within" / "1"
    (tmp_path / "alias").symlink_to(root)
    assert name("{seed}", {"seed": 1}, tmp_path / "alias") == tmp_path / "alias" / "1"


def test_a_folder_beside_with_the_same_beginning_is_outside(tmp_path):
    (tmp_path / "out-2").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").symlink_to(tmp_path / "out-2")
    with pytest.raises(ValueError, match="would lead out"):
        name("x/{seed}", {"seed": 1}, tmp_path / "out")


def test_components_stay_as_they_are_when_they_are_made_again():
    for text in ("a/b", "CON", "..", "", " x. ", "\0"):
        assert component(component(text)) == component(text) and Path(component(text)).name == component(text)
