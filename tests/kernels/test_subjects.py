"""Masks of subjects on grids, and how a subject moves from one grid to another, against images that are cut
and resized.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_ext.kernels.subjects import box, coverage, fits, moved, multiplicity, on_grid


def mask(*rows):
    return torch.tensor([[c == "#" for c in row] for row in rows])


def test_a_box_covers_shares_of_places():
    """A quarter and a half of the middle places, by hand."""
    assert coverage([0.25, 0.0, 0.5, 0.25], (2, 2)).tolist() == [[0.25, 0.0], [0.0, 0.0]]
    assert coverage([0.0, 0.0, 0.5, 1.0], (1, 3)).tolist() == [[1.0, 0.5, 0.0]]
    assert coverage([0, 0, 1, 1], (5, 7)).eq(1).all()


def test_a_mask_in_rows_is_averaged():
    rows = [[1, 1, 0, 0], [1, 0, 0, 0]]
    assert coverage(rows, (1, 2)).tolist() == [[0.75, 0.0]]
    assert (
        coverage(rows, (4, 8)).tolist()
        == torch.tensor(rows).repeat_interleave(2, 0).repeat_interleave(2, 1).tolist()
    )


def test_small_subjects_do_not_vanish():
    assert on_grid([coverage([0.1, 0.1, 0.2, 0.2], (4, 4))])[0].nonzero().tolist() == [[0, 0]]
    assert not on_grid([torch.zeros(3, 3)])[0].any()


def test_what_two_subjects_share_belongs_to_the_smaller_in_any_order():
    large, small = mask("###", "###").float(), mask("#..", "#..").float()
    for order in ((0, 1), (1, 0)):
        found = on_grid([(large, small)[i] for i in order])
        assert torch.equal(found[order.index(1)], small.bool())
        assert torch.equal(found[order.index(0)], mask(".##", ".##"))
    assert on_grid([]) == []


def test_the_box_of_a_mask():
    assert box(mask("....", ".#..", "...#", "....")) == (1, 1, 2, 3)


masks = st.integers(1, 9).flatmap(
    lambda w: st.lists(st.lists(st.booleans(), min_size=w, max_size=w), min_size=1, max_size=9)
)


@settings(max_examples=30)
@given(masks, st.data())
def test_moving_is_cutting_resizing_and_pasting(rows, data):
    """Against the resize of torch on the number of each token."""
    source = torch.tensor(rows)
    h, w = source.shape
    drawn = st.lists(st.lists(st.booleans(), min_size=w, max_size=w), min_size=h, max_size=h)
    target = torch.tensor(data.draw(drawn))
    if not source.any() or not target.any():
        return
    numbers = torch.where(source, torch.arange(1, h * w + 1).view(h, w), 0)
    (top, left, height, width), (y, x, tall, wide) = box(source), box(target)
    cut = numbers[top : top + height, left : left + width]
    resized = F.interpolate(cut[None, None].double(), (tall, wide), mode="nearest")[0, 0].long()
    canvas = torch.zeros(h, w, dtype=torch.long)
    canvas[y : y + tall, x : x + wide] = resized
    come_from, come_to = moved(source, target)
    wanted = canvas.flatten()
    assert torch.equal(come_to.sort().values, wanted.nonzero().flatten())
    assert torch.equal(wanted[come_to], come_from + 1)
    assert torch.equal(multiplicity(source, target), wanted.bincount(minlength=h * w + 1)[1:])


@pytest.mark.parametrize("size", [(2, 2), (3, 1)])
def test_a_subject_that_stays_is_there_once(size):
    full = torch.ones(size, dtype=torch.bool)
    assert multiplicity(full, full).eq(1).all()


def test_masks_fit_grids_of_their_shape_of_any_size():
    wide = [[1.0] * 8] * 4
    for size, expected in {(4, 8): True, (2, 4): True, (3, 5): True, (4, 4): False, (8, 4): False}.items():
        assert fits(wide, size) is expected
        assert fits([0.0, 0.0, 0.5, 1.0], size)
