"""The bench of whole blocks on a CUDA device: every tiny case on Triton, eager and compiled."""

from dataclasses import replace

import pytest
import torch

from bench.timing.block_cases import tiny_cases
from bench.timing.blocks import measure
from bench.timing.slices import SLICES
from tests import needs

pytestmark = needs.gpu


@pytest.mark.parametrize("case", tiny_cases(), ids=lambda case: case.name)
def test_rows_are_right_and_name_their_back_end(case):
    case = replace(case, method=replace(case.method, backend="triton"))
    base = SLICES[case.model].build(True, "cuda", torch.float32)
    rows = list(measure(case, base, "cuda", torch.float32))
    assert [row["mode"] for row in rows] == ["eager", "compiled"]
    assert all(row["ok"] and row["backend"] == "triton" for row in rows), rows
