"""Test `generate` on a tiny model with random weights: files, records, and errors of one line."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import diffusers_ext as dx
from diffusers_ext.cli import main
from diffusers_ext.outputs.record import read

from .test_cli import CALL, files


def test_generate_writes_pictures_that_tell_how_they_were_made(cli, saved_model, tmp_path):
    words = ["generate", "a red square", "-m", saved_model, *CALL, "--out", tmp_path]
    heads = '{"transformer_blocks.1.attn": [0, 2]}'
    method = ["--method", "softpag", "--set", "scale=2", "--set", f"softpag.heads={heads}"]
    code, out, err = cli(*words, "--seed", 7, "--num-images", 2, *method)
    assert (code, err) == (0, "")
    pictures = sorted(tmp_path.glob("*.png"))
    assert len(pictures) == 2 and len(files(tmp_path)) == 4
    for seed, path in zip((7, 8), pictures, strict=True):
        inside, beside = read(path), json.loads(path.with_suffix(".json").read_text())
        assert inside.items() <= beside.items()
        assert (beside["seed"], beside["prompt"], beside["size"]) == (seed, "a red square", [64, 64])
        (made,) = beside["methods"]
        assert made == {"name": "softpag", **dataclasses.asdict(dx.SoftPAG(json.loads(heads), 2.0))}
        assert beside["report"]["extra_passes"] >= 1 and beside["seconds"] > 0
        assert beside["verdict"]["correct"] is False and "missing a red square" in beside["verdict"]["reason"]
        assert str(path) in out
    assert "transformer_blocks.1.attn" in out


def test_the_record_inside_makes_the_same_picture_again(cli, saved_model, tmp_path):
    words = ["--guidance-scale", 3.5, "--negative", "blue", "--height", 32, "--width", 48]
    words += ["--seed", 5, "--method", "softpag", "--out", tmp_path / "a"]
    cli("generate", "a red square", "-m", saved_model, *CALL, *words)
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
        (["--seed", "-2"], "a seed must be a whole number from 0 to 2**63 - 1, got '-2'"),
        (["--seed", "1.5"], "got '1.5'"),
        (["--seed", str(2**63 - 1), "--num-images", "2"], "got 9223372036854775808"),
        (["--num-images", "0"], "--num-images must be 1 or more"),
        (["--height", "30"], "the nearest are 28 and 32"),
        (["--guidance-scale", "nan"], "guidance scale must be a finite number"),
        (["--method", "softpg"], "unknown method 'softpg'; nearest is 'softpag', the methods are softpag"),
        (["--set", "scale=3"], "needs a method"),
        (["--method", "softpag", "--set", "scal=3"], "nearest is 'scale'"),
        (["--method", "softpag", "--set", "scale=inf"], "takes a number"),
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
        "diffusers_ext.models.checkpoint.Checkpoint.load", lambda *_: pytest.fail("the model was loaded")
    )
    line = refused(*command, "--out", tmp_path / "file" / "below")
    assert "cannot write to the output folder" in line


def test_nan_writes_nothing(refused, saved_model, tmp_path, monkeypatch):
    import torch

    from diffusers_ext.models.checkpoint import Checkpoint

    read = Checkpoint.read

    def broken(*args, **kwargs):
        pipe = read(*args, **kwargs)
        with torch.no_grad():
            pipe.transformer.proj_out.bias.fill_(float("nan"))
        return pipe

    monkeypatch.setattr(Checkpoint, "read", broken)
    assert "NaN or infinity" in refused("generate", "a", "-m", saved_model, *CALL, "--out", tmp_path)
    assert files(tmp_path) == []


def test_ctrl_c_is_one_line(cli, saved_model, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("diffusers_ext.models.checkpoint.Checkpoint.load", interrupt)
    code, out, err = cli("generate", "a", "-m", saved_model, "--out", tmp_path)
    assert (code, out, err) == (130, "", "stopped; files already written are complete\n")


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="unknown model"):
        main(["--debug", "generate", "a", "-m", "shapes-sd4", "--out", str(tmp_path)])


def test_a_model_trained_anew_is_called_as_it_was_trained(cli, saved_model, tmp_path):
    folder = shutil.copytree(saved_model, tmp_path / "run")
    (folder / "card.json").write_text(json.dumps({"call": {"num_inference_steps": 2, "guidance_scale": 1.5}}))
    assert cli("generate", "a", "-m", folder, "--guidance-scale", 3, "--out", tmp_path / "out")[0] == 0
    (path,) = (tmp_path / "out").glob("*.png")
    assert read(path)["call"] == {"num_inference_steps": 2, "guidance_scale": 3.0}


def test_a_method_that_changed_nothing_is_said_in_one_line(cli, saved_model, tmp_path):
    words = ["--model", saved_model, "--steps", 2, "--seed", 1, "--out", tmp_path]
    method = ["--method", "clear", "--set", "dense_steps=9", "--set", "backend=reference"]
    code, _, err = cli("generate", "a red circle", *words, *method)
    said = [line for line in err.splitlines() if "changed nothing" in line]
    assert code == 0 and len(said) == 1
    assert said[0].startswith("warning: clear changed nothing in this run: dense_steps=9 keeps all of its 2")
