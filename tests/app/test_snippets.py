"""The command, the script and the job file of a request make the pixels that the page made."""

import ast
import shlex
import tomllib

import numpy as np
import pytest
from PIL import Image

from diffusers_ext.app import pictures, snippets
from diffusers_ext.app.asked import Asked
from diffusers_ext.app.engine import Done, Engine, known_settings
from diffusers_ext.app.models import Models
from diffusers_ext.jobs.job import Job
from diffusers_ext.outputs.record import read

NAG = {"name": "nag", "scale": 9.0, "negative_prompt": 'a "red" $circle; 7'}
SOFTPAG = {"name": "softpag", "scale": 2.0, "perturbation": "uniform"}


@pytest.fixture(scope="module")
def engine():
    return Engine(Models())


@pytest.fixture
def page(engine, tmp_path):
    """Makes what the page makes of a request; gives its pictures and the source of its snippets."""

    def run(asked):
        def work(control, place):
            plain = pictures.make(control, place, Asked.of({**asked.to_data(), "methods": []}), tmp_path)
            return plain, pictures.make(control, place, asked, tmp_path)

        made = next(e.result for e in engine.run("a", work) if isinstance(e, Done))
        known = known_settings(engine.models.resolve(asked.model))
        return [pixels(each.path) for each in made], snippets.Source(asked, asked.model, known)

    return run


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def two(folder):
    """The pictures below a folder, the plain one first."""
    found = {bool(read(path)["methods"]): pixels(path) for path in folder.rglob("*-*.png")}
    return [found[False], found[True]]


@pytest.fixture
def asked():
    prompt = "a red circle and a 'blue' square"
    call = {"num_inference_steps": 2}
    return Asked.of(
        {"prompt": prompt, "model": "shapes-sd-turbo", "methods": [SOFTPAG, NAG], "call": call, "seed": 7}
    )


def test_each_snippet_makes_the_same_pixels(page, asked, cli, tmp_path, monkeypatch):
    (plain, changed), source = page(asked)
    assert (plain != changed).any()
    (tmp_path / "user").mkdir()
    monkeypatch.chdir(tmp_path / "user")
    program, *words = shlex.split(snippets.command(source))
    assert program == "diffusers-ext"
    code, _, err = cli(*words)
    assert code == 0, err
    (tmp_path / "compare.toml").write_text(snippets.job(source), encoding="utf-8")
    code, _, err = cli("run", tmp_path / "compare.toml", "--out", "job")
    assert code == 0, err
    names = {}
    exec(snippets.python(source), names)
    script = [np.asarray(names["plain"]), np.asarray(names["changed"])]
    user = tmp_path / "user"
    written = [pixels(user / "plain.png"), pixels(user / "changed.png")]
    for found in (two(user / "out" / "compare"), two(user / "job"), script, written):
        np.testing.assert_array_equal(found, [plain, changed])


def test_a_plain_request_is_one_line_of_generate(page, cli, tmp_path, monkeypatch):
    (plain, _), source = page(Asked("-1 red circles", "shapes-sd-turbo", seed=2**63 - 1))
    monkeypatch.chdir(tmp_path)
    _, *words = shlex.split(snippets.command(source))
    assert words[0] == "generate"
    assert cli(*words)[0] == 0
    (path,) = (tmp_path / "out").glob("*.png")
    np.testing.assert_array_equal(pixels(path), plain)
    assert "dx.apply" not in snippets.python(source)
    assert "[[method]]" not in snippets.job(source)


def source(methods, known=None, **more):
    data = {"prompt": "a red circle", "model": "m", "methods": methods, "seed": 1, "call": {}}
    return snippets.Source(Asked.of(data | {k: v for k, v in more.items() if k in data}), "m", known or {})


@pytest.mark.parametrize(
    "prompt", ["caf\u00e9 \u2603 \U0001f600", 'a "quoted" \\ back', "tab\tline\nend", "del\x7f"]
)
def test_any_prompt_comes_back(prompt, tmp_path):
    asked = source([{"name": "structured", "phrases": [prompt, "b"]}], prompt=prompt)
    data = tomllib.loads(snippets.job(asked))
    assert data["prompts"]["texts"] == [prompt]
    assert data["method"][0]["phrases"] == [prompt, "b"]
    assert shlex.split(snippets.command(asked))[-1] == prompt
    tree = ast.parse(snippets.python(asked))
    assert prompt in [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    (tmp_path / "job.toml").write_text(snippets.job(asked), encoding="utf-8", newline="")
    assert Job.read(tmp_path / "job.toml").prompts.texts == [prompt]


def test_none_over_a_known_value_is_kept(tmp_path):
    known = {"softpag": {"scale": 0.5, "strength": 0.7}}
    asked = source([{"name": "softpag", "strength": None}], known)
    assert "softpag.strength=null" in snippets.command(asked)
    (tmp_path / "job.toml").write_text(snippets.job(asked))
    found = Job.read(tmp_path / "job.toml")
    assert found.model.preset is False
    assert found.methods == {"softpag": {"scale": 0.5}}


def test_what_toml_cannot_hold_is_said():
    asked = source([{"name": "softpag", "heads": {"mid_block": None}}])
    (line,) = snippets.job(asked).splitlines()
    assert line.startswith("# A job file has no null, as in heads of softpag")


def test_paths_of_the_server_stay_on_it():
    known = {"softpag": {"heads": "/srv/secret/heads.json", "scale": 0.5}}
    for methods in ([{"name": "softpag"}], [{"name": "softpag", "scale": 3.0}]):
        asked = source(methods, known)
        for write in (snippets.command, snippets.python, snippets.job):
            assert "secret" not in write(asked)
    line = next(line for line in snippets.python(asked).splitlines() if "dx.apply" in line)
    assert 'replace(dx.preset(pipe, "softpag"), scale=3.0)' in line


def test_another_dtype_and_device_are_named():
    asked = Asked("a red circle", "m", ({"name": "nag"},), {}, 1)
    found = snippets.Source(asked, "m", {}, "cuda", "bfloat16")
    assert 'dx.load("m", dtype=torch.bfloat16).to("cuda")' in snippets.python(found)
    assert "--dtype bfloat16" in snippets.command(found)
    assert tomllib.loads(snippets.job(found))["model"]["dtype"] == "bfloat16"


def test_a_clip_of_another_length_is_two_lines():
    asked = Asked("a red circle moves left", "shapes-wan", ({"name": "nag"},), {"num_frames": 5}, 1)
    lines = snippets.command(snippets.Source(asked, "shapes-wan", {}, clip=True)).splitlines()
    assert [line.split()[1] for line in lines] == ["generate", "generate"]
    assert all("--num-frames 5" in line for line in lines)
    assert ["--method" in line for line in lines] == [False, True]
