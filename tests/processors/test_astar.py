"""AStar against a loop of denoising that is written out, its limits, and what it refuses."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from diffusers import EulerDiscreteScheduler, HeunDiscreteScheduler
from diffusers.models.attention_processor import AttnProcessor2_0

import diffusers_ext as dx
from diffusers_ext.processors import concepts as parts
from diffusers_ext.prompts.places import Tokens

from ..close import alike, close
from ..hosts import HOSTS, host, nothing_changed, processors
from ..tiny_models.parts import tokenizer
from .test_structured import embedded, span

PROMPT = "a red cat and a blue dog"
END = 1 + len(PROMPT.replace(" ", ""))  # place of the end token
TWO = ["cat", "blue dog"]
LEFT = {"cat": [0.0, 0.0, 0.5, 1.0]}


# the loop written out ---------------------------------------------------------------------------------------


class Noting(AttnProcessor2_0):
    """The stock processor, which also keeps the scores of cross-attention, `[H, N, L]`."""

    def __init__(self, kept):
        super().__init__()
        self.kept = kept

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        q = attn.head_to_batch_dim(attn.to_q(hidden_states))
        k = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        self.kept.append(attn.get_attention_scores(q, k))
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, **kwargs)


def maps_by_hand(kept, side, concepts):
    """For each concept a map `[h, w]`: mean over layers and heads, softmax over words, mean, smoothing."""
    mean = torch.cat(kept).mean(0)[:, 1:END]  # layers and heads have the same size
    words = torch.exp(100 * mean) / torch.exp(100 * mean).sum(-1, keepdim=True)
    near = math.exp(-2)
    line = torch.tensor([near, 1, near], dtype=torch.float64) / (1 + 2 * near)
    out = []
    for concept in concepts:
        where = span(PROMPT, concept)
        plane = words[:, where.start - 1 : where.stop - 1].mean(-1).view(1, 1, side, side)
        plane = F.pad(plane, (1, 1, 1, 1), mode="reflect")[0, 0]
        moved = (line[i] * line[j] * plane[i : i + side, j : j + side] for i in range(3) for j in range(3))
        out.append(sum(moved))
    return out


def ov(a, b):
    # At the peak a scaled map and its mask are both one; half of the slope is that of the map.
    tied = torch.where(a == b, (a + b) / 2, a)
    return torch.where(a <= b, tied, b).sum() / (a.sum() + b.sum())


def loop(pipe, start, *, steps, settings, cfg, side, layers):
    """The pipeline's call with A-STAR in the middle of its loop; returns the latents."""
    facts = dict(concepts=TWO, segregation=1.0, retention=1.0, step_size=20.0, threshold=0.5)
    facts |= dict(loss="astar", masks={}, start=0.0, stop=1.0) | settings
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(steps)
    with torch.no_grad():
        text = torch.stack([embedded(pipe, ""), embedded(pipe, PROMPT)])
    z, before = start * scheduler.init_noise_sigma, None
    for i, t in enumerate(scheduler.timesteps):
        if int(facts["start"] * steps) <= i < int(facts["stop"] * steps):
            kept, leaf = [], z.clone().requires_grad_()
            stock = pipe.unet.attn_processors
            chosen = {f"{name}.processor": Noting(kept) for name in layers}
            pipe.unet.set_attn_processor(stock | chosen)
            pipe.unet(scheduler.scale_model_input(leaf, t), t, text[1:])
            pipe.unet.set_attn_processor(stock)
            maps = maps_by_hand(kept, side, facts["concepts"])
            if facts["loss"] == "attend_and_excite":
                loss = max(1 - m.max() for m in maps)
            else:
                pairs = [(m, n) for place, m in enumerate(maps) for n in maps[:place]]
                loss = facts["segregation"] * sum(ov(*pair) for pair in pairs)
                wanted = {} if before is None else dict(enumerate(before))
                if facts["masks"]:
                    left = torch.zeros(side, side)
                    left[:, : side // 2] = 1
                    wanted[0] = left
                for place, mask in wanted.items():
                    scaled = maps[place] / maps[place].max().detach()
                    loss = loss + facts["retention"] * (1 - ov(scaled, mask))
            before = [(m >= facts["threshold"] * m.max()).double().detach() for m in maps]
            if isinstance(loss, torch.Tensor):
                alpha = facts["step_size"] * math.sqrt(torch.linspace(1, 0.5, steps)[i])
                z = (z - alpha * torch.autograd.grad(loss, leaf)[0]).detach()
        with torch.no_grad():
            scaled = scheduler.scale_model_input(torch.cat([z, z]) if cfg else z, t)
            out = pipe.unet(scaled, t, text if cfg else text[1:])[0]
            out = out[:1] + cfg * (out[1:] - out[:1]) if cfg else out
            z = scheduler.step(out, t, z)[0]
    return z


MID = ["mid_block.attentions.0.transformer_blocks.0.attn2"]
FINE = [
    f"{part}.attentions.{i}.transformer_blocks.0.attn2"
    for part, i in (("down_blocks.0", 0), ("up_blocks.1", 0), ("up_blocks.1", 1))
]


def start(rows=1):
    return torch.randn(rows, 4, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def run(tiny, pipe, *, cfg=0.0, steps=3, prompt=PROMPT, **call):
    prompt = [prompt] if isinstance(prompt, str) else prompt
    call = (
        dict(latents=start(len(prompt)).to(pipe.unet.dtype), generator=None, guidance_scale=cfg or 1.0) | call
    )
    return tiny.run(pipe, prompt=prompt, steps=steps, **call)


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
    settings = dict(concepts=TWO, step_size=400.0) | settings
    wanted = loop(pipe, start(), steps=3, settings=settings, cfg=cfg, side=8, layers=MID)
    plain = run(tiny, pipe, cfg=cfg)
    with dx.apply(pipe, dx.AStar(**settings)) as session:
        nearly(run(tiny, pipe, cfg=cfg), wanted, plain)
    assert session.report().extra_passes == 3
    assert torch.equal(run(tiny, pipe, cfg=cfg), plain)


def nearly(ours, wanted, plain):
    """What a method changed is right, to a thousandth of the change: time is embedded in fp32."""
    change = (plain - wanted).abs().max()
    assert change > 1e-3 and (ours - wanted).abs().max() < 1e-3 * change


def test_maps_of_the_finest_layers():
    tiny = host("sd")
    pipe = tiny.build().to(torch.float64)
    wanted = loop(pipe, start(), steps=2, settings={}, cfg=0.0, side=16, layers=FINE)
    plain = run(tiny, pipe, steps=2)
    with dx.apply(pipe, dx.AStar(TWO, halvings=0)):
        nearly(run(tiny, pipe, steps=2), wanted, plain)


# limits -----------------------------------------------------------------------------------------------------


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
            with dx.apply(pipe, dx.AStar(TWO, step_size=size, retention=0.0)):
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


# rows, runs and neighbours ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_pictures_of_a_batch_do_not_meet(name):
    tiny, prompts = host(name), [PROMPT, "the dog on a hat"]
    pipe, concepts = tiny.build(), [TWO, ["dog", "hat"]]
    with dx.apply(pipe, dx.AStar(concepts)):
        both = run(tiny, pipe, cfg=4.0, prompt=prompts)
        assert torch.equal(run(tiny, pipe, cfg=4.0, prompt=prompts), both)
    for row, prompt in enumerate(prompts):
        with dx.apply(pipe, dx.AStar(concepts[row])):
            alone = run(tiny, pipe, cfg=4.0, prompt=prompt, latents=start(2)[row : row + 1].float())
        close(both[row : row + 1], alone, 1 << 14)


def test_the_nouns_are_found():
    tiny = host("sd")
    pipe, outs = tiny.build(), []
    for concepts in (None, "cat, dog", ["cat", "dog"], [[6, 9], (21, 24)], lambda p: ["cat", "dog"]):
        with dx.apply(pipe, dx.AStar(concepts)):
            outs.append(run(tiny, pipe))
    assert all(torch.equal(out, outs[0]) for out in outs)
    with dx.apply(pipe, dx.AStar()):  # a prompt of one noun is kept in its place
        assert not torch.equal(run(tiny, pipe, prompt="a red cat"), outs[0])


def test_one_concept_moves_from_the_second_step_on():
    tiny = host("sd")
    pipe = tiny.build()
    plain = [run(tiny, pipe, steps=n) for n in (1, 2)]
    with dx.apply(pipe, dx.AStar(["cat"], segregation=0.0)):
        ours = [run(tiny, pipe, steps=n) for n in (1, 2)]
    assert [torch.equal(a, b) for a, b in zip(plain, ours, strict=True)] == [True, False]


def test_a_second_order_scheduler_moves_once_a_step():
    tiny = host("sd")
    pipe = tiny.build()
    pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    plain = run(tiny, pipe)
    with dx.apply(pipe, dx.AStar(TWO)) as session:
        assert not torch.equal(run(tiny, pipe), plain)
    assert session.report().extra_passes == 3


def test_a_search_above_it_counts_its_passes():
    pipe = host("sd").build()
    found = []
    for size in (None, 1):
        with dx.apply(pipe, dx.AStar(TWO)):
            sampler = dx.BestOfN(n=2, rewards=lambda x, prompts: x.mean((1, 2, 3)), micro_batch=size)
            call = dict(num_inference_steps=2, height=32, width=32, output_type="pt", progress=False)
            generator = torch.Generator().manual_seed(0)
            found.append(sampler.sample(pipe, PROMPT, generator=generator, **call))
    close(found[0].images, found[1].images, 1 << 16)
    assert [each.nfe for each in found] == [2 * 2 * 3] * 2  # two branches and a pass for gradients


def test_beside_other_methods():
    tiny = host("sd")
    pipe = tiny.build()
    methods = dx.AStar(TWO), dx.StructuredGuidance(), dx.SoftPAG(scale=1.0)
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
    with dx.apply(pipe, dx.AStar(TWO)):
        wanted = run(tiny, pipe)
        pipe.unet.enable_gradient_checkpointing()
        alike(run(tiny, pipe), wanted)


def test_gradients_reach_the_noise():
    """The undecorated call is differentiable; the move of a step counts as a constant."""
    tiny = host("sd")
    pipe, noise = tiny.build(), start().float().requires_grad_()
    call = type(pipe).__call__.__wrapped__
    facts = dict(height=32, width=32, num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    with dx.apply(pipe, dx.AStar(TWO)):
        out = call(pipe, prompt=PROMPT, latents=noise, return_dict=False, **facts)[0]
        assert torch.autograd.grad(out.sum(), noise)[0].abs().max() > 0


# the pipeline is left as it was -----------------------------------------------------------------------------


def test_the_same_scheduler_is_back():
    tiny = host("sd")
    pipe = tiny.build()
    scheduler, stock, config = pipe.scheduler, processors(pipe.unet), dict(pipe.config)
    state = copy.deepcopy(vars(scheduler))
    session = dx.apply(pipe, dx.AStar(TWO))
    assert pipe.scheduler is not scheduler and isinstance(pipe.scheduler, type(scheduler))
    run(tiny, pipe)
    session.close()
    assert pipe.scheduler is scheduler and processors(pipe.unet) == stock and dict(pipe.config) == config
    assert str(state) == str(vars(scheduler))


def test_it_is_back_after_an_error():
    tiny = host("sd")
    pipe = tiny.build()
    scheduler = pipe.scheduler
    plain = run(tiny, pipe)
    with pytest.raises(dx.MethodError), dx.apply(pipe, dx.AStar(["owl", "cat"])):
        run(tiny, pipe)
    assert pipe.scheduler is scheduler and torch.equal(run(tiny, pipe), plain)
    with dx.apply(pipe, dx.AStar(TWO)) as session:
        first = run(tiny, pipe)
        broken = pipe.unet.mid_block.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tiny, pipe)
        broken.remove()
        assert not session.run.gradient_pass and torch.equal(run(tiny, pipe), first)


def test_a_scheduler_that_was_exchanged_meanwhile():
    tiny = host("sd")
    pipe = tiny.build()
    other = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    session = dx.apply(pipe, dx.AStar(TWO))
    pipe.scheduler = other
    with pytest.raises(dx.UnsupportedError, match="exchanged after apply"):
        run(tiny, pipe)
    with pytest.warns(UserWarning, match="the scheduler was exchanged"):
        session.close()
    assert pipe.scheduler is other


# what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(concepts=["cat", "owl"]), "astar concepts are words of the prompt, but 'owl' is not in"),
        (dict(concepts=["cat", " "]), "got an empty text"),
        (dict(concepts=["red cat", "cat"]), "share words"),
        (dict(concepts=[["cat", "dog"]] * 2), "has 2 lists, one for each prompt, but the call has 1"),
        (dict(masks={"owl": [0, 0, 1, 1]}), r"masks are of concepts \(cat, dog\), got 'owl'"),
        (dict(masks={"cat": [[1.0, 0.0]]}), "has 1 x 2 places, but the maps of this picture have 8 x 8"),
        (dict(masks={"cat": [0.0, 0.0, 0.01, 1.0]}), "holds none of the 8 x 8 places"),
    ],
)
def test_what_does_not_fit_the_prompt_or_the_picture(settings, words):
    tiny = host("sd")
    pipe = tiny.build()
    with pytest.raises(dx.MethodError, match=words), dx.apply(pipe, dx.AStar(**settings)):
        run(tiny, pipe)


