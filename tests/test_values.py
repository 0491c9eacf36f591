"""Values as their annotated types; what text and files add to that is in `test_settings`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from diffusers_ext import MethodError
from diffusers_ext.values import fit, fit_fields


@dataclass(frozen=True)
class Settings:
    radius: int = field(default=8, metadata={"help": "of the disk"})
    share: float | None = field(default=None, metadata={"help": "null keeps all"})


@pytest.mark.parametrize(
    "value, hint, wanted",
    [
        (np.int64(8), int, 8),
        (np.float32(0.5), float, 0.5),
        (3, float, 3.0),
        ((3, np.int64(4)), Sequence[int], [3, 4]),
        (Path("a.safetensors"), str | None, "a.safetensors"),
        ({"0": 1, 2: 0.5}, Mapping[int, float], {0: 1.0, 2: 0.5}),
    ],
)
def test_what_stands_for_a_type_becomes_it(value, hint, wanted):
    found = fit(value, hint, "key")
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize(
    "value, hint",
    [("8", int), (8.0, int), (True, int), (True, float), (float("inf"), float), (8, Sequence[int])],
)
def test_what_only_looks_like_a_type_is_refused(value, hint):
    with pytest.raises(ValueError, match=r"key takes .*, got"):
        fit(value, hint, "key")


def test_fields_become_their_types_or_one_sentence():
    settings = Settings(np.int64(4), 1)
    fit_fields(settings)
    assert settings == Settings(4, 1.0) and type(settings.radius) is int and type(settings.share) is float
    with pytest.raises(MethodError, match=r"Settings share takes number or null, got 'x': null keeps all\."):
        fit_fields(Settings(4, "x"))
