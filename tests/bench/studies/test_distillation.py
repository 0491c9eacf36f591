"""Test the three variants of a distillation: their differences and the table of the page."""

import pytest

from bench.studies.distillation import BARE, DENSE, PAIRS, STUDENT, to_markdown
from bench.studies.paired_verdicts import results
from diffusers_ext.evaluate.score import Judged


def judged(right):
    return [Judged(f"p{i}", i, "counting", bool(r), "") for i, r in enumerate(right)]


def test_differences_are_paired_and_told():
    found = results(
        {DENSE: judged([1, 1, 1, 0] * 3), BARE: judged([0, 0, 0, 1] * 3), STUDENT: judged([1, 1, 0, 0] * 3)},
        PAIRS,
    )
    assert [found["variants"][v]["overall"]["accuracy"] for v in (DENSE, BARE, STUDENT)] == [0.75, 0.25, 0.5]
    bare, student, gain = (found["paired"][f"{b} - {a}"] for a, b in PAIRS)
    assert (bare["wins"], bare["losses"], bare["difference"]) == (3, 9, -0.5)
    assert (student["wins"], student["losses"]) == (0, 3) and gain["difference"] == 0.25
    card = {"samples": 64, "steps": 2, "hours": 0.1, "hardware": "a machine"}
    text = to_markdown(found | {"card": card, "method": {"radius": 2}, "suite": "held-out"})
    assert "- CLEAR - dense: -50 points" in text and "3 wins, 9 losses" in text and "64 samples" in text


def test_a_student_is_asked_for(capsys):
    from bench.studies import distillation

    with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["distillation"])
        distillation.main()
    assert "--student" in capsys.readouterr().err
