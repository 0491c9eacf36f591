"""The search of the page: what may be asked for, what is shown while it runs, and what it leaves behind."""

import json
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.app import search_chart
from diffusers_ext.app.engine import Done, Engine
from diffusers_ext.app.line import Refused, Waiting
from diffusers_ext.app.models import Models
from diffusers_ext.app.search_asked import SearchAsked
from diffusers_ext.app.search_run import EARLY, search
from diffusers_ext.app.search_watch import Lane, Look
from diffusers_ext.outputs.record import sources
from diffusers_ext.settings.registry import SAMPLERS

PROMPT = "a red circle and a blue square"
TURBO = {"prompt": PROMPT, "model": "shapes-sd-turbo", "seed": 0}


def looks_and_end(engine, folder, data, on_look=lambda look: None):
    """All that a search shows, and its end."""
    wanted, shown = SearchAsked.of(data), []
    for event in engine.run("me", lambda control, place: search(control, place, wanted, folder)):
        if isinstance(event, Done):
            return shown, event.result
        if not isinstance(event, Waiting):
            shown.append(event)
            on_look(event)
    raise AssertionError("a job ends with its result")


def test_the_picture_is_that_of_the_sampler_and_is_made_again_from_its_record(engine, tmp_path, cli):
    looks, found = looks_and_end(engine, tmp_path, {**TURBO, "budget": 6})
    pipe = dx.load("shapes-sd-turbo")
    pipe.set_progress_bar_config(disable=True)
    plain = dx.BestOfN(n=6, rewards=dx.rewards.ShapesCLIP(), micro_batch=4).sample(
        pipe, PROMPT, generator=torch.Generator().manual_seed(0)
    )
    assert found.facts["evaluations"] == 6 and found.facts["winner_seed"] == plain.seeds[0]
    assert found.facts["score"] == pytest.approx(float(plain.scores[0]), abs=1e-4)
    scores = [score for _, score in found.look.curve]
    assert scores == sorted(scores) and found.look.curve[-1][0] == 6
    assert (
        len(found.look.dots) == len(found.look.lanes) == 6
        and sum(lane.best for lane in found.look.lanes) == 1
    )
    assert any(look.picture is not None for look in looks)
    assert json.loads(found.data.read_text())["picture"] == found.path.name
    assert sources(found.path)[0]["methods"] == found.record["methods"]
    code, out, _ = cli("show", found.path, "--again", "--out", tmp_path / "again.png")
    assert code == 0 and ("the same bytes" in out or "the same pixels" in out or "% of the pixels" in out)


def test_a_search_that_is_cancelled_keeps_the_best_picture_and_says_so(engine, tmp_path):
    def cancel(look):
        if look.curve:
            engine.cancel("me")

    _, found = looks_and_end(engine, tmp_path, {**TURBO, "budget": 1000}, cancel)
    assert 4 <= found.facts["evaluations"] < 500
    assert "someone asked to stop" in found.record["stopped"] and found.path.is_file()


def test_nothing_is_kept_where_nothing_was_finished(engine, tmp_path):
    wanted = SearchAsked.of(TURBO)

    def work(control, place):
        control.cancel()
        return search(control, place, wanted, tmp_path)

    with pytest.raises(Refused, match=EARLY):
        list(engine.run("me", work))
    assert not list(tmp_path.iterdir())


def test_a_second_sampler_goes_on_and_is_shown(engine, tmp_path):
    looks, found = looks_and_end(engine, tmp_path, {**TURBO, "sampler": "best-of-n+reno", "budget": 14})
    names = [lane.name for lane in found.look.lanes]
    assert names[0] == "candidate 0" and names[-1].startswith("iteration")
    spent = [evaluations for evaluations, _ in found.look.curve]
    assert spent == sorted(spent) and spent[-1] == found.facts["cost"] <= 14
    assert all(len(later.lanes) >= len(sooner.lanes) for sooner, later in pairwise(looks))


def test_dropped_candidates_say_when(engine, tmp_path):
    data = {"prompt": PROMPT, "model": "shapes-sd", "seed": 0, "call": {"num_inference_steps": 3}}
    data |= {"sampler": "ttsnap", "settings": {"ttsnap": {"n": 3, "prune_at": [1], "keep": [0.4]}}}
    _, found = looks_and_end(engine, tmp_path, data)
    assert sorted(lane.dropped for lane in found.look.lanes if lane.dropped is not None) == [1, 1]
    assert search_chart.lanes(found.look).count("dropped after step 2") == 2


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_of_the_registry_can_be_asked_for(name):
    wanted = SearchAsked.of({**TURBO, "sampler": name, "budget": 60})
    sampler = wanted.build(None if name == "npnet" else [(dx.rewards.ShapesCLIP(), 1.0)])
    assert sampler.name == name and sampler.budget == 60 and sampler.keep_pictures
    assert sampler.seconds == 600, "no search holds a server for hours"
    grows = getattr(type(sampler), "grows", None)
    assert grows is None or getattr(sampler, grows) == 60


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"sampler": "softpag"}, "takes the name of a search"),
        ({"sampler": "best-of-m"}, "nearest is 'best-of-n'"),
        ({"sampler": "best-of-100000"}, "up to 1000"),
        ({"sampler": ["best-of-n"]}, "sampler takes text"),
        ({"budget": 10**9}, "budget is above 0 and up to 5000"),
        ({"budget": -1}, "budget is above 0"),
        ({"budget": "many"}, "budget takes a whole number"),
        ({"seconds": 1e9}, "seconds is above 0 and up to 600"),
        ({"settings": {"best-of-n": {"n": 10**6}}}, "n is above 0 and up to 1000"),
        ({"settings": {"best-of-n": {"n": "x"}}}, "takes a whole number"),
        ({"settings": {"best-of-n": {"micro_batch": 64}}}, "has no setting 'micro_batch' here"),
        ({"settings": {"reno": {"lr": 1}}}, "settings are for best-of-n"),
        ({"sampler": "npnet", "settings": {"npnet": {"model": "/etc/passwd"}}}, "is one of shapes-sd-npnet"),
        ({"rewards": ["/etc"]}, "unknown reward '/etc'"),
        ({"rewards": {"shapes-clip": "x"}}, "rewards takes"),
        ({"wishes": 1}, "settings have no 'wishes'"),
    ],
)
def test_what_may_not_be_asked_for_is_one_sentence(data, says):
    with pytest.raises(ValueError, match=says) as caught:
        SearchAsked.of({**TURBO, **data})
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_a_model_without_a_known_reward_needs_one(engine, tmp_path, saved_model):
    other = Engine(Models((str(saved_model),)))
    with pytest.raises(Refused, match=re.escape("choose one of clip-score")):
        looks_and_end(other, tmp_path, {"prompt": "x", "model": saved_model.name, "budget": 30})


def test_charts_hold_no_text_of_a_visitor_as_markup():
    lane = Lane("<b>", 3, 0.5, None, None, True, True)
    look = Look(1.0, "", [(1, 0.2), (3, 0.5)], [(1, 0.2), (3, 0.5)], 3, [lane, replace(lane, score=None)])
    drawn = search_chart.lanes(look)
    assert "<b>" not in drawn and "&lt;b&gt;" in drawn and "0.500, right, kept" in drawn
    assert search_chart.curve(look).count("<circle") == 3
    assert "No picture" in search_chart.curve(replace(look, curve=[]))
