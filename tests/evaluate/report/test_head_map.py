"""Test the map of heads: a square each, colours on both sides of the plain score, frames of chosen heads."""

import numpy as np

from diffusers_ext.evaluate.report.head_map import BETTER, CELL, LEVEL, NONE, WORSE, head_map

SCORES = {"blocks.0.attn": [0.1, 0.5, None], "blocks.1.attn": [0.5, 0.9]}


def area(canvas, colour):
    return int((np.asarray(canvas) == colour).all(-1).sum())


def test_colours_compare_with_the_plain_score():
    canvas = head_map(SCORES, [], 0.5, ["a model", "a reward"])
    square = (CELL - 1) ** 2
    for colour in (WORSE, BETTER):
        assert square <= area(canvas, colour) < 1.5 * square + 200, "one head, and the legend"
    assert area(canvas, LEVEL) > 2 * square
    assert 0.8 * square < area(canvas, NONE) < square, "a head without a score is crossed out"


def test_without_a_plain_score_the_middle_is_level():
    both = head_map(SCORES, [], 0.5, ["t"]), head_map(SCORES, [], None, ["t"])
    assert area(both[0], WORSE) == area(both[1], WORSE) and both[0].size == both[1].size


def test_chosen_heads_are_framed_and_numbered():
    plain, framed = (head_map(SCORES, chosen, 0.5, ["t"]) for chosen in ([], [("blocks.1.attn", 1)]))
    changed = np.argwhere((np.asarray(plain) != np.asarray(framed)).any(-1))
    (top, left), (bottom, right) = changed.min(0), changed.max(0)
    assert bottom - top + 1 == right - left + 1 == CELL - 1
    other = head_map(SCORES, [("blocks.0.attn", 0), ("blocks.1.attn", 1)], 0.5, ["t"])
    box = np.s_[top : bottom + 1, left : right + 1]
    assert (np.asarray(other)[box] != np.asarray(framed)[box]).any(), "it is the second one there"


def test_many_heads_and_equal_or_missing_scores_are_drawn():
    wide = head_map({f"transformer_blocks.{i}.attn": [0.5] * 24 for i in range(57)}, [], 0.5, ["t"])
    assert wide.width >= 24 * CELL and wide.height >= 57 * CELL
    assert area(head_map({"a": [None, None]}, [], None, ["t"]), NONE)
