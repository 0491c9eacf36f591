"""Test that verdicts of models and settings are made once and kept apart."""

import diffusers_ext as dx
from bench.studies.paired_verdicts import verdicts
from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.suite import questions

ASKED = questions("held-out", 1, 0, ("single_object", "counting"))


def test_verdicts_are_made_once(carded_model, tmp_path):
    clear = Variant("CLEAR", (dx.CLEAR(radius=2, backend="reference"),))
    first = [verdicts(carded_model, v, ASKED, tmp_path, 2) for v in (Variant("dense"), clear)]
    assert [j.prompt for j in first[0]] == [q.item.prompt for q in ASKED]
    (kept,) = tmp_path.rglob("items.jsonl")
    lines = kept.read_text()
    assert [verdicts(carded_model, clear, ASKED, tmp_path, 2)] == first[1:]
    assert kept.read_text() == lines


def test_other_calls_have_verdicts_of_their_own(carded_model, tmp_path):
    for steps in (1, 2, 1):
        verdicts(carded_model, Variant("dense"), ASKED, tmp_path, 2, num_inference_steps=steps)
    lines = [len(f.read_text().splitlines()) for f in tmp_path.rglob("items.jsonl")]
    assert len(lines) == 2 and lines[0] == lines[1]
