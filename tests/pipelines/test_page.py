"""The code of docs/recipes.md runs as it stands."""

import re
from pathlib import Path

from diffusers_ext.pipelines.recipe_file import read
from diffusers_ext.zoo import catalogue

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_python_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    one, two, three, four = blocks("python")
    scope = {"MODEL": str(catalogue.path("shapes-sd"))}
    exec(one, scope)
    assert scope["out"].report.engaged[0].modules == 1
    searched = {"dx": scope["dx"]}
    exec(two, searched)
    assert len(searched["out"].result.history) == 4 and searched["out"].nfe == 4 * 30
    exec(three + four, scope)
    assert scope["pipe"]("a star", num_inference_steps=1).report.extra_passes == 1


def test_the_toml_of_the_page(tmp_path):
    (text,) = blocks("toml")
    (tmp_path / "recipe.toml").write_text(text)
    found = read(tmp_path)
    assert found.methods[0].scale == 2.0 and found.sampler.n == 4
    assert [weight for _, weight in found.sampler.rewards] == [1.0, 0.5]
