"""Test one picture that fails on the command line.

The others are written, the failure is named and recorded, and the exit code is 1. The same command then makes
the missing picture alone.
"""

import json

import pytest

from diffusers_ext.models.checkpoint import Checkpoint
from tests import picture_faults as faults

SMALL = ["--steps", 1, "-H", 32, "-W", 32]
CLIP_PROMPT = "a red circle moves left"


@pytest.fixture
def broken(monkeypatch):
    """Let `load` return pipelines with a fault; yield the list of faults, which record what they saw."""
    found, read = [], Checkpoint.read

    def use(seeds, act):
        def faulty(*args, **kwargs):
            pipe = read(*args, **kwargs)
            found.append(faults.Fault(pipe, seeds, act))
            return pipe

        monkeypatch.setattr(Checkpoint, "read", faulty)
        return found

    return use


def counted(broken, cli, words):
    """Run a command without a fault; return its result and the seeds of the pictures that were begun."""
    found = broken([], None)
    found.clear()
    return cli(*words), found[0].made


@pytest.mark.parametrize("batch", [1, 3])
def test_generate(cli, broken, saved_model, tmp_path, batch):
    words = ["generate", "a", "-m", saved_model, *SMALL, "-n", 3, "--seed", 5]
    words += ["--batch", batch, "--out", tmp_path]
    broken([6], faults.out_of_memory)
    code, out, err = cli(*words)
    assert code == 1 and out.count(".png") == 2
    assert "failed: out of memory for one image of 32 x 32 px in float32 (prompt 'a', seed 6); ask for" in err
    assert "error: 1 of 3 images could not be made, the others are complete" in err and "Traceback" not in err
    (note,) = tmp_path.glob("*.failed.json")
    noted = json.loads(note.read_text())
    assert noted["seed"] == 6 and noted["failed"].startswith("out of memory")
    seeds = [json.loads(p.with_suffix(".json").read_text())["seed"] for p in sorted(tmp_path.glob("*.png"))]
    assert seeds == [5, 7]
    (code, out, err), made = counted(broken, cli, words)
    assert (code, err, made) == (0, "", [6]) and not note.exists()
    assert "2 of 3 images were finished before" in out and len(list(tmp_path.glob("*.png"))) == 3
    (code, out, err), made = counted(broken, cli, [*words, "--dtype", "bfloat16"])
    assert (code, sorted(made)) == (0, [5, 6, 7])
    assert len(list(tmp_path.glob("*.png"))) == 6, "nothing is replaced"


def test_generate_clips(cli, broken, saved_clip_model, tmp_path):
    words = ["generate", CLIP_PROMPT, "-m", saved_clip_model, "--steps", 1, "--num-frames", 5, "--seed", 0]
    words += ["-n", 2, "--batch", 2, "--out", tmp_path]
    broken([0], faults.not_a_number)
    code, _, err = cli(*words)
    assert code == 1 and f"NaN or infinity (prompt '{CLIP_PROMPT}', seed 0); try a" in err
    assert "error: 1 of 2 clips could not be made" in err and len(list(tmp_path.glob("*.mp4"))) == 1
    (code, out, _), made = counted(broken, cli, words)
    assert (code, made) == (0, [0]) and "1 of 2 clips was finished before" in out


@pytest.mark.parametrize("clips", [False, True])
def test_compare(cli, broken, saved_model, saved_clip_model, tmp_path, clips):
    model, prompts = (saved_clip_model, [CLIP_PROMPT]) if clips else (saved_model, ["a red square"])
    words = ["compare", *prompts, "-m", model, "--steps", 1, "--seeds", "0,1", "--out", tmp_path]
    words += ["--methods", "plain"] if clips else ["--methods", "plain,softpag", "-H", 32, "-W", 32]
    broken([1], faults.any_error)
    code, out, err = cli(*words)
    assert code == 1 and "the pipeline failed with RuntimeError: mat1 and mat2" in err
    found = json.loads((tmp_path / "results.json").read_text())
    for label, facts in found["methods"].items():
        assert [i["seed"] for i in facts["images"]] == [0] * len(prompts), label
        assert [f["seed"] for f in facts["failed"]] == [1] * len(prompts)
    assert (
        "could not be made" in (tmp_path / "report.html").read_text() and (tmp_path / "compare.png").exists()
    )
    (code, out, err), made = counted(broken, cli, words)
    assert code == 0 and set(made) == {1} and "finished before" in out
    found = json.loads((tmp_path / "results.json").read_text())
    assert all("failed" not in f and len(f["images"]) == 2 * len(prompts) for f in found["methods"].values())
    assert found["dtype"] == "float32" and found["device"] == "cpu"
    (code, _, _), made = counted(broken, cli, words)
    assert (code, made) == (0, []), "all is there"


def test_eval(cli, broken, saved_model, tmp_path):
    words = ["eval", "-m", saved_model, "--steps", 1, "--n", 1, "--method", "softpag", "--out", tmp_path]
    from diffusers_ext.evaluate.suite import questions

    bad = questions("held-out", 1)[2].item
    broken([bad.seed], faults.not_a_number)
    code, _, err = cli(*words)
    assert code == 1 and err.count(f"seed {bad.seed}); try ") == 2, "with the method and without"
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["overall"]["n"] == found["plain"]["overall"]["n"] == found["paired"]["overall"]["n"] == 5
    assert {f["seed"] for f in found["failed"]} == {bad.seed}
    (code, _, err), made = counted(broken, cli, words)
    assert (code, err, made) == (0, "", [bad.seed] * 2)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["overall"]["n"] == 6 and "failed" not in found


def test_nothing_is_written_where_nothing_could_be_made(cli, broken, saved_model, tmp_path):
    for words in (["compare", "a"], ["generate", "a", "--seed", 0], ["eval", "--n", 1]):
        folder = tmp_path / words[0]
        broken(range(2**63), faults.out_of_memory)
        code, out, err = cli(*words, "-m", saved_model, "--steps", 1, "--out", folder)
        assert code == 1 and out == "" and "could not be made, nothing was written" in err
        assert not [p for p in folder.rglob("*") if p.suffix in (".png", ".html") or p.name == "results.json"]
