"""Overlap, binary masks and smoothing of maps, against numbers by hand."""

import math

import pytest
import torch

from diffusers_ext.kernels.maps import apart, binarised, overlap, smoothed

DRAW = torch.Generator().manual_seed(0)
A, B = torch.rand(2, 3, 5, 7, generator=DRAW, dtype=torch.float64)


def test_equal_maps_and_maps_that_are_apart():
    left = torch.zeros(4, 4)
    left[:, :2] = torch.rand(4, 2, generator=DRAW)
    assert torch.allclose(overlap(A, A), torch.full((3,), 0.5, dtype=A.dtype))
    assert overlap(left, left.flip(1)) == 0
    assert overlap(torch.zeros(2, 2), torch.zeros(2, 2)) == 0


def test_overlap_by_hand_and_its_laws():
    assert overlap(torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 1.0]])) == pytest.approx(2 / 7)
    assert torch.equal(overlap(A, B), overlap(B, A))
    for scale in (1.0, 2.0, 5.0):
        assert torch.allclose(overlap(A, scale * A), torch.tensor(1 / (1 + scale), dtype=A.dtype))


def test_gradients_of_the_overlap():
    inputs = A.clone().requires_grad_(), B.clone().requires_grad_()
    assert torch.autograd.gradcheck(overlap, inputs)


def test_masks_are_one_where_maps_are_high():
    maps = torch.tensor([[[0.0, 1.0], [0.5, 0.49]], [[4.0, 2.0], [1.9, 0.0]]], requires_grad=True)
    masks = binarised(maps)
    assert masks.tolist() == [[[0, 1], [1, 0]], [[1, 1], [0, 0]]] and not masks.requires_grad
    assert binarised(maps, 0.9).sum() == 2


def test_smoothing_by_hand():
    point = torch.zeros(1, 5, 5, dtype=torch.float64)
    point[0, 2, 2] = 1
    side = math.exp(-2)  # exp(-1 / (2 * 0.5^2))
    line = torch.tensor([side, 1, side], dtype=torch.float64) / (1 + 2 * side)
    found = smoothed(point)[0]
    assert torch.allclose(found[1:4, 1:4], line[:, None] * line)
    assert found.sum() == pytest.approx(1)
    assert torch.allclose(smoothed(torch.ones(2, 3, 4)), torch.ones(2, 3, 4))
    assert torch.equal(smoothed(A[:, :1]), A[:, :1])


def test_masks_of_several_maps_are_apart():
    """Half of the way from the least to the largest value, and the largest map wins."""
    maps = torch.tensor([[[1.0, 3.0], [2.0, 1.9]], [[0.0, 2.9], [4.0, 2.1]]])
    assert apart(maps).int().tolist() == [[[0, 1], [0, 0]], [[0, 0], [1, 1]]]
    assert apart(maps, 1.0).int().tolist() == [[[0, 1], [0, 0]], [[0, 0], [1, 0]]]
    both = apart(torch.rand(5, 6, 7, generator=DRAW), 0.2)
    assert both.sum(0).max() == 1
