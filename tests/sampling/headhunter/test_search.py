"""HeadHunter on tiny real pipelines: planted heads, packs, rounds, logs, shards and what it refuses."""

import json
import math

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.errors import MethodError
from diffusers_ext.families.denoisers import denoisers
from diffusers_ext.sampling.headhunter.pairs import Pair, pairs_of

from ...close import close
from ...hosts import HOSTS, built
from ..searches import counted, redness, unchanged

GENTLE = dx.SoftPAG(scale=3.0, strength=0.25)  # small enough that the effects of heads add up
PROMPTS = ["a red circle", "a blue star"]


def call_of(tiny, steps=1):
    return tiny.size | tiny.extra | tiny.guided | {"num_inference_steps": steps}


def picture(tiny, pipe, prompt, seed, heads, steps=1):
    """A picture [3, H, W], or a clip, by the pipeline itself under SoftPAG with some heads."""
    methods = [dx.SoftPAG(heads=heads, scale=3.0, strength=0.25)] if heads else []
    with dx.apply(pipe, *methods):
        call = call_of(tiny, steps) | {"output_type": "pt", "return_dict": False}
        return pipe(prompt, generator=torch.Generator().manual_seed(seed), **call)[0][0]


def heads_in(tiny, pipe):
    """All heads that SoftPAG can use, by module and number."""
    (report,) = dx.summary(pipe).denoisers
    return [(site.name, h) for site in report[3] if site.kind != "cross" for h in range(site.heads)]


def tiny_sd3():
    tiny, pipe = built("sd3")
    pipe.set_progress_bar_config(disable=True)
    return tiny, pipe


def planted(tiny, pipe, heads, seeds):
    """A reward that is highest for the pictures under some heads: minus the distance to them."""
    wanted = {p: picture(tiny, pipe, p, s, heads) for p, s in zip(PROMPTS, seeds, strict=True)}

    def closeness(images, prompts):
        pairs = zip(images, prompts, strict=True)
        return torch.stack([-(image - wanted[p]).norm() for image, p in pairs])

    return closeness


@pytest.mark.parametrize("pair", [(0, 5), (3, 6)])
def test_planted_heads_are_found(pair):
    tiny, pipe = tiny_sd3()
    every = heads_in(tiny, pipe)
    plant = {}
    for place in pair:
        plant.setdefault(every[place][0], []).append(every[place][1])
    hunter = dx.HeadHunter(planted(tiny, pipe, plant, (4, 5)), top_k=2, pairs=2, guidance=GENTLE)
    with unchanged(pipe):
        found = hunter.search(pipe, PROMPTS, 4, **call_of(tiny))
    assert found == plant
    assert found.found["plain"] < min(pick.score for pick in found.picks)


def test_a_second_round_finds_a_partner_that_is_nothing_alone():
    """Along the effects of heads a, b and c the reward is a + 0.2 c + 5 ab: alone, c beats b."""
    tiny, pipe = tiny_sd3()
    every = heads_in(tiny, pipe)
    a, b, c = every[1], every[6], every[3]
    plain = picture(tiny, pipe, PROMPTS[0], 4, {})
    effects = [picture(tiny, pipe, PROMPTS[0], 4, {p: [h]}) - plain for p, h in every]
    basis = torch.stack([e.flatten() for e in effects], 1).double()

    def synergy(images, prompts):
        moved = (images - plain).flatten(1).double().T
        share = torch.linalg.lstsq(basis, moved).solution  # [heads, B]
        one, two, three = (share[every.index(head)] for head in (a, b, c))
        return one + 0.2 * three + 5 * one * two

    call = call_of(tiny)
    once = dx.HeadHunter(synergy, top_k=2, pairs=1, guidance=GENTLE).search(pipe, PROMPTS[:1], 4, **call)
    twice = dx.HeadHunter(synergy, rounds=2, top_k=1, pairs=1, guidance=GENTLE)
    found = twice.search(pipe, PROMPTS[:1], 4, **call)
    assert [(p.path, p.head) for p in once.picks] == [a, c]
    assert [(p.path, p.head, p.round) for p in found.picks] == [(*a, 1), (*b, 2)]


