"""The three variants of a distillation: kept verdicts, paired differences, the table of the page."""

import json
import shutil

import pytest

import diffusers_ext as dx
from bench.distillation import BARE, DENSE, STUDENT, results, table, verdicts
from diffusers_ext.evaluate.score import Judged
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.evaluate.weights import fingerprint
from diffusers_ext.zoo import CARD


def judged(right):
    return [Judged(f"p{i}", i, "counting", bool(r), "") for i, r in enumerate(right)]


def test_differences_are_paired_and_told():
    found = results({DENSE: judged([1, 1, 1, 0]), BARE: judged([0, 0, 0, 1]), STUDENT: judged([1, 1, 0, 0])})
    assert [found["variants"][v]["overall"]["accuracy"] for v in (DENSE, BARE, STUDENT)] == [0.75, 0.25, 0.5]
    bare, student, gain = (found["paired"][f"{b} - {a}"] for a, b in
                           ((DENSE, BARE), (DENSE, STUDENT), (BARE, STUDENT)))  # fmt: skip
    assert (bare["wins"], bare["losses"], bare["difference"]) == (1, 3, -0.5)
    assert (student["wins"], student["losses"]) == (0, 1) and gain["difference"] == 0.25
    card = {"samples": 64, "steps": 2, "hours": 0.1, "hardware": "a machine"}
    text = table(found | {"card": card, "method": {"radius": 2}, "suite": "held-out"})
    assert "- CLEAR - dense: -50 points" in text and "1 win, 3 losses" in text and "64 samples" in text


def test_verdicts_are_made_once(saved_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved_model, folder)
    (folder / CARD).write_text(json.dumps({"call": {"num_inference_steps": 1, "guidance_scale": 0.0}}))
    asked = questions("held-out", 1, 0, ("single_object", "counting"))
    clear = dx.CLEAR(radius=2, backend="reference")
    first = [verdicts(str(folder), label, method, asked, tmp_path, 2)
             for label, method in ((DENSE, None), (BARE, clear))]  # fmt: skip
    assert [j.prompt for j in first[0]] == [q.item.prompt for q in asked]
    lines = (tmp_path / fingerprint(folder)[:12] / "items.jsonl").read_text()
    assert [verdicts(str(folder), BARE, clear, asked, tmp_path, 2)] == first[1:]
    assert (tmp_path / fingerprint(folder)[:12] / "items.jsonl").read_text() == lines


def test_a_student_is_asked_for(capsys):
    from bench import distillation

    with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["distillation"])
        distillation.main()
    assert "--student" in capsys.readouterr().err
