"""Test that settings known for a model are the default of the command line, and that one line says so."""

import dataclasses
import json
import shutil

import pytest

import diffusers_ext as dx

KNOWN = {"scale": 1.5, "scope": "all"}
LINE = "softpag: the settings that are known for "


@pytest.fixture
def tuned_model(saved_model, tmp_path):
    """Save a tiny model with settings of SoftPAG beside its weights."""
    folder = shutil.copytree(saved_model, tmp_path / "models" / "tuned")
    (folder / "softpag.json").write_text(json.dumps({"settings": KNOWN}))
    return folder


# All commands choose by the same function, so what it does in detail is tested on one of them.
by_generate = pytest.mark.parametrize("run", ["generate"], indirect=True)


@pytest.fixture(params=["generate", "compare", "eval"])
def run(request, cli, tmp_path):
    """Run SoftPAG by each command that makes pictures; return its settings and what was printed."""
    words = {
        "generate": ["generate", "a red square", "--method", "softpag"],
        "compare": ["compare", "a red square", "--methods", "plain,softpag"],
        "eval": ["eval", "--n", 1, "--method", "softpag"],
    }[request.param]
    folder = tmp_path / "out"

    def run(model, *options):
        shutil.rmtree(folder, ignore_errors=True)
        code, out, err = cli(*words, "--steps", 1, "-m", model, "--out", folder, *options)
        assert (code, err) == (0, "")
        files = folder.glob("*.json") if request.param == "generate" else [folder / "results.json"]
        (found,) = [json.loads(path.read_text()) for path in files if "methods" in path.read_text()]
        methods = found["methods"]["softpag"]["methods"] if request.param == "compare" else found["methods"]
        (method,) = methods
        assert method.pop("name") == "softpag"
        return method, [line for line in out.splitlines() if "known for" in line]

    return run


def test_known_settings_are_the_default(run, tuned_model):
    known = dataclasses.asdict(dx.SoftPAG(**KNOWN))
    line = [f"{LINE}{tuned_model} (scale 1.5, scope all); --no-preset leaves them"]
    assert run(tuned_model) == (known, line)


@by_generate
def test_the_default_may_be_named_and_left_out(run, tuned_model):
    assert run(tuned_model, "--preset") == run(tuned_model)
    assert run(tuned_model, "--no-preset") == (dataclasses.asdict(dx.SoftPAG()), [])


@by_generate
def test_what_is_set_goes_first_and_leaves_the_rest(run, tuned_model):
    known = dataclasses.asdict(dx.SoftPAG(**KNOWN | {"scale": 2.5}))
    line = [f"{LINE}{tuned_model} (scope all); --no-preset leaves them"]
    for key in ("scale", "softpag.scale"):
        assert run(tuned_model, "--set", f"{key}=2.5") == (known, line)
    own = dataclasses.asdict(dx.SoftPAG(scale=2.5))
    assert run(tuned_model, "--no-preset", "--set", "scale=2.5") == (own, [])


@by_generate
def test_a_model_of_which_nothing_is_known(run, saved_model):
    own = dataclasses.asdict(dx.SoftPAG())
    line = f"softpag: no settings are known for {saved_model}, so its own defaults hold; --set changes them"
    assert run(saved_model) == (own, [line])
    assert run(saved_model, "--no-preset") == (own, [])
    assert run(saved_model, "--set", "scale=2") == (own | {"scale": 2.0}, []), "the user chose"


def test_models_of_the_zoo_have_settings(cli, tmp_path):
    words = "generate", "a red square", "-m", "shapes-sd-turbo", "--method", "softpag", "--out", tmp_path
    code, out, err = cli(*words)
    assert (code, err) == (0, "") and f"{LINE}shapes-sd-turbo (heads mid_block" in out
    (path,) = tmp_path.glob("*.json")
    (method,) = json.loads(path.read_text())["methods"]
    assert method.pop("name") == "softpag"
    assert method == dataclasses.asdict(dx.preset("shapes-sd-turbo", "softpag"))


def test_a_preset_that_is_asked_for_must_be_there(cli, refused, saved_model, tmp_path):
    words = "generate", "a red square", "--steps", 1, "--preset", "--out", tmp_path / "out", "--method"
    assert "none is in use; add --method NAME" in refused(*words[:-1])
    found = {}
    for name in (saved_model.name, "sd3", "other"):
        folder = shutil.copytree(saved_model, tmp_path / name)
        found[name] = refused(*words, "clear" if name == "sd3" else "softpag", "-m", folder)
    assert "'sd3' are not known to hold for" in found["tiny-sd3"] and "--set in place" in found["tiny-sd3"]
    assert "settings for gna, softpag, got clear" in found["sd3"]
    assert "No preset fits the model" in found["other"]
    (tmp_path / "tiny-sd3" / "softpag.json").write_text('{"settings": {"scale": 1.5}}')
    assert cli(*words, "softpag", "-m", tmp_path / "tiny-sd3")[0] == 0, "as the refusal says"


def test_a_damaged_file_of_settings_is_refused_by_default_too(refused, tuned_model, tmp_path):
    (tuned_model / "softpag.json").write_text("{")
    words = "generate", "a", "-m", tuned_model, "--method", "softpag", "--out", tmp_path / "out"
    assert "softpag.json is no JSON in UTF-8" in refused(*words)
