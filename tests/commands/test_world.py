"""Test what the command line does only for models of shapes world: one thread, warnings about prompts."""

from functools import wraps

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.models.prompts import unknown_words

from ..tiny_models import unet

OUTSIDE = "a lighthouse at dusk"


def lines(err):
    return [line for line in err.splitlines() if "knows sentences" in line]


@pytest.mark.parametrize("prompt, model, warned", [
    (OUTSIDE, "shapes-sd-turbo", True),
    ("A red  circle.", "shapes-sd-turbo", False),
    ("a red circle moves left", "shapes-sd-turbo", True),
    ("a red circle moves left", "shapes-wan", False),
    ("a blue star", "shapes-wan", False),
    (OUTSIDE, "shapes-wan", True),
])  # fmt: skip
def test_prompts_outside_the_world_are_told_so(cli, tmp_path, prompt, model, warned):
    code, _, err = cli("generate", prompt, "-m", model, "--steps", 1, "--out", tmp_path)
    assert code == 0 and len(lines(err)) == warned
    if warned:
        assert (
            f"warning: {model} knows sentences such as 'a " in err and f"; {prompt!r} is none of them" in err
        )


def test_compare_says_it_once(cli, tmp_path):
    words = ["compare", OUTSIDE, "a cat", "a red circle", "-m", "shapes-sd-turbo", "--methods", "plain"]
    code, _, err = cli(*words, "--out", tmp_path)
    assert code == 0 and len(lines(err)) == 1
    assert lines(err)[0].endswith("; 'a lighthouse at dusk' and 1 more are none of them")


def test_models_of_others_hear_nothing(cli, saved_model, tmp_path):
    assert cli("generate", OUTSIDE, "-m", saved_model, "--steps", 1, "--out", tmp_path)[2] == ""


@pytest.fixture
def counted(monkeypatch):
    """Return the number of torch's threads while it computes; before, it is three."""
    from diffusers_ext.sampling import generate

    seen, run = [], generate.run
    monkeypatch.setattr(
        generate, "run", lambda *a, **k: (seen.append(torch.get_num_threads()), run(*a, **k))[1]
    )
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield seen
    torch.set_num_threads(before)


COMPARE = ["compare", "--methods", "plain"]


@pytest.mark.parametrize("command, environ, words, threads", [
    (["generate"], None, [], 1),
    (["generate"], "3", [], 3),
    (["generate"], "3", ["--threads", 2], 2),
    (COMPARE, None, [], 1),
])  # fmt: skip
def test_the_zoo_runs_on_one_thread_unless_asked(
    cli, counted, monkeypatch, tmp_path, command, environ, words, threads
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environ:
        monkeypatch.setenv("OMP_NUM_THREADS", environ)
    code, _, _ = cli(*command, "a red circle", "-m", "shapes-sd-turbo", *words, "--out", tmp_path / "out")
    assert code == 0 and counted == [threads]
    assert torch.get_num_threads() == 3, "the process has its threads back"


def test_other_models_have_all_threads(cli, counted, monkeypatch, saved_model, tmp_path):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert cli("generate", "a", "-m", saved_model, "--steps", 1, "--out", tmp_path)[0] == 0
    assert counted == [3]


def test_the_help_says_it(cli):
    for command in ("generate", "compare", "eval"):
        assert "--threads" in cli(command, "--help")[1]


def test_threads_are_at_least_one(refused, tmp_path):
    for command in (["generate", "a red circle"], ["compare", "a red circle"], ["eval"]):
        line = refused(*command, "--threads", 0, "--out", tmp_path / "out")
        assert "threads must be at least 1, got 0" in line


def test_python_keeps_its_threads():
    import diffusers_ext as dx

    before = torch.get_num_threads()
    dx.load("shapes-sd-turbo")
    assert torch.get_num_threads() == before
    assert unknown_words(Checkpoint.resolve("org/model"), ["anything"]) == []


@pytest.mark.parametrize("command", [["eval"], ["tune", "--method", "softpag"]], ids=lambda words: words[0])
def test_suites_end_at_the_first_picture_of_another_world(refused, tmp_path, monkeypatch, command):
    """A model of the user may have any size; all of a suite would be drawn before no verdict is found."""
    folder = tmp_path / "mine"
    unet.pipeline().save_pretrained(folder)
    words = *command, "-m", folder, "--n", 2, "--steps", 1, "--out", tmp_path / "out"
    calls, draw = [], StableDiffusionPipeline.__call__

    @wraps(draw)
    def counted(*args, **kwargs):
        calls.append(kwargs)
        return draw(*args, **kwargs)

    monkeypatch.setattr(StableDiffusionPipeline, "__call__", counted)
    said = refused(*words)
    assert "suites are for models of shapes world, and this one has no ground truth: not a 64x64 pict" in said
    assert len(calls) == 1