def test_concepts_that_are_cut_off_or_absent():
    tiny = host("sd")
    pipe, long = tiny.build(), "the grey wolves of these woods and a red fox"
    with pytest.raises(dx.MethodError, match="'fox' is cut off"), dx.apply(pipe, dx.AStar(["wolves", "fox"])):
        run(tiny, pipe, prompt=long)
    with pytest.raises(dx.MethodError, match="found no noun"), dx.apply(pipe, dx.AStar()):
        run(tiny, pipe, prompt="and so it is")


@pytest.mark.parametrize(
    "bad, words",
    [
        (dict(concepts=[]), "got none"),
        (dict(concepts="cat"), "keeps two or more concepts apart, got 1"),
        (dict(concepts=["cat"]), "keeps two or more concepts apart, got 1"),
        (dict(concepts=[["cat", "dog"], ["cat"]]), "keeps two or more"),
        (dict(masks={"cat": [0.5, 0, 0.2, 1]}), r"a box \[left, top, right, bottom\]"),
        (dict(masks={"cat": [0, 0, 2, 1]}), "a box"),
        (dict(masks={"cat": []}), "a box"),
        (dict(masks={"cat": [[0, 0], [0, 0]]}), "rows of numbers"),
        (dict(masks={"cat": [[1, 0], [1]]}), "rows of numbers"),
        (dict(start=0.8, stop=0.2), "start <= stop"),
        (dict(step_size=-1), "step_size"),
        (dict(loss="x"), "loss"),
    ],
)
def test_settings_that_do_not_fit(bad, words):
    with pytest.raises(dx.MethodError, match=words):
        dx.AStar(**bad)


