"""AStar over rows, runs and schedulers, under a search, and beside other methods."""

import pytest
import torch
from diffusers import HeunDiscreteScheduler

import diffusers_ext as dx

from ..close import alike, close
from ..hosts import host
from .astar_oracles import IN_ALL_STEPS, PROMPT, TWO, run, start


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_pictures_of_a_batch_do_not_meet(name):
    tiny, prompts = host(name), [PROMPT, "the dog on a hat"]
    pipe, concepts = tiny.build(), [TWO, ["dog", "hat"]]
    with dx.apply(pipe, dx.AStar(concepts, **IN_ALL_STEPS)):
        both = run(tiny, pipe, cfg=4.0, prompt=prompts)
        assert torch.equal(run(tiny, pipe, cfg=4.0, prompt=prompts), both)
    for row, prompt in enumerate(prompts):
        with dx.apply(pipe, dx.AStar(concepts[row], **IN_ALL_STEPS)):
            alone = run(tiny, pipe, cfg=4.0, prompt=prompt, latents=start(2)[row : row + 1].float())
        close(both[row : row + 1], alone, 1 << 14)


def test_the_nouns_are_found():
    tiny = host("sd")
    pipe, outs = tiny.build(), []
    words = ["red cat", "blue dog"]
    for concepts in (None, "red cat, blue dog", words, [[2, 9], (16, 24)], lambda p: words):
        with dx.apply(pipe, dx.AStar(concepts, **IN_ALL_STEPS)):
            outs.append(run(tiny, pipe))
    assert all(torch.equal(out, outs[0]) for out in outs)
    nouns = []
    for settings in (dict(adjectives=False), dict(concepts="cat, dog")):
        with dx.apply(pipe, dx.AStar(**settings, **IN_ALL_STEPS)):
            nouns.append(run(tiny, pipe))
    assert torch.equal(*nouns) and not torch.equal(nouns[0], outs[0])
    with dx.apply(pipe, dx.AStar(**IN_ALL_STEPS)):  # a prompt of one noun is kept in its place
        assert not torch.equal(run(tiny, pipe, prompt="a red cat"), outs[0])


def test_one_concept_moves_from_the_second_step_on():
    tiny = host("sd")
    pipe = tiny.build()
    plain = [run(tiny, pipe, steps=n) for n in (1, 2)]
    with dx.apply(pipe, dx.AStar(["cat"], segregation=0.0, **IN_ALL_STEPS)):
        ours = [run(tiny, pipe, steps=n) for n in (1, 2)]
    assert [torch.equal(a, b) for a, b in zip(plain, ours, strict=True)] == [True, False]


def test_a_second_order_scheduler_moves_once_a_step():
    tiny = host("sd")
    pipe = tiny.build()
    pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    plain = run(tiny, pipe)
    with dx.apply(pipe, dx.AStar(TWO, **IN_ALL_STEPS)) as session:
        assert not torch.equal(run(tiny, pipe), plain)
    assert session.report().extra_passes == 3


def test_a_search_above_it_counts_its_passes():
    pipe = host("sd").build()
    found = []
    for size in (None, 1):
        with dx.apply(pipe, dx.AStar(TWO, **IN_ALL_STEPS)):
            sampler = dx.BestOfN(n=2, rewards=lambda x, prompts: x.mean((1, 2, 3)), micro_batch=size)
            call = dict(num_inference_steps=2, height=32, width=32, output_type="pt", progress=False)
            generator = torch.Generator().manual_seed(0)
            found.append(sampler.sample(pipe, PROMPT, generator=generator, **call))
    close(found[0].images, found[1].images, 1 << 16)
    assert [each.nfe for each in found] == [2 * 2 * (2 + 3)] * 2  # two branches and a pass for gradients


def test_beside_other_methods():
    tiny = host("sd")
    pipe = tiny.build()
    methods = dx.AStar(TWO, **IN_ALL_STEPS), dx.StructuredGuidance(), dx.SoftPAG(scale=1.0)
    with dx.apply(pipe, *methods) as session:
        ours = run(tiny, pipe, cfg=4.0)
    with dx.apply(pipe, *methods[::-1]):
        alike(run(tiny, pipe, cfg=4.0), ours)
    assert session.report().extra_passes == 6
    for less in (methods[:2], methods[::2], methods[1:]):
        with dx.apply(pipe, *less):
            assert not torch.allclose(run(tiny, pipe, cfg=4.0), ours, atol=1e-3)


def test_checkpointing_gives_the_same():
    tiny = host("sd")
    pipe = tiny.build()
    with dx.apply(pipe, dx.AStar(TWO, **IN_ALL_STEPS)):
        wanted = run(tiny, pipe)
        pipe.unet.enable_gradient_checkpointing()
        alike(run(tiny, pipe), wanted)


def test_gradients_reach_the_noise():
    """The undecorated call is differentiable; the move of a step counts as a constant."""
    tiny = host("sd")
    pipe, noise = tiny.build(), start().float().requires_grad_()
    call = type(pipe).__call__.__wrapped__
    facts = dict(height=32, width=32, num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    with dx.apply(pipe, dx.AStar(TWO, **IN_ALL_STEPS)):
        out = call(pipe, prompt=PROMPT, latents=noise, return_dict=False, **facts)[0]
        assert torch.autograd.grad(out.sum(), noise)[0].abs().max() > 0