# Pipelines with a picture draw something else before their noise, so a seed alone does not repeat them.
SLOW = ("sd3.5", "sdxl", "flux-dev", "hunyuan-video")  # the others have all kinds of calls
REPEATED = [
    pytest.param(h, marks=[pytest.mark.slow] * (h.name in SLOW), id=h.name)
    for h in HOSTS
    if "image" not in h.extra
]


@pytest.mark.parametrize("host", REPEATED)
def test_scores_are_those_of_solo_runs_of_the_pipeline(host):
    """Rows of a pack share prompt and noise, and differ by their head; one row is the plain picture."""
    pipe, steps = host.build(), host.least_steps
    prompt, call = PROMPTS[0], call_of(host, steps)
    several = len(denoisers(pipe)) > 1
    layer = f"{next(iter(denoisers(pipe)))}.{host.layer}" if several else host.layer
    hunter = dx.HeadHunter(redness, pairs=1, pack=3, layers=[layer], top_k=1, guidance=GENTLE)
    found = hunter.search(pipe, prompt, 6, progress=False, **call)
    assert list(found.alone) == [layer]
    for heads, score in [
        ({}, found.found["plain"]),
        *(({layer: [h]}, found.alone[layer][h]) for h in (0, 2)),
    ]:
        image = picture(host, pipe, prompt, 6, heads, steps)
        frames = image if image.ndim == 4 else image[None]
        close(torch.tensor(score), redness(frames, []).mean(), 2**14)


def test_ties_go_to_the_first_layer_and_head():
    tiny, pipe = tiny_sd3()
    hunter = dx.HeadHunter(lambda images, prompts: torch.zeros(len(images)), top_k=3, pairs=1)
    found = hunter.search(pipe, PROMPTS[0], **call_of(tiny))
    assert [(p.path, p.head) for p in found.picks] == heads_in(tiny, pipe)[:3]


def test_heads_without_a_score_rank_last_and_are_reported():
    tiny, pipe = tiny_sd3()
    calls = []

    def broken(images, prompts):  # the first pack holds the plain picture and two heads
        calls.append(1)
        return torch.full((len(images),), math.nan) if len(calls) == 1 else torch.arange(len(images)) * 1.0

    hunter = dx.HeadHunter(broken, top_k=1, pairs=1, pack=3)
    with pytest.warns(
        UserWarning, match="no finite number for 3 of 13 pictures, first for the plain picture"
    ):
        found = hunter.search(pipe, PROMPTS[0], **call_of(tiny))
    every = heads_in(tiny, pipe)
    assert (found.picks[0].path, found.picks[0].head) == every[4]
    assert found.alone[every[0][0]][:2] == [None, None] and found.found["plain"] is None
    calls.clear()
    with pytest.warns(UserWarning, match="such heads are not taken"):
        some = dx.HeadHunter(broken, top_k=12, pairs=1, pack=3).search(pipe, PROMPTS[0], **call_of(tiny))
    assert len(some.picks) == 10 and all(math.isfinite(pick.score) for pick in some.picks)
    hunter = dx.HeadHunter(lambda images, prompts: [math.inf] * len(images), top_k=1, pairs=1)
    with pytest.raises(MethodError, match="no finite number for any of 12 heads"):
        hunter.search(pipe, PROMPTS[0], **call_of(tiny))


def hunt(reward=redness, **settings):
    return dx.HeadHunter(reward, **dict(rounds=2, top_k=2, pairs=2, pack=4, guidance=GENTLE) | settings)


def test_a_search_goes_on_after_a_kill_with_the_same_result(tmp_path):
    """A log is cut in the middle of a pack and of a line, as `kill -9` leaves it."""
    tiny, pipe = tiny_sd3()
    whole = hunt().search(pipe, PROMPTS, out=tmp_path, **call_of(tiny))
    log = tmp_path / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + whole.found["pictures"] == 1 + 2 * (1 + 12 + 10)
    rows = counted(pipe)
    again = hunt().search(pipe, PROMPTS, out=tmp_path, **call_of(tiny))
    assert not rows and again.picks == whole.picks
    log.write_text("".join(lines[:15]) + lines[15][:20])
    resumed = hunt().search(pipe, PROMPTS, out=tmp_path, **call_of(tiny))
    assert resumed.picks == whole.picks and resumed.alone == whole.alone
    drawn = sum(rows) // 3  # an unconditional, a conditional and a perturbed row
    assert 47 - 15 <= drawn < 47 - 15 + 4  # a pack is drawn again as a whole
    assert [json.loads(line)["round"] for line in log.read_text().splitlines()[1:]].count(2) == 20


