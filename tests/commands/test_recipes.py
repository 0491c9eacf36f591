"""`generate --recipe` and `--save-recipe`."""

import json

import pytest

from .test_cli import CALL, files


def test_a_recipe_makes_the_same_picture(cli, saved_model, tmp_path):
    first = ["generate", "a red square", "-m", saved_model, *CALL, "--seed", 7, "--method", "softpag"]
    first += ["--set", "scale=2", "--guidance-scale", 3, "--out", tmp_path / "a"]
    code, out, _ = cli(*first, "--save-recipe", tmp_path / "r.json")
    assert code == 0 and f"wrote the recipe {tmp_path / 'r.json'}" in out
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["model"] == str(saved_model) and data["call"]["guidance_scale"] == 3.0
    again = ["generate", "a red square", "--recipe", tmp_path / "r.json", "--seed", 7]
    code, out, _ = cli(*again, "--out", tmp_path / "b")
    assert code == 0 and f"{tmp_path / 'r.json'}: softpag on" in out
    one, two = ({f: (tmp_path / d / f).read_bytes() for f in files(tmp_path / d)} for d in "ab")
    assert one.keys() == two.keys(), "the records are the same, so the names are"
    assert [v for k, v in one.items() if k.endswith("png")] == [
        v for k, v in two.items() if k.endswith("png")
    ]


def test_options_override_a_recipe_and_samplers_search(cli, saved_model, tmp_path):
    (tmp_path / "r.toml").write_text(
        'recipe = 1\nmodel = "shapes-sd"\nmethods = [{name = "softpag", scale = 2}]\n'
        '[call]\nnum_inference_steps = 1\n[sampler]\nname = "best-of-n"\nrewards = ["shapes-clip"]\n'
    )
    words = [
        "generate",
        "a red square",
        "--recipe",
        tmp_path / "r.toml",
        "--seed",
        7,
        "--out",
        tmp_path / "a",
    ]
    words += ["-m", saved_model, *CALL, "--set", "scale=3", "--set", "best-of-n.n=2"]
    code, _, err = cli(*words, "--save-recipe", tmp_path / "s.json")
    assert (code, err) == (0, "")
    (path,) = (tmp_path / "a").glob("*.json")
    method, sampler = json.loads(path.read_text())["methods"]
    assert method["scale"] == 3.0 and (sampler["name"], sampler["n"]) == ("best-of-n", 2)
    assert sampler["rewards"][0]["name"] == "shapes-clip"
    data = json.loads((tmp_path / "s.json").read_text())
    assert data["model"] == str(saved_model) and data["sampler"]["n"] == 2
    assert data["sampler"]["rewards"] == [{"name": "shapes-clip", "weight": 1.0}]
    assert "finished before" in cli(*words)[1]


@pytest.mark.parametrize(
    "words, match",
    [
        (["--method", "nag"], "--recipe has methods and settings of its own, got --method"),
        (["--no-preset"], "got --preset; leave it out, or change settings with --set"),
        (["--set", "scle=3"], "softpag has no setting 'scle'; nearest is 'scale'"),
        (["--save-recipe", "r.toml"], "recipes are written as JSON, got 'r.toml'"),
        (["--save-recipe", "no/r.json"], "there is no folder 'no' for the recipe"),
        (["--recipe", "none.json"], "cannot read the recipe 'none.json'"),
        (["--recipe", "nothing"], "a recipe is a file that ends in .json or .toml"),
    ],
)
def test_bad_input_is_one_line(refused, tmp_path, words, match):
    (tmp_path / "r.json").write_text('{"recipe": 1, "model": "shapes-sd", "methods": ["softpag"]}')
    base = ["generate", "a", "--recipe", tmp_path / "r.json", "--out", tmp_path / "new"]
    assert match in refused(*base, *words)
    assert not (tmp_path / "new").exists()
