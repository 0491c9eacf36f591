"""The cheaper search: which heads go on, how many pictures that takes, and its limit, the full search."""

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.processors.head_set import Head
from diffusers_ext.rewards.base import ensemble
from diffusers_ext.sampling.headhunter.log import Pack
from diffusers_ext.sampling.headhunter.packs import Painter, Pair

from ..searches import counted, redness, unchanged
from .test_search import GENTLE, PROMPTS, call_of, heads_in, planted, tiny_sd3

PAIRS = list(zip(PROMPTS, (4, 5), strict=True))


def fast(reward=redness, **settings):
    usual = dict(top_k=2, pairs=4, pack=4, guidance=GENTLE, keep=0.5, probes=2, halvings=1)
    return dx.FastHeadHunter(reward, **usual | settings)


def test_without_shortcuts_it_is_the_full_search():
    tiny, pipe = tiny_sd3()
    full = dx.HeadHunter(redness, rounds=2, top_k=2, pairs=2, pack=4, guidance=GENTLE)
    wanted = full.search(pipe, PROMPTS, **call_of(tiny))
    found = fast(rounds=2, pairs=2, keep=1.0, halvings=0).search(pipe, PROMPTS, **call_of(tiny))
    assert found.picks == wanted.picks and found.alone == wanted.alone
    assert found.found["evaluations"] == wanted.found["evaluations"]


def test_planted_heads_are_found_with_fewer_pictures():
    tiny, pipe = tiny_sd3()
    every = heads_in(tiny, pipe)
    plant = {every[3][0]: [every[3][1]], every[10][0]: [every[10][1]]}
    closeness = planted(tiny, pipe, plant, (4, 5))
    rows = counted(pipe)
    with unchanged(pipe):
        found = fast(closeness, pairs=2, keep=1.0).search(pipe, PROMPTS, 4, **call_of(tiny))
    assert found == plant
    # One pair for all twelve heads, then the other one for the better six, and the plain picture of both.
    assert found.found["pictures"] == (12 + 1) + (6 + 1)
    assert sum(rows) == found.found["evaluations"] == 3 * 20


def test_the_heads_that_move_least_are_left_out():
    tiny, pipe = tiny_sd3()
    search = fast(keep=0.25, halvings=0)
    found = search.search(pipe, PROMPTS, 4, **call_of(tiny))
    tried = [(p, h) for p, row in found.alone.items() for h, score in enumerate(row) if score is not None]
    plain = [step(tiny, pipe, prompt, seed, {}) for prompt, seed in PAIRS]

    def moved(head):
        each = [step(tiny, pipe, prompt, seed, {head[0]: [head[1]]}) for prompt, seed in PAIRS]
        return sum((a - b).norm() for a, b in zip(each, plain, strict=True))

    order = sorted(heads_in(tiny, pipe), key=moved, reverse=True)
    assert sorted(tried) == sorted(order[:3]) and found.found["pictures"] == 4 * (3 + 1)
    assert found.found["evaluations"] == 2 * 12 * 3 + 16 * 3  # what the first steps take counts as well


def step(tiny, pipe, prompt, seed, heads):
    """The latents after the only step, from the pipeline itself."""
    with dx.apply(pipe, *([dx.SoftPAG(heads=heads, scale=3.0, strength=0.25)] if heads else [])):
        call = call_of(tiny) | {"output_type": "latent", "return_dict": False}
        return pipe(prompt, generator=torch.Generator().manual_seed(seed), **call)[0].double()


@pytest.mark.parametrize("settings", [dict(keep=0.0), dict(pairs=1, halvings=3), dict(top_k=6, rounds=2)])
def test_enough_heads_go_on_for_all_rounds(settings):
    tiny, pipe = tiny_sd3()
    search = fast(**settings)
    found = search.search(pipe, PROMPTS[0], **call_of(tiny))
    assert len({(p.path, p.head) for p in found.picks}) == search.top_k * search.rounds
    planned = search._planned(12, search.top_k, search.pairs)
    assert found.found["pictures"] == planned


def test_it_goes_on_and_is_shared_like_the_full_search(tmp_path):
    tiny, pipe = tiny_sd3()
    alone = fast().search(pipe, PROMPTS, **call_of(tiny))
    for _ in range(3):  # the first steps, and two stages
        for part in range(2):
            found = fast().search(pipe, PROMPTS, out=tmp_path, shard=(part, 2), **call_of(tiny))
    rows = counted(pipe)
    again = fast().search(pipe, PROMPTS, out=tmp_path, **call_of(tiny))
    assert not rows and found.picks == again.picks == alone.picks


def test_guidance_that_leaves_the_first_step_alone_is_refused():
    late = dx.SoftPAG(strength=1.0, start=0.5)
    with pytest.raises(dx.MethodError, match=r"in the first step, .* with start=0\.5 leaves alone"):
        fast(guidance=late)
    assert fast(guidance=late, keep=1.0).guidance == late  # which ranks no head by its first step


def test_no_head_moves_nothing():
    tiny, pipe = tiny_sd3()
    painter = Painter(pipe, GENTLE, ensemble(redness), [Pair(PROMPTS[0], 0)], call_of(tiny))
    head = Head(*heads_in(tiny, pipe)[5])
    first, none = painter.move(Pack((), (head, None), 0, kind="move"))
    assert first.score > 0 and none.score == 0
