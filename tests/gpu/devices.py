"""Tests that run on a CPU with the reference and, marked `gpu`, on a CUDA device with Triton."""

import pytest
import torch

from tests import needs

every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs.gpu)])


def backend(device: str) -> str:
    """The back-end under test there."""
    return "reference" if device == "cpu" else "triton"


def ratio(got: torch.Tensor, want: torch.Tensor) -> float:
    """RMS of the difference over RMS, in double precision on the CPU."""
    got, want = got.detach().cpu().double(), want.detach().cpu().double()
    return float((got - want).square().mean().sqrt() / want.square().mean().sqrt())
