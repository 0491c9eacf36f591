"""What one query sees by a plan, against the rules written pair by pair, and its drawing."""

import itertools

import numpy as np
import pytest
import torch

from diffusers_ext import CLEAR, GNA, Radial, RectifiedSparse
from diffusers_ext.errors import MethodError
from diffusers_ext.explore.mask_pictures import HIDDEN, MASKED, QUERY, SEEN, Drawing, draw
from diffusers_ext.explore.one_query import OneQuery, one_query, spec_of

from ..kernels import oracles

SPARSE = (
    (CLEAR(radius=4), (1, 11, 18), 5, lambda g: oracles.disk(g, 4)),
    (CLEAR(radius=4, downsample=2), (1, 10, 18), 0, lambda g: oracles.disk(g, 4)),
    (GNA(window=(5, 7), stride=(2, 3)), (1, 11, 18), 5, lambda g: oracles.box(g, (1, 5, 7), (1, 2, 3))),
    (
        GNA(window=(2, 3, 4), dilation=(1, 2, 1)),
        (3, 7, 9),
        0,
        lambda g: oracles.box(g, (2, 3, 4), (1, 1, 1), (1, 2, 1)),
    ),
    (Radial(mode="paper", block=16), (5, 4, 6), 7, lambda g: oracles.radial_paper(g, 1)),
    (Radial(decay=0.5, block=32), (6, 5, 9), 0, lambda g: oracles.radial_release(g, 0.5, 1, 32)),
)


@pytest.mark.parametrize(("method", "grid", "text", "rule"), SPARSE)
def test_seen_and_visited_keys_are_those_of_the_rule(method, grid, text, rule):
    spec, mask = spec_of(method, grid, text), rule(grid)
    own = oracles.in_order(mask, spec.q_order, spec.k_order, text, False, spec.extra_keys)
    touched, _ = oracles.blocks(own, spec.q_order >= 0, spec.block_q, spec.block_k)
    for number, cell in list(enumerate(oracles.cells(grid)))[::7]:
        found = one_query(spec, cell)
        assert torch.equal(found.seen.flatten(), mask[number]), cell
        row = spec.q_order.tolist().index(number) // spec.block_q
        read = [bool(touched[row, spec.k_order.tolist().index(k) // spec.block_k]) for k in range(len(mask))]
        visited = found.visited.flatten()
        assert not (torch.tensor(read) & ~visited).any()  # a plan may read more, never less
        assert (found.seen & ~found.visited).sum() == 0 and found.by_data == 0


def test_complete_tiles_are_seen_as_they_are_visited():
    grid = (1, 19, 33)
    method = GNA(window=(9, 17), reduce="block")
    mask = oracles.whole_tiles(oracles.box(grid, (1, 9, 17), (1, 1, 1)), grid, (1, 8, 16))
    for number, cell in list(enumerate(oracles.cells(grid)))[::41]:
        found = one_query(spec_of(method, grid), cell)
        assert torch.equal(found.seen.flatten(), mask[number]) and torch.equal(found.seen, found.visited)


def test_a_method_that_looks_at_data_has_its_fixed_keys_and_a_number_of_blocks():
    grid = (1, 24, 40)
    spec = spec_of(RectifiedSparse(keep=0.9, block=16), grid, text=20)
    tile, blocks = spec.k_tile, -(-24 * 40 // 16)
    found = one_query(spec, (0, 3, 5))
    near = {
        (y, x)
        for y, x in itertools.product(range(24), range(40))
        if abs(y // tile[1] - 3 // tile[1]) <= 1 and abs(x // tile[2] - 5 // tile[2]) <= 1
    }
    assert {(y, x) for _, y, x in found.seen.nonzero().tolist()} == near
    assert found.by_data == int(0.9 * blocks) - 1 - len(near) // 16  # one column may be the text


@pytest.mark.parametrize("query", [(0, 8, 0), (1, 0, 0), (0, 0, -1), (0, 0)])
def test_a_token_outside_the_grid_is_refused(query):
    with pytest.raises(MethodError, match=r"from 0 to \(0, 7, 7\)"):
        one_query(spec_of(CLEAR(), (1, 8, 8)), query)


@pytest.mark.parametrize("method", [CLEAR(downsample=4), Radial()])
def test_a_grid_that_the_method_refuses_is_refused(method):
    with pytest.raises(MethodError, match=r"CLEAR downsample=4 needs rows|Radial thins out frames"):
        spec_of(method, (1, 9, 9))


@pytest.mark.parametrize("grid", [(1, 8, 8), (21, 45, 80), (5, 4, 4), (1, 256, 256), (1, 900, 3)])
def test_each_token_is_found_where_it_is_drawn(grid):
    drawing = Drawing.of(grid)
    tokens = itertools.product(*(sorted({0, n // 3, n - 1}) for n in grid))
    for t, h, w in tokens:
        x, y = drawing.corner(t)
        x, y = x + w * drawing.edge, y + h * drawing.edge
        last = drawing.edge - 1
        assert drawing.token_at(x, y) == drawing.token_at(x + last, y + last) == (t, h, w)
        assert x + last < drawing.size[0] and y + last < drawing.size[1]
    assert drawing.token_at(*drawing.size) is None


def test_colours_say_what_is_seen():
    seen = torch.zeros(2, 4, 6, dtype=torch.bool)
    visited = seen.clone()
    seen[1, :, 3:], visited[1] = True, True
    picture = np.asarray(draw(OneQuery((0, 1, 1), seen, visited)))
    drawing = Drawing.of((2, 4, 6))

    def at(t, h, w):
        x, y = drawing.corner(t)
        return tuple(
            picture[y + h * drawing.edge + drawing.edge // 2, x + w * drawing.edge + drawing.edge // 2]
        )

    assert at(1, 0, 3) == SEEN and at(1, 0, 2) == MASKED and at(0, 3, 5) == HIDDEN and at(0, 1, 1) == QUERY