def test_shards_find_what_one_search_finds(tmp_path):
    tiny, pipe = tiny_sd3()
    alone = hunt().search(pipe, PROMPTS, **call_of(tiny))
    for _ in range(2):  # rounds
        for part in range(2):
            found = hunt().search(pipe, PROMPTS, out=tmp_path, shard=(part, 2), **call_of(tiny))
    assert found.picks == alone.picks and found.alone == alone.alone
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log-0-of-2.jsonl", "log-1-of-2.jsonl"]
    rows = counted(pipe)
    assert hunt().search(pipe, PROMPTS, out=tmp_path, **call_of(tiny)).picks == alone.picks and not rows


def test_a_shard_returns_nothing_where_others_are_missing(tmp_path):
    tiny, pipe = tiny_sd3()
    assert hunt().search(pipe, PROMPTS, out=tmp_path, shard=(0, 2), **call_of(tiny)) is None


def test_more_heads_are_taken_from_the_same_log(tmp_path):
    tiny, pipe = tiny_sd3()
    two = hunt(rounds=1).search(pipe, PROMPTS, out=tmp_path, **call_of(tiny))
    rows = counted(pipe)
    four = hunt(rounds=1, top_k=4).search(pipe, PROMPTS, out=tmp_path, **call_of(tiny))
    assert not rows and four.best(2).picks == two.picks


def test_the_log_of_another_search_is_refused(tmp_path):
    tiny, pipe = tiny_sd3()
    hunt(rounds=1).search(pipe, PROMPTS, out=tmp_path, **call_of(tiny))
    other = built("sd3")[1]
    with torch.no_grad():
        next(other.transformer.parameters()).mul_(2)
    shifted, half = built("sd3")[1], built("sd3")[1].to(torch.bfloat16)
    shifted.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, shift=6.0)
    for key, search in {
        "pairs": lambda: hunt().search(pipe, PROMPTS, 1, out=tmp_path, **call_of(tiny)),
        "settings": lambda: hunt(guidance=dx.SoftPAG(scale=1.0, strength=0.25)).search(
            pipe, PROMPTS, out=tmp_path, **call_of(tiny)
        ),
        "rewards": lambda: hunt([(redness, 2.0)]).search(pipe, PROMPTS, out=tmp_path, **call_of(tiny)),
        "call": lambda: hunt().search(pipe, PROMPTS, out=tmp_path, **call_of(tiny, 2)),
        "weights": lambda: hunt().search(other, PROMPTS, out=tmp_path, **call_of(tiny)),
        "scheduler": lambda: hunt().search(shifted, PROMPTS, out=tmp_path, **call_of(tiny)),
        "dtypes": lambda: hunt().search(half, PROMPTS, out=tmp_path, **call_of(tiny)),
    }.items():
        with pytest.raises(MethodError, match=f"another {key} "):
            search()
    (tmp_path / "log.jsonl").write_text("[]\n")
    with pytest.raises(MethodError, match="does not say what was searched"):
        hunt().search(pipe, PROMPTS, out=tmp_path, **call_of(tiny))


def test_stop_is_asked_before_each_call_and_keeps_the_log(tmp_path):
    tiny, pipe = tiny_sd3()
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 2

    with unchanged(pipe), pytest.raises(MethodError, match="stopped after 8 of 46 pictures"):
        hunt().search(pipe, PROMPTS, out=tmp_path, stop=stop, **call_of(tiny))
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1 + 8


def test_defaults_are_those_of_the_paper():
    quality, style = dx.HeadHunter.quality(redness), dx.HeadHunter.style(redness, "watercolour")
    assert (quality.rounds, quality.pairs, quality.guidance.scale, quality.guidance.strength) == (
        1,
        20,
        3,
        0.25,
    )
    assert [quality._count(n) for n in (576, 1368, 24, 3)] == [24, 24, 6, 1]
    assert (style.rounds, style.top_k, style.pairs, style.guidance.strength) == (5, 3, 5, 1.0)
    pairs = pairs_of(["a dog"], 3, style.pairs, style.prefix)
    assert pairs == [Pair("watercolour, a dog", seed) for seed in range(3, 8)]


