"""Test the study of perturbations: what is compared, and the table of the page."""

import dataclasses
import typing

import diffusers_ext as dx
from bench.studies.paired_verdicts import results
from bench.studies.perturbations import LAYER, MODES, PLAIN, WAYS, to_markdown, variants
from diffusers_ext.evaluate.score import Judged


def judged(right):
    return [Judged(f"p{i}", i, "two_object", bool(r), "") for i, r in enumerate(right)]


def test_every_perturbation_is_compared_and_nothing_else_differs():
    (field,) = (f for f in dataclasses.fields(dx.SoftPAG) if f.name == "perturbation")
    known = typing.get_args(typing.get_type_hints(dx.SoftPAG)[field.name])
    assert sorted(MODES) == sorted(known)
    found = variants(2.0)
    assert found.pop(PLAIN) == ()
    for mode, (method,) in found.items():
        assert method == dx.SoftPAG({LAYER: None}, 2.0, 1.0, perturbation=mode)


def test_the_table_has_a_row_for_each_perturbation():
    right = {label: [1, 1, 0, 0] for label in variants(1.0)} | {"uniform": [1, 1, 1, 0]}
    pairs = [(PLAIN, mode) for mode in MODES]
    way = results({label: judged(each) for label, each in right.items()}, pairs)
    name = next(iter(WAYS))
    found = {"model": "m", "suite": "tuning", "n": 4, "tasks": ["two_object"]}
    text = to_markdown(found | {"ways": {name: way | {"scale": 3.0}}})
    assert f"| {name}, scale 3: right |" in text.splitlines()[0]
    assert "| plain | 2 of 4 |  |" in text and "| uniform | 3 of 4 | +25 (" in text
    assert text.count("\n| ") == len(MODES) + 2
