"""The installed command line on a tiny model with random weights, in this process for speed."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import diffusers_ext
from diffusers_ext import zoo
from diffusers_ext.cli import main
from diffusers_ext.commands import demo
from diffusers_ext.metadata import read
from diffusers_ext.zoo.captions import parse
from diffusers_ext.zoo.suites import IMAGE_TASKS

CALL = ["--steps", "1"]


def files(folder):
    return sorted(p.name for p in folder.iterdir())


# --- help and version ----


def test_help_is_fast_and_imports_nothing_heavy():
    heavy = ["torch", "diffusers", "transformers", "numpy", "scipy", "PIL", "matplotlib", "rich"]
    code = (
        "import sys, time; t = time.perf_counter()\n"
        "from diffusers_ext.cli import main\n"
        "try: main(['--help'])\n"
        f"finally: print(time.perf_counter() - t, [m for m in {heavy} if m in sys.modules])"
    )
    times = []
    for _ in range(3):
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
        seconds, modules = out.splitlines()[-1].split(" ", 1)
        assert modules == "[]"
        times.append(float(seconds))
    assert "compare" in out
    assert min(times) < 0.5


@pytest.mark.parametrize(
    "command", ["generate", "compare", "demo", "eval", "train", "methods", "families", "doctor"]
)
def test_every_command_has_help(cli, command):
    code, out, _ = cli(command, "--help")
    assert code == 0 and "--help" in out


def test_version(cli):
    assert cli("--version") == (0, f"diffusers-ext {diffusers_ext.__version__}\n", "")


def test_installed_command():
    from importlib.metadata import entry_points

    (found,) = entry_points(group="console_scripts", name="diffusers-ext")
    assert found.load() is main


# --- generate ----


def test_generate_writes_pictures_that_tell_how_they_were_made(cli, saved_model, tmp_path):
    words = [
        "generate",
        "a red square",
        "-m",
        saved_model,
        *CALL,
        "--out",
        tmp_path,
        "--seed",
        7,
        "--num-images",
        2,
    ]
    heads = '{"transformer_blocks.1.attn": [0, 2]}'
    method = ["--method", "softpag", "--set", "scale=2", "--set", f"softpag.heads={heads}"]
    code, out, err = cli(*words, *method)
    assert (code, err) == (0, "")
    pictures = sorted(tmp_path.glob("*.png"))
    assert len(pictures) == 2 and len(files(tmp_path)) == 4
    for seed, path in zip((7, 8), pictures, strict=True):
        inside, beside = read(path), json.loads(path.with_suffix(".json").read_text())
        assert inside.items() <= beside.items()
        assert (beside["seed"], beside["prompt"], beside["size"]) == (seed, "a red square", [64, 64])
        assert beside["methods"] == [
            {
                "name": "softpag",
                "heads": {"transformer_blocks.1.attn": [0, 2]},
                "scale": 2.0,
                "strength": None,
                "scope": "image_rows",
                "start": 0.0,
                "stop": 1.0,
            }
        ]
        assert beside["report"]["extra_passes"] >= 1 and beside["seconds"] > 0
        assert beside["verdict"]["correct"] is False and "missing a red square" in beside["verdict"]["reason"]
        assert str(path) in out
    assert "transformer_blocks.1.attn" in out


def test_the_record_inside_makes_the_same_picture_again(cli, saved_model, tmp_path):
    words = [
        "-m",
        saved_model,
        *CALL,
        "--guidance-scale",
        3.5,
        "--negative",
        "blue",
        "--height",
        32,
        "--width",
        48,
    ]
    cli("generate", "a red square", *words, "--seed", 5, "--method", "softpag", "--out", tmp_path / "a")
    (first,) = (tmp_path / "a").glob("*.png")
    record = read(first)
    again = ["-m", record["model"], "--seed", record["seed"], "--out", tmp_path / "b"]
    names = {"num_inference_steps": "--steps", "negative_prompt": "--negative"}
    for key, value in record["call"].items():
        again += [names.get(key, "--" + key.replace("_", "-")), value]
    (method,) = record["methods"]
    again += ["--method", method.pop("name")]
    for key, value in method.items():
        again += ["--set", f"{key}={json.dumps(value)}"]
    cli("generate", record["prompt"], *again)
    (second,) = (tmp_path / "b").glob("*.png")
    assert second.name == first.name
    assert np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(second)))


def test_no_embed(cli, saved_model, tmp_path):
    cli("generate", "a", "-m", saved_model, *CALL, "--out", tmp_path, "--no-embed")
    (path,) = tmp_path.glob("*.png")
    assert Image.open(path).text == {}
    assert json.loads(path.with_suffix(".json").read_text())["prompt"] == "a"


def test_a_prompt_cannot_leave_the_folder(cli, saved_model, tmp_path):
    code, _, err = cli("generate", "../../x", "-m", saved_model, *CALL, "--out", tmp_path / "in")
    assert code == 0, err
    assert files(tmp_path) == ["in"] and len(files(tmp_path / "in")) == 2


def test_a_long_prompt_is_warned_about(cli, saved_model, tmp_path):
    code, _, err = cli("generate", "red " * 20 + "hat", "-m", saved_model, *CALL, "--out", tmp_path)
    assert code == 0
    first = err.splitlines()[0]
    assert first.startswith("warning: the prompt 'red red red")
    assert "has 65 tokens, the limit of tokenizer, tokenizer_2 is 32; cut off:" in first
    assert first.endswith("red hat'")
    assert "truncated because" not in err


@pytest.mark.parametrize(
    "words, match",
    [
        (["--seed", "-1"], "a seed must be a whole number from 0 to 2**63 - 1, got '-1'"),
        (["--seed", "1.5"], "got '1.5'"),
        (["--seed", str(2**63 - 1), "--num-images", "2"], "got 9223372036854775808"),
        (["--num-images", "0"], "--num-images must be 1 or more"),
        (["--height", "30"], "the nearest is 32"),
        (["--guidance-scale", "nan"], "guidance scale must be a finite number"),
        (["--method", "softpg"], "unknown method 'softpg'; the methods are softpag"),
        (["--set", "scale=3"], "needs a method"),
        (["--method", "softpag", "--set", "scal=3"], "nearest is 'scale'"),
        (["--method", "softpag", "--set", "scale=inf"], "takes number"),
        (["--method", "softpag", "--set", "strength=2"], "strength must lie in [0, 1], got 2.0"),
        (
            ["--method", "softpag", "--set", 'heads={"transformer_blocks.9.attn": null}'],
            "the nearest names are",
        ),
        (["--method", "softpag", "--set", 'heads={"transformer_blocks.1.attn": [99]}'], "99"),
        (["--dtype", "int8"], "--dtype must be one of"),
        (["--device", "cuda:99"], "the device 'cuda:99' cannot be used"),
    ],
)
def test_bad_input_is_one_line(refused, saved_model, tmp_path, words, match):
    line = refused("generate", "a red square", "-m", saved_model, *CALL, "--out", tmp_path / "out", *words)
    assert match in line
    assert not list(tmp_path.rglob("*.png"))


def test_unknown_model_and_missing_folder(refused, tmp_path):
    assert "the zoo has shapes-sd3" in refused("generate", "a", "-m", "shapes-sd4", "--out", tmp_path)
    assert "there is no model folder" in refused("generate", "a", "-m", tmp_path / "none", "--out", tmp_path)


@pytest.mark.parametrize("command", [["generate", "a"], ["compare", "a"], ["eval"]])
def test_an_unwritable_folder_is_found_before_any_work(refused, tmp_path, monkeypatch, command):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(
        "diffusers_ext.commands.options.open_model", lambda *_: pytest.fail("the model was loaded")
    )
    line = refused(*command, "--out", tmp_path / "file" / "below")
    assert "cannot write to the output folder" in line


def test_nan_writes_nothing(refused, saved_model, tmp_path, monkeypatch):
    import torch

    from diffusers_ext import loading

    load = loading.load

    def broken(*args, **kwargs):
        pipe = load(*args, **kwargs)
        with torch.no_grad():
            pipe.transformer.proj_out.bias.fill_(float("nan"))
        return pipe

    monkeypatch.setattr(loading, "load", broken)
    assert "NaN or infinity" in refused("generate", "a", "-m", saved_model, *CALL, "--out", tmp_path)
    assert files(tmp_path) == []


def test_ctrl_c_is_one_line(cli, saved_model, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("diffusers_ext.commands.options.open_model", interrupt)
    code, out, err = cli("generate", "a", "-m", saved_model, "--out", tmp_path)
    assert (code, out, err) == (130, "", "stopped; files already written are complete\n")


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="unknown model"):
        main(["--debug", "generate", "a", "-m", "shapes-sd4", "--out", str(tmp_path)])


# --- compare, eval, demo ----


def test_compare(cli, saved_model, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbftwo blue stars\r\n\r\na cat\r\n")
    words = ["--methods", "plain,softpag", "--seeds", "0,1", "--prompts-file", tmp_path / "prompts.txt"]
    code, out, err = cli(
        "compare", "a red square", "-m", saved_model, *CALL, *words, "--out", tmp_path / "out"
    )
    assert (code, err) == (0, "")
    assert files(tmp_path / "out") == ["compare.png", "report.html", "results.json"]
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    items = [(p, s) for p in ("a red square", "two blue stars", "a cat") for s in (0, 1)]
    for label in ("plain", "softpag"):
        images = found["methods"][label]["images"]
        assert [(i["prompt"], i["seed"]) for i in images] == items
        assert found["methods"][label]["overall"]["n"] == 4
    assert found["paired"]["softpag"]["overall"]["n"] == 4
    assert "softpag minus plain: +0 points" in out


@pytest.mark.parametrize(
    "words, match",
    [
        ([], "compare needs a prompt, got none"),
        (["a", "--seeds", "0,0"], "--seeds takes different whole numbers"),
        (["a", "--seeds", "0,x"], "a seed must be a whole number"),
        (["a", "--methods", "plain,plain"], "name each variant once"),
        (["a", "--methods", "plain,other"], "unknown method 'other'"),
        (["a", "--prompts-file", "/nope"], "cannot read the prompts file '/nope'"),
    ],
)
def test_compare_bad_input(refused, saved_model, tmp_path, words, match):
    assert match in refused("compare", *words, "-m", saved_model, *CALL, "--out", tmp_path)


def test_eval_resumes_and_refuses_other_weights(cli, refused, saved_model, tmp_path):
    words = ["eval", "--suite", "held-out", *CALL, "--out", tmp_path, "--n"]
    code, out, err = cli(*words, 1, "-m", saved_model)
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "results.json").read_text())
    assert tuple(found["tasks"]) == IMAGE_TASKS
    assert found["tasks"]["color_attr"].pop("swapped") in (0, 1)
    assert all(set(t) == {"accuracy", "low", "high", "n"} and t["n"] == 1 for t in found["tasks"].values())
    assert found["overall"]["n"] == 6 and "paired" not in found
    assert out.splitlines()[-2].startswith("overall")
    code, out, err = cli(*words, 2, "-m", saved_model, "--method", "softpag", "--set", "scale=2")
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["methods"][0]["scale"] == 2.0 and found["paired"]["overall"]["n"] == 12
    lines = (tmp_path / "items.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 12 + 12, "the six pictures of the first run were not made again"
    assert len(list(tmp_path.glob("pictures/*/*.png"))) == 12 + 12
    assert "| overall | 12 |" in (tmp_path / "table.md").read_text()
    assert {"accuracy.png", "accuracy.svg"} < {p.name for p in tmp_path.iterdir()}
    assert "Losses: softpag is wrong" in (tmp_path / "gallery.html").read_text()
    from tests.tiny_models import sd3

    sd3.pipeline(sample_size=32, qk_norm="rms_norm").save_pretrained(tmp_path / "other")
    assert "results with different weights" in refused(*words, 1, "-m", tmp_path / "other")


def test_a_model_trained_anew_is_called_as_it_was_trained(cli, saved_model, tmp_path):
    folder = shutil.copytree(saved_model, tmp_path / "run")
    (folder / "card.json").write_text(json.dumps({"call": {"num_inference_steps": 2, "guidance_scale": 1.5}}))
    assert cli("generate", "a", "-m", folder, "--guidance-scale", 3, "--out", tmp_path / "out")[0] == 0
    (path,) = (tmp_path / "out").glob("*.png")
    assert read(path)["call"] == {"num_inference_steps": 2, "guidance_scale": 3.0}


def test_eval_bad_input(refused, saved_model, tmp_path):
    base = ["eval", "-m", saved_model, *CALL, "--out", tmp_path]
    assert "unknown suite 'test'; the suites are train-like, held-out, tuning" in refused(
        *base, "--suite", "test"
    )
    assert "got 0" in refused(*base, "--n", 0)
    assert "unknown method 'nope'; the methods are" in refused(*base, "--method", "nope")
    unfit = refused(*base, "--n", 1, "--method", "radial", "--set", "dense_steps=0")
    assert "Radial thins out frames and needs two or more" in unfit
    assert len((tmp_path / "items.jsonl").read_text().splitlines()) == 1, "plain pictures were made in vain"


def test_demo_prompts_are_a_dozen_held_out_ones_of_every_task():
    specs = [parse(p) for p in demo.PROMPTS]
    assert len(set(demo.PROMPTS)) == 12
    assert all(s.held_out for s in specs)
    assert {s.task for s in specs} == {"single_object", "two_object", "three_object", "counting", "position"}


def test_demo(cli, tmp_path):
    began = time.perf_counter()
    code, out, err = cli("demo", "--out", tmp_path)
    assert (code, err) == (0, "")
    assert time.perf_counter() - began < 180
    assert files(tmp_path) == ["compare.png", "report.html", "results.json"]
    found = json.loads((tmp_path / "results.json").read_text())
    assert [i["prompt"] for i in found["methods"]["plain"]["images"]] == list(demo.PROMPTS)
    assert found["methods"]["plain"]["overall"]["n"] == found["methods"]["softpag"]["overall"]["n"] == 12
    assert demo.NOTE in out and "softpag minus plain" in out


# --- lists ----


def test_methods(cli):
    code, out, _ = cli("methods")
    assert code == 0 and "softpag: " in out and "image_rows" in out
    found = {method["name"]: method["settings"] for method in json.loads(cli("methods", "--json")[1])}
    scale = next(s for s in found["softpag"] if s["name"] == "scale")
    assert (scale["type"], scale["default"], scale["low"]) == ("number", 3.0, 0.0)
    assert all(s["help"] and s["unit"] for settings in found.values() for s in settings)


def test_families(cli):
    found = json.loads(cli("families", "--json")[1])
    known = {
        "UNet2DConditionModel": "StableDiffusionXLPipeline",
        "SD3Transformer2DModel": "StableDiffusion3Pipeline",
        "FluxTransformer2DModel": "FluxPipeline",
        "WanTransformer3DModel": "WanPipeline",
        "HunyuanVideoTransformer3DModel": "HunyuanVideoImageToVideoPipeline",
        "MochiTransformer3DModel": "MochiPipeline",
    }
    for cls, pipeline in known.items():
        assert pipeline in found[cls]["pipelines"]
    assert not any("Framepack" in name for facts in found.values() for name in facts["pipelines"])
    assert all(name in cli("families")[1] for name in known)


def test_doctor(cli):
    code, out, _ = cli("doctor")
    assert code == 0
    assert "attention back-ends" in out and "shapes-sd3" in out
    assert {f["section"] for f in json.loads(cli("doctor", "--json")[1])} == {
        "versions",
        "devices",
        "attention back-ends",
        "models",
    }


def test_train_bad_input(refused, tmp_path):
    line = refused("train", "shapes-sd4", "--out", tmp_path)
    assert all(name in line for name in zoo.MODELS)
    assert "threads must be at least 1, got 0" in refused(
        "train", "shapes-sd3", "--threads", 0, "--out", tmp_path
    )
    assert "whole number" in refused("train", "shapes-sd3", "--seed", "x", "--out", tmp_path)
