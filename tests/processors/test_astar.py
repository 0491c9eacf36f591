"""AStar against a loop of denoising that is written out, and its limits."""

import pytest
import torch
from diffusers import EulerDiscreteScheduler

import diffusers_ext as dx
from diffusers_ext.core import Site
from diffusers_ext.processors import concepts as parts
from diffusers_ext.prompts.places import Tokens

from ..hosts import host, nothing_changed
from ..tiny_models.parts import tokenizer
from .astar_oracles import IN_ALL_STEPS, LEFT, PROMPT, TWO, loop, nearly, run, start


@pytest.mark.parametrize("scheduler", [None, EulerDiscreteScheduler])
@pytest.mark.parametrize("cfg", [0.0, 4.0], ids=["plain", "cfg"])
@pytest.mark.parametrize(
    "settings", [{}, dict(masks=LEFT), dict(loss="attend_and_excite")], ids=["astar", "masks", "excite"]
)
def test_it_is_the_loop_written_out(settings, cfg, scheduler):
    tiny = host("sd")
    pipe = tiny.build().to(torch.float64)
    if scheduler is not None:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    settings = dict(concepts=TWO, step_size=400.0, **IN_ALL_STEPS) | settings
    wanted = loop(pipe, start(), steps=3, settings=settings, cfg=cfg)
    plain = run(tiny, pipe, cfg=cfg)
    with dx.apply(pipe, dx.AStar(**settings)) as session:
        nearly(run(tiny, pipe, cfg=cfg), wanted, plain)
    assert session.report().extra_passes == 3
    assert torch.equal(run(tiny, pipe, cfg=cfg), plain)


def test_maps_of_coarser_layers():
    tiny = host("sd")
    pipe = tiny.build().to(torch.float64)
    settings = dict(halvings=1, step_size=400.0, **IN_ALL_STEPS)
    wanted = loop(pipe, start(), steps=2, settings=settings)
    plain = run(tiny, pipe, steps=2)
    with dx.apply(pipe, dx.AStar(TWO, **settings)):
        nearly(run(tiny, pipe, steps=2), wanted, plain)


def test_the_layers_are_halved_twice_or_those_of_the_finest_grid():
    def read(halvings):
        sites = [Site(f"{n}", i, 1, 8, "cross", "unet", halvings=n) for i, n in enumerate(halvings)]
        return [site.halvings for site in dx.AStar().select(sites)]

    assert read([0, 1, 2, 3, 2, 1]) == [2, 2]
    assert read([1, 2, 2]) == [2, 2]  # SDXL
    assert read([0, 1, 0]) == [0, 0] and read([3, 4]) == [3]


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize("off", [dict(step_size=0.0), dict(segregation=0.0, retention=0.0)])
def test_without_a_step_or_a_loss_it_is_the_plain_model(name, off):
    tiny = host(name)
    pipe = tiny.build()
    plain = run(tiny, pipe, cfg=4.0)
    with dx.apply(pipe, dx.AStar(TWO, **off)) as session:
        assert torch.equal(run(tiny, pipe, cfg=4.0), plain)
    assert session.report().extra_passes == 0


def test_a_window_without_steps_is_remarked():
    tiny = host("sd")
    pipe = tiny.build()
    with dx.apply(pipe, dx.AStar(TWO, start=0.5, stop=0.5)), nothing_changed("none of its 3 steps is"):
        run(tiny, pipe)


def test_a_small_step_lowers_the_loss():
    tiny = host("sd")
    pipe, losses = tiny.build(), []
    taken = parts.segregation

    def noted(maps):
        losses.append(taken(maps).item())
        return taken(maps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers_ext.processors.astar.segregation", noted)
        for size in (1e-9, 1.0):
            with dx.apply(pipe, dx.AStar(TWO, step_size=size, retention=0.0, stop=1.0)):
                run(tiny, pipe, steps=2)
    # The second loss of each run is that after latents moved by next to nothing, or by the gradient.
    assert losses[3] < losses[1]


def test_losses_of_maps():
    apart = torch.zeros(2, 4, 4)
    apart[0, :2], apart[1, 2:] = 1, 1
    assert parts.segregation(apart) == 0
    assert parts.segregation(torch.ones(3, 4, 4)) == pytest.approx(1.5)  # three pairs
    assert parts.retention(apart, apart) == pytest.approx(1.0)  # two concepts, 0.5 each
    assert parts.excitation(torch.stack([apart[0], apart[1] * 0.3])) == pytest.approx(0.7)
    maps = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = apart[:1]
    (pull,) = torch.autograd.grad(parts.retention(maps, mask), maps)
    inside, outside = pull[mask == 1], pull[mask == 0]
    assert (inside < 0).any() and (inside <= outside.max()).all() and (outside >= 0).all()


def test_maps_of_concepts_are_shares_of_words():
    tokens = Tokens([tokenizer(32)], PROMPT)
    attention = torch.rand(3, 5, 32, generator=torch.Generator().manual_seed(0))
    every = [parts.Concept(str(i), range(i, i + 1)) for i in range(1, tokens.last)]
    assert torch.allclose(parts.concept_maps(attention, every, tokens).sum(0), torch.ones(3, 5), atol=1e-5)