def test_layers_that_are_not_there():
    with pytest.raises(dx.MethodError, match="halved 0, 1 times in this model, got halvings=4"):
        dx.apply(host("sd").build(), dx.AStar(halvings=4))
    with pytest.raises(dx.UnsupportedError, match="apply it to the pipeline"):
        dx.apply(host("sd").build().unet, dx.AStar())


def test_gradients_are_needed():
    tiny = host("sd")
    pipe = tiny.build()
    with (
        torch.inference_mode(),
        dx.apply(pipe, dx.AStar(TWO)),
        pytest.raises(dx.UnsupportedError, match="inference_mode"),
    ):
        run(tiny, pipe)


@pytest.mark.parametrize("tiny", [h for h in HOSTS if h.name not in ("sd", "sdxl")], ids=lambda h: h.name)
def test_models_without_cross_attention_to_the_prompt(tiny):
    pipe = tiny.build()
    scheduler = pipe.scheduler
    with pytest.raises(dx.UnsupportedError, match="astar acts in cross-attention on the words"):
        dx.apply(pipe, dx.AStar())
    assert pipe.scheduler is scheduler


def test_a_gradient_that_is_not_finite_moves_nothing():
    """The first of two pictures is spoiled in its gradient only; the other moves."""
    tiny = host("sd")
    pipe, prompts = tiny.build(), [PROMPT] * 2
    with dx.apply(pipe, dx.AStar(TWO)):
        wanted = run(tiny, pipe, prompt=prompts)

        def spoil(module, args, out):
            if out.requires_grad:
                out.register_hook(lambda g: g * torch.tensor([torch.inf, 1.0])[:, None, None, None])

        pipe.unet.conv_in.register_forward_hook(spoil)
        with pytest.warns(UserWarning, match="astar left 1 of 2 pictures as they are in step 0"):
            ours = run(tiny, pipe, prompt=prompts)
    plain = run(tiny, pipe, prompt=prompts)
    close(ours[:1], plain[:1], 1 << 12)
    close(ours[1:], wanted[1:], 1 << 12)
    assert not torch.allclose(plain, wanted, atol=1e-3)