REFUSED = {
    "pairs must be 1 or more": dict(pairs=0),
    "rounds must be 1 or more": dict(rounds=0),
    "top_k takes a whole number": dict(top_k="three"),
    "heads of its own": dict(guidance=dx.SoftPAG(heads={"a": None}, strength=1.0)),
    "one strength for all heads, got None": dict(guidance=dx.SoftPAG()),
    "scale=1 and strength=0 changes nothing": dict(guidance=dx.SoftPAG(strength=0.0)),
    "scale=0 and strength=1 changes nothing": dict(guidance=dx.SoftPAG(scale=0.0, strength=1.0)),
    "temperature=1 changes nothing": dict(
        guidance=dx.SoftPAG(strength=1.0, perturbation="temperature", temperature=1.0)
    ),
    "start=0.5 and stop=0.5 guides no step": dict(guidance=dx.SoftPAG(strength=1.0, start=0.5, stop=0.5)),
    "a reward is an object with score": dict(reward=3),
}


@pytest.mark.parametrize("why", REFUSED)
def test_settings_that_make_no_sense_are_refused(why):
    with pytest.raises(ValueError, match=why):
        dx.HeadHunter(**{"reward": redness} | REFUSED[why])


SEARCHES = {
    "2 pairs for 3 prompts": dict(prompts=["a", "b", "c"]),
    "a prompt or a list of prompts, got \\[\\]": dict(prompts=[]),
    "one seed for each of 2 pairs, or the first one, got 3": dict(seeds=[1, 2, 3]),
    "a seed must be a whole number": dict(seeds=-1),
    "pairs must differ": dict(prompts="a", seeds=[1, 1]),
    "takes 14 heads \\(7 in a round, rounds=2\\), and only 12 are tried; set top_k to 6": dict(top_k=7),
    "only 12 are tried; set rounds to 12": dict(rounds=13, top_k=1),
    "no attention module in 'blocks.9'; the nearest names are": dict(layers=["blocks.9"]),
    "no head to try": dict(layers=[]),
    "a shard is \\(i, n\\)": dict(shard=(2, 2)),
    "needs a folder for its log": dict(shard=(0, 2)),
    "draws one picture for each pair, got 2": dict(num_images_per_prompt=2),
    "takes no speed": dict(speed=1),
    "gives a pipeline its generator": dict(generator=torch.Generator()),
    "gives a pipeline its output_type": dict(output_type="np"),
}


@pytest.mark.parametrize("why", SEARCHES)
def test_searches_that_make_no_sense_are_refused_and_change_nothing(why):
    tiny, pipe = tiny_sd3()
    more = dict(SEARCHES[why])
    settings = {name: more.pop(name) for name in ("top_k", "rounds", "layers") if name in more}
    asked = {"prompts": PROMPTS, "seeds": 0} | more
    with unchanged(pipe), pytest.raises(MethodError, match=why):
        hunt(**settings).search(pipe, asked.pop("prompts"), asked.pop("seeds"), **call_of(tiny) | asked)


def test_a_pipeline_under_a_session_is_refused():
    tiny, pipe = tiny_sd3()
    with dx.apply(pipe, dx.SoftPAG(heads={tiny.layer: None})), pytest.raises(MethodError, match="session"):
        hunt().search(pipe, PROMPTS, **call_of(tiny))


def test_a_callback_that_interrupts_ends_the_search():
    def interrupt(pipe, step, timestep, state):
        pipe._interrupt = True
        return state

    found, pipe = built("sd")
    hunter = dx.HeadHunter(redness, pairs=1, pack=2)
    call = found.size | found.unguided | {"num_inference_steps": 2, "callback_on_step_end": interrupt}
    with pytest.raises(MethodError, match="ended, since a callback interrupted the pipeline; leave"):
        hunter.search(pipe, "a red circle", progress=False, **call)
