"""Values as their annotated types; what text and files add to that is in `test_settings`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import get_type_hints

import numpy as np
import pytest
import torch

from diffusers_ext import CLEAR, GNA, MethodError, Radial, RectifiedSparse, SoftPAG
from diffusers_ext.settings.fields import example, fit, fit_fields


@dataclass(frozen=True)
class Settings:
    radius: int = field(default=8, metadata={"help": "of the disk"})
    share: float | None = field(default=None, metadata={"help": "null keeps all"})


@dataclass(frozen=True)
class Plain:
    sides: Sequence[int]


@pytest.mark.parametrize(
    "value, hint, wanted",
    [
        (np.int64(8), int, 8),
        (np.float32(0.5), float, 0.5),
        (3, float, 3.0),
        ((3, np.int64(4)), Sequence[int], (3, 4)),
        (Path("a.safetensors"), str | None, "a.safetensors"),
        ({"0": 1, 2: 0.5}, Mapping[int, float], {0: 1.0, 2: 0.5}),
        (np.array([8, 8]), Sequence[int], [8, 8]),
        (torch.tensor([0.5, 1.0]), float | Sequence[float], [0.5, 1.0]),
        (range(2, 4), Sequence[int], [2, 3]),
        (MappingProxyType({"a": np.array([1])}), Mapping[str, Sequence[int]], {"a": [1]}),
    ],
)
def test_what_stands_for_a_type_becomes_it(value, hint, wanted):
    found = fit(value, hint, "key")
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize(
    "value, hint",
    [
        ("8", int),
        (8.0, int),
        (True, int),
        (True, float),
        (float("inf"), float),
        (8, Sequence[int]),
        ("88", Sequence[int]),
        (b"88", Sequence[int]),
        (np.array([8.0]), Sequence[int]),
        (np.float32(8), int),
        (np.bool_(True), float),
    ],
)
def test_what_only_looks_like_a_type_is_refused(value, hint):
    with pytest.raises(ValueError, match=r"key takes .*, got"):
        fit(value, hint, "key")


def test_fields_become_their_types_or_one_sentence():
    settings = Settings(np.int64(4), 1)
    fit_fields(settings)
    assert settings == Settings(4, 1.0) and type(settings.radius) is int and type(settings.share) is float
    words = r"Settings share takes a number or null, got 'x': null keeps all; for example share=1\."
    with pytest.raises(MethodError, match=words):
        fit_fields(Settings(4, "x"))


def test_types_in_types_are_named_by_their_unit():
    words = r"SoftPAG heads takes module path -> head numbers, got \['a'\]: heads .*example heads="
    with pytest.raises(MethodError, match=words):
        SoftPAG(heads=["a"])


def test_fields_without_help():
    with pytest.raises(
        MethodError, match=r"Plain sides takes a list of whole numbers, got 3; for example sides="
    ):
        fit_fields(Plain(3))


@pytest.mark.parametrize("cls", [SoftPAG, CLEAR, GNA, Radial, RectifiedSparse])
def test_examples_fit_what_they_are_examples_of(cls):
    hints = get_type_hints(cls)
    for f in fields(cls):
        fit(example(hints[f.name]), hints[f.name], f.name)
