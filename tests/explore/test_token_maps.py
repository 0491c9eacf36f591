"""Maps of words against an explicit softmax, and a picture that nothing has changed."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler
from diffusers.models.attention_processor import AttnProcessor2_0

import diffusers_ext as dx
from diffusers_ext import explore
from diffusers_ext.errors import MethodError, UnsupportedError
from diffusers_ext.explore import estimate
from diffusers_ext.session.reorder import ONCE

from ..close import alike, close
from ..hosts import HOSTS, built, host, processors
from ..tiny_models import flux
from .attention import probabilities, watched

PROMPT, TWO = "a red cat", "a red cat and a dog"
MAPPED = [h for h in HOSTS if h.name not in ("skyreels", "flux-dev")]  # those are the same in attention
SPARSE = dict(backend="reference", dense_steps=0)


def call_of(host, cfg=True, steps=2):
    return {
        **host.size,
        **host.extra,
        **(host.guided if cfg else host.unguided),
        "num_inference_steps": steps,
    }


def plain(pipe, call, prompt=PROMPT):
    """The picture of the pipeline alone with seed 0, uint8."""
    call = {k: [v] if k == "negative_prompt" else v for k, v in call.items()}
    out = pipe([prompt], generator=[torch.Generator().manual_seed(0)], output_type="np", **call)
    made = out.frames if hasattr(out, "frames") else out.images
    return (made[0] * 255).round().astype("uint8")


def pixels(image):
    return getattr(image, "frames", np.asarray(image))


@pytest.mark.parametrize("host", MAPPED, ids=lambda host: host.name)
@pytest.mark.parametrize("cfg", [False, True], ids=["one branch", "guided"])
def test_the_softmax_of_the_stock_pipeline(host, cfg):
    """Every layer, step and head, computed from what the stock processors give to torch."""
    pipe, call = host.build(), call_of(host, cfg)
    found = explore.maps(pipe, PROMPT, ["red", "cat"], per_head=True, **call)
    with watched(pipe) as seen:
        picture = plain(pipe, call)
    assert np.array_equal(pixels(found.image), picture)
    wanted = by_softmax(pipe, host, seen, found, cfg)
    assert found.steps == tuple(range(found.step_count))
    for path, maps in found.data.items():
        assert torch.equal(maps.isnan(), wanted[path].isnan())  # steps of the other denoiser of Wan 2.2
        close(maps.nan_to_num(), wanted[path].nan_to_num(), dtype=torch.float32, level=512)
        assert maps.shape[1] == 2 and maps.shape[2] >= 2 and maps.nansum() > 0
    sites = [site for site in explore.layers.sites_of(pipe) if site.path in found.data]
    grids = estimate.grids(pipe, sites, call)
    assert {s.path: grid for s, grid in grids.items()} == {p: m.shape[-3:] for p, m in found.data.items()}
    kept = sum(maps.nbytes for maps in found.data.values())
    assert kept == estimate.map_bytes(grids, 2, found.step_count, True)


def by_softmax(pipe, host, seen, found, cfg):
    """The maps of `found`, from all attention of a run; in a call sites run in the order of the model."""
    sites = explore.layers.sites_of(pipe)
    own = {path: s for s in sites if (path := s.path) in found.data}
    calls = 2 if cfg and not host.one_batch else 1
    wanted = {path: torch.full(m.shape, torch.nan, dtype=torch.float64) for path, m in found.data.items()}
    queue = list(seen)
    for step in range(found.step_count):
        for number in range(calls):
            running = [s for s in sites if s.component == running_component(pipe, queue, sites, step)]
            for site in running:
                q, k, mask = take(queue, pipe, cfg)
                if site.path not in own or number > 0:  # the conditional call comes first
                    continue
                probs = probabilities(q, k, mask)
                if host.one_batch and cfg:
                    probs = probs[len(probs) // 2 :]
                grid = found.data[site.path].shape[-3:]
                tokens = int(np.prod(grid))
                length = k.shape[2] - (tokens if site.kind == "joint" else 0)
                first = 0 if site.kind == "cross" or host.name.startswith("flux") else tokens
                rows = slice(length, None) if host.name.startswith("flux") else slice(0, tokens)
                for i, word in enumerate(found.words):
                    one = probs[0, :, rows][..., [first + c for c in word.columns]].mean(-1)
                    wanted[site.path][step, i] = one.unflatten(-1, grid)
    assert not queue
    return wanted


def running_component(pipe, queue, sites, step):
    """Wan 2.2 has two denoisers; the first runs while the timestep is above the boundary."""
    names = list(dict.fromkeys(s.component for s in sites))
    if len(names) == 1:
        return names[0]
    boundary = pipe.config.boundary_ratio * pipe.scheduler.config.num_train_timesteps
    return names[int(pipe.scheduler.timesteps[step] < boundary)]


def take(queue, pipe, cfg):
    """The next attention; Mochi attends row by row, of which the last is conditional."""
    q, k, mask = queue.pop(0)
    if type(pipe).__name__ == "MochiPipeline" and cfg:
        q, k, mask = queue.pop(0)
        return q.repeat(2, 1, 1, 1), k.repeat(2, 1, 1, 1), mask
    return q, k, mask


class Scores(AttnProcessor2_0):
    """The stock processor, which also keeps the scores that diffusers computes, `[B, H, N, L]`."""

    def __init__(self, kept):
        super().__init__()
        self.kept = kept

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **more):
        if encoder_hidden_states is not None:
            q = attn.head_to_batch_dim(attn.to_q(hidden_states))
            k = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
            self.kept.append(attn.get_attention_scores(q, k).unflatten(0, (-1, attn.heads)))
        return super().__call__(attn, hidden_states, encoder_hidden_states, **more)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_the_scores_of_diffusers(name):
    host, pipe = built(name)
    call, kept = call_of(host, steps=1), []
    found = explore.maps(pipe, PROMPT, "red", per_head=True, **call)
    stock = pipe.unet.attn_processors
    pipe.unet.set_attn_processor(
        {n: Scores(kept) if n.endswith("attn2.processor") else p for n, p in stock.items()}
    )
    plain(pipe, call)
    assert len(kept) == len(found.layers)
    for scores, maps in zip(kept, found.data.values(), strict=True):
        wanted = scores[1, :, :, 2:5].mean(-1)  # the second row is conditional
        close(maps[0, 0].flatten(1), wanted, level=512)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["cross", "joint"])
def test_rows_sum_to_one_over_all_keys(kind):
    """A word with all text keys has their mean; the grid keys of joint attention have the rest."""
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, n, 3, 8, generator=draw) for n in (12, 19))
    text = slice(12, 19) if kind == "joint" else slice(0, 0)
    layout = dx.Layout((1, 3, 4), text, slice(0, 12), cross_text=slice(0, 19))
    count = 7 if kind == "joint" else 19
    word = explore.Word("all", (0, 1), tuple(range(count)))
    mass = explore.reading.word_maps(q, k, None, layout, kind, [word])[0] * count
    if kind == "cross":
        close(mass, torch.ones_like(mass))
    else:
        rest = probabilities(q.transpose(1, 2), k.transpose(1, 2), None)[0, :, :, :12].sum(-1)
        close(mass, (1 - rest).float())
        assert mass.max() < 1


@pytest.mark.parametrize(
    "name, methods",
    [
        ("flux", [dx.CLEAR(radius=3, **SPARSE)]),
        ("sd3", [dx.CLEAR(radius=2, **SPARSE)]),
        ("wan", [dx.Radial(mode="paper", sink_frames=0, dense_layers=1, **SPARSE)]),
        ("sd", [dx.SoftPAG(heads={host("sd").layer: [0]}, strength=1.0)]),
        ("flux", [dx.SoftPAG(heads={host("flux").layer: [0]}, strength=1.0)]),
        ("sd", [dx.NAG("green")]),
        ("sd3", [dx.NAG("green")]),
        ("flux", [dx.NAG("green")]),
        ("sd", [dx.StructuredGuidance()]),
        ("sd", [dx.AStar(concepts="red, cat", step_size=1.0)]),
    ],
    ids=lambda x: x if isinstance(x, str) else x[0].name,
)
def test_beside_a_method(name, methods):
    """The picture is that of the method alone, and the first layer of the first step reads the same."""
    host, pipe = built(name)
    host = replace(host, size=dict(height=32, width=128)) if name == "flux" else host
    call = call_of(host)
    with dx.apply(pipe, *methods) as session:
        alone = plain(pipe, call, TWO)
    found = explore.maps(pipe, TWO, methods=methods, **call)
    assert np.array_equal(pixels(found.image), alone)
    without = explore.maps(pipe, TWO, **call)
    first, last = found.layers[0], found.layers[-1]
    if methods[0].name == "astar":  # it moves the latents before the step
        assert not torch.equal(found.data[first][0], without.data[first][0])
    else:
        alike(found.data[first][0], without.data[first][0])
    assert not torch.equal(found.data[last][1], without.data[last][1])
    if (name, methods[0].name) == ("flux", "clear"):
        assert {site.order for site in session.report().sites} == {ONCE}


def test_a_sparse_method_reports_as_without_maps():
    host, pipe = built("flux")
    clear = dx.CLEAR(radius=2, **SPARSE)
    word = explore.Word("red", (2, 5), (2, 3, 4))
    reports = []
    for more in ([], [explore.reading.ReadWords(frozenset(explore.layers.sites_of(pipe)), (word,))]):
        with dx.apply(pipe, clear, *more) as session:
            host.run(pipe)
        reports.append([(s.path, s.density, s.backend, s.order) for s in session.report().sites])
    assert reports[0] == reports[1] and all(density < 1 for _, density, *_ in reports[0])


def test_nothing_is_left_behind():
    host, pipe = built("sd")
    before, call = processors(pipe.unet), call_of(host)
    explore.maps(pipe, PROMPT, **call)
    with pytest.raises(MethodError):
        explore.maps(pipe, PROMPT, methods=[dx.SoftPAG(heads={"nowhere": None})], **call)
    assert processors(pipe.unet) == before


def test_means_and_single_maps():
    host, pipe = built("sdxl")
    call = call_of(host, steps=3)
    found = explore.maps(pipe, PROMPT, "red, cat", per_head=True, **call)
    close(found.map("cat", layer=found.layers[0]), found.data[found.layers[0]][:, 1].mean((0, 1)))
    one = found.map("red", step=2, layer=found.layers[1], head=1)
    assert torch.equal(one, found.data[found.layers[1]][2, 0, 1])
    by_step = torch.stack([found.map("red", step=s) for s in found.steps]).mean(0)
    close(found.map("red"), by_step)
    averaged = explore.maps(pipe, PROMPT, "red, cat", **call)
    for path, maps in averaged.data.items():
        close(maps, found.data[path].mean(2, keepdim=True))
    some = explore.maps(pipe, PROMPT, "cat", layers="mid_block", steps=[2, 0], **call)
    assert some.steps == (0, 2) and all("mid_block" in path for path in some.layers)
    assert torch.equal(some.data[some.layers[0]][1], averaged.data[some.layers[0]][2, 1:])


def test_layers_of_other_sizes_are_enlarged_to_the_finest():
    _, pipe = built("sd")
    found = explore.maps(pipe, PROMPT, "cat", num_inference_steps=1, height=24, width=40, guidance_scale=1.0)
    shapes = {maps.shape[-3:] for maps in found.data.values()}
    assert shapes == {(1, 12, 20), (1, 6, 10)} and found.grid == (1, 12, 20)
    coarse = next(p for p in found.layers if found.data[p].shape[-1] == 10)
    assert found.map("cat", layer=coarse).shape == (1, 6, 10)
    assert found.map("cat").shape == (1, 12, 20)


def test_two_denoisers_each_have_their_steps():
    host, pipe = built("wan2.2")
    found = explore.maps(pipe, PROMPT, "cat", **call_of(host, steps=3))
    second = next(path for path in found.layers if path.startswith("transformer_2."))
    ran = ~found.data[second].flatten(1).isnan().any(1)
    assert ran.any() and not ran[0]
    assert found.map("cat", step=0).isfinite().all() and found.map("cat", layer=second).isfinite().all()
    with pytest.raises(MethodError, match=f"{second} did not run at step 0"):
        found.map("cat", step=0, layer=second)
    with pytest.raises(MethodError, match="none of these layers ran at the steps 0, as transformer_2"):
        explore.maps(pipe, PROMPT, layers="transformer_2", steps=[0], **call_of(host, steps=3))


def test_two_calls_of_a_step_are_averaged():
    host, pipe = built("sd")
    pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    call = call_of(host, cfg=False, steps=3)
    found = explore.maps(pipe, PROMPT, "cat", per_head=True, **call)
    assert found.step_count == 3
    with watched(pipe) as seen:
        plain(pipe, call)
    sites = explore.layers.sites_of(pipe)
    cross = next(i for i, site in enumerate(sites) if site.kind == "cross")
    maps = [probabilities(*each)[0, :, :, 5:8].mean(-1) for each in seen[cross :: len(sites)]]
    assert len(maps) == 5  # the last step is one call
    wanted = torch.stack([(maps[0] + maps[1]) / 2, (maps[2] + maps[3]) / 2, maps[4]])
    close(found.data[found.layers[0]][:, 0].flatten(2), wanted, dtype=torch.float32, level=512)


def test_bfloat16():
    host, pipe = built("sd")
    call = call_of(host, steps=1)
    exact = explore.maps(pipe, PROMPT, "cat", **call)
    found = explore.maps(pipe.to(torch.bfloat16), PROMPT, "cat", **call)
    for path, maps in exact.data.items():
        assert found.data[path].dtype == torch.float32
        close(found.data[path], maps, level=16, dtype=torch.bfloat16)


@pytest.mark.slow
def test_compiled_blocks():
    """Reading is outside the graphs, so maps and picture are those without compilation."""
    pipe, call = flux.pipeline(num_layers=1, num_single_layers=1), call_of(host("flux"), cfg=False, steps=1)
    wanted = explore.maps(pipe, PROMPT, "cat", **call)
    torch._dynamo.reset()
    pipe.transformer.compile_repeated_blocks(backend="eager")
    found = explore.maps(pipe, PROMPT, "cat", **call)
    torch._dynamo.reset()
    assert np.array_equal(pixels(found.image), pixels(wanted.image))
    for path, maps in wanted.data.items():
        close(found.data[path], maps)


# memory ---------------------------------------------------------------------------------------------------


def test_too_large_is_refused_before_anything_runs():
    _, pipe = built("flux")
    called = []
    pipe.transformer.register_forward_pre_hook(lambda *_: called.append(1))
    call = dict(num_inference_steps=28, height=1024, width=1024, max_sequence_length=16)
    with pytest.raises(MethodError, match=r"take 0.14 GiB of memory, and the limit is 0.05; pass") as refused:
        explore.maps(pipe, PROMPT, "red", per_head=True, limit_gib=0.05, **call)
    said = str(refused.value)
    assert "maps of 1 word at 28 steps in 5 layers for each head" in said
    assert "per_head=False, at most 10 of 28 steps (steps=), about 1 of 5 layers (layers=)" in said
    assert said.endswith("or limit_gib=0.25.") and not called


# refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more, said",
    [
        ({"steps": [2]}, "this run has 2, got 2; the last is 1"),
        ({"steps": [-1]}, "got -1"),
        ({"steps": []}, "leave steps out for all"),
        ({"steps": "0"}, "a list of numbers from 0 to 1, got '0'"),
        ({"steps": [True]}, "got True"),
        ({"layers": "mid_blok"}, "no attention module is named 'mid_blok'; the nearest names are mid_block,"),
        ({"layers": "*attn3*"}, r"no attention module is named '\*attn3\*'"),
        ({"layers": "*attn1"}, "is self-attention; name others, as"),
        ({"layers": []}, r"got \[\]; leave layers out to have all"),
        ({"words": "dog"}, "'dog' is not in 'a red cat'"),
        ({"generator": 1}, "sets generator itself"),
        ({"seed": -1}, "a seed must be a whole number"),
        ({"height": 31}, "needs a height"),
        ({"colour": 1}, "takes no colour"),
        ({"layers": [3]}, r"got \[3\]; leave layers out to have all"),
        ({"limit_gib": float("nan")}, "above 0, got nan"),
        ({"prompt": ["a cat"]}, "an exploration is of one prompt, got a list"),
    ],
)
def test_refused(more, said):
    host, pipe = built("sd")
    before = processors(pipe.unet)
    with pytest.raises(ValueError, match=said):
        explore.maps(pipe, **{"prompt": PROMPT, **call_of(host), **more})
    assert processors(pipe.unet) == before


def test_a_run_with_fewer_steps_than_its_arguments_say():
    host, pipe = built("sd3")
    call = call_of(host, steps=4) | {"sigmas": [1.0, 0.5]}
    with pytest.raises(MethodError, match="this run has 2, got 3"):
        explore.maps(pipe, PROMPT, steps=[3], **call)


def test_maps_that_were_not_read():
    host, pipe = built("sd")
    found = explore.maps(pipe, PROMPT, "cat", steps=[1], **call_of(host))
    for more, said in [
        (dict(word="dog"), "there are maps of 'cat'"),
        (dict(word="cat", step=0), "there are maps of 1"),
        (dict(word="cat", layer="x"), "the nearest are"),
        (dict(word="cat", head=0), "call maps(..., per_head=True)"),
    ]:
        with pytest.raises(MethodError) as refused:
            found.map(**more)
        assert said in str(refused.value)
    heads = explore.maps(pipe, PROMPT, "cat", steps=[1], per_head=True, **call_of(host))
    with pytest.raises(MethodError, match="has heads 0 to 3, got 4"):
        heads.map("cat", head=4)


def test_embeddings_and_bare_denoisers_have_no_words():
    host, pipe = built("sd")
    with pytest.raises(UnsupportedError, match="which a bare UNet2DConditionModel cannot"):
        explore.maps(pipe.unet, PROMPT)
    bare = copy.copy(pipe)
    bare.tokenizer = None
    with pytest.raises(UnsupportedError, match="words have no maps"):
        explore.maps(bare, PROMPT, **call_of(host))
