"""Test names that people type, help of 80 columns, examples that work, and random seeds."""

import inspect
import json
import re
import shlex
import subprocess
import sys

import pytest
import typer.main

from diffusers_ext.cli import app
from diffusers_ext.commands.names import ALIASES, EXAMPLES
from diffusers_ext.outputs.record import read
from diffusers_ext.settings.registry import SAMPLERS

GROUP = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)


def said(cli, monkeypatch, *words):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    code, out, err = cli(*words)
    assert (code, err) == (0, "")
    return out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_whole(cli, monkeypatch, command):
    text = said(cli, monkeypatch, command, "-h")
    assert text == said(cli, monkeypatch, command, "--help")
    assert "--help" in text and max(map(len, text.splitlines())) <= 80
    assert not re.search(r"[a-z ]\.\.\.$", text, re.MULTILINE), "a line is cut"
    assert EXAMPLES[command] in text
    flat = " ".join(text.split()).replace("- ", "-")
    for option in GROUP.commands[command].params:
        if option.name == "help" or getattr(option, "hidden", False):
            continue
        assert option.help and option.help[0].isupper() and option.help.endswith("."), option.name
        if option.param_type_name == "option" and option.default not in (None, False, True):
            assert f"[default: {option.default}]" in flat, option.name


def test_the_list_of_commands_is_not_cut(cli, monkeypatch):
    text = said(cli, monkeypatch, "--help")
    assert "..." not in text.replace("[ARGS]...", "") and max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split()).replace("- ", "-")
    for name in COMMANDS:
        first = " ".join(inspect.cleandoc(GROUP.commands[name].help).split("\n\n")[0].split())
        assert first.endswith(".") and first in flat, name


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_are_understood(command):
    program, name, *words = shlex.split(EXAMPLES[command])
    assert (program, name) == ("diffusers-ext", command)
    with GROUP.make_context("diffusers-ext", [name, *words], resilient_parsing=False) as context:
        found = GROUP.commands[command].make_context(command, words, parent=context)
        assert found.params


def test_names_of_other_tools_are_understood(cli, saved_model, tmp_path):
    words = ["--prompt", "a red circle", "-m", saved_model, "--num-inference-steps", 1, "--cfg", 2.5]
    words += ["--negative-prompt", "blue", "-n", 2, "-H", 32, "-W", 48, "--batch-size", 2]
    code, _, err = cli("generate", *words, "--seed", 3, "--output", tmp_path)
    assert (code, err) == (0, "")
    records = [read(p) for p in sorted(tmp_path.glob("*.png"))]
    assert [r["seed"] for r in records] == [3, 4] and records[0]["prompt"] == "a red circle"
    call = records[0]["call"]
    assert (call["num_inference_steps"], call["guidance_scale"], call["negative_prompt"]) == (1, 2.5, "blue")
    assert records[0]["size"] == [48, 32]


def test_an_alias_never_hides_an_option():
    for name, command in GROUP.commands.items():
        with command.make_context(name, [], resilient_parsing=True) as context:
            own = [o for p in command.params for o in (*p.opts, *p.secondary_opts)]
            assert len(own) == len(set(own))
            assert not set(command._aliases(context)) & set(own)
    assert all(o.startswith("-") for also in ALIASES.values() for o in also)


def test_prompts_are_counted(refused, saved_model, tmp_path):
    out = ["-m", saved_model, "--out", tmp_path]
    assert 'generate needs a prompt, got none; write one, as generate "a red circle"' in refused(
        "generate", *out
    )
    assert "takes 1 prompt, got 2: 'a', 'b'" in refused("generate", "a", "--prompt", "b", *out)


def test_methods_by_name(cli, refused):
    code, out, _ = cli("methods", "softpag")
    assert code == 0 and out.startswith("softpag: ") and "radial" not in out
    assert [m["name"] for m in json.loads(cli("methods", "gna", "clear", "--json")[1])] == ["gna", "clear"]
    assert "unknown method 'softpg'" in refused("methods", "softpg")


def test_samplers_by_name(cli, refused):
    code, out, _ = cli("samplers", "best-of-n")
    assert code == 0 and out.startswith("best-of-n: ") and "budget" in out and "ttsnap" not in out
    assert "a number in the name sets n, as best-of-8" in out
    found = {s["name"]: s for s in json.loads(cli("samplers", "--json")[1])}
    assert list(found) == list(SAMPLERS) and found["reno"]["count"] == "iterations"
    assert "budget" not in {s["name"] for s in found["reno"]["settings"]}, "what all take is left out"
    assert "unknown sampler 'renno'; nearest is 'reno'" in refused("samplers", "renno")


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "diffusers_ext", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("diffusers-ext ")


@pytest.mark.parametrize("words", [[], ["--seed", "-1"]])
def test_a_random_seed_is_said_and_makes_the_same_again(cli, saved_model, tmp_path, words):
    base = ["generate", "a", "-m", saved_model, "--steps", 1, "-H", 32, "-W", 32, "--out", tmp_path]
    code, out, _ = cli(*base, *words)
    (path,) = tmp_path.glob("*.png")
    seed = int(re.match(r"seed (\d+), drawn at random; --seed \1 makes the same again\n", out)[1])
    assert code == 0 and read(path)["seed"] == seed
    code, out, _ = cli(*base, "--seed", seed)
    assert code == 0 and "finished before" in out and list(tmp_path.glob("*.png")) == [path]
    cli(*base, *words)
    assert len(list(tmp_path.glob("*.png"))) == 2, "another seed is drawn each time"
