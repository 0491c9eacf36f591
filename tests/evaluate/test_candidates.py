"""Test what is said of candidates: the winner, verdicts, costs and fates."""

import json

import numpy as np
import torch

from diffusers_ext.evaluate.candidates import facts, fates, finished, place, summary, verdicts, winner
from diffusers_ext.sampling.result import Candidate, Iterate, Result
from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.render import draw

PROMPT = "a red square"


def picture(prompt, seed=0):
    return draw(parse(prompt), seed)


def result(history, score, **more):
    facts = dict(nfe=40, gradients=0, scored=6, seconds=1.5)
    return Result(
        images=[None], noise=torch.zeros(1, 4), scores=torch.tensor([score]),
        each={"r": torch.tensor([score])}, seeds=(7,), states=(), history=tuple(history), **facts | more,
    )  # fmt: skip


def searched():
    star = picture("a cyan star")
    history = [
        Candidate(0, 0, 5, 0.25, {"r": 0.25}, {2: 0.1}, None, 14, {2: star, 6: star}),
        Candidate(0, 1, 6, None, {}, {2: -1.0}, 2, 6, {2: picture(PROMPT)}),
        Candidate(0, 2, 7, 0.75, {"r": 0.75}, {2: 0.5}, None, 14, {2: picture(PROMPT), 6: picture(PROMPT)}),
        Candidate(0, 3, None, float("nan"), {"r": float("nan")}, {}, None, 6, {}, origin=2),
    ]  # fmt: skip
    return result(history, 0.75)


def test_the_winner_and_the_verdicts():
    found = searched()
    judged = verdicts(found, PROMPT)
    assert winner(found) == 2 and place(found) == "candidate 2 of 0 to 3"
    assert [j and j.correct for j in judged] == [False, None, True, None]
    assert finished(found.history[1]) is None, "a dropped candidate has estimates only"


def test_facts_are_json_without_nan():
    found = searched()
    data = json.loads(json.dumps(facts(found, verdicts(found, PROMPT)), allow_nan=False))
    assert data["winner"] == 2 and data["winner_seed"] == 7 and data["cost"] == data["evaluations"] == 40
    rows = data["candidates"]
    assert [row["dropped"] for row in rows] == [None, 2, None, None]
    assert rows[3]["score"] is None and rows[3]["origin"] == 2 and rows[1]["estimates"] == {"2": -1.0}
    assert rows[2]["correct"] is True and rows[0]["correct"] is False and "correct" not in rows[1]


def test_fates_name_what_they_come_from():
    found = searched()
    made = fates(found, verdicts(found, PROMPT))
    assert [fate.best for fate in made] == [False, False, True, False]
    assert made[3].lines == ("candidate 3", "from candidate 2", "6 evaluations")
    order = sorted(range(4), key=lambda i: made[i].rank)
    assert order[0] == 2 and order[-1] == 1, "the best first, what was dropped last"


def test_iterations():
    history = [Iterate(0, i, 0.1 * i, {"r": 0.1 * i}, 8.0, picture(PROMPT, i)) for i in range(3)]
    found = result(history, history[1].score, gradients=3, stopped="its budget of 9 evaluations is spent")
    assert winner(found) == 1 and place(found) == "iteration 1 of 0 to 2"
    made = fates(found, verdicts(found, PROMPT))
    assert all(fate.ordered for fate in made) and np.array_equal(made[2].pictures[2], picture(PROMPT, 2))
    row = facts(found, verdicts(found, PROMPT))["candidates"][1]
    assert row["iteration"] == 1 and row["norm"] == 8.0 and row["correct"] is True
    first, second = summary("reno", found, [{"name": "r"}])
    assert first.startswith("reno by r: 3 iterations, 40 evaluations, 3 of them also backwards")
    assert "a cost of 46" in first and "its budget of 9" in second


def test_a_summary_counts():
    first, *rest = summary("ttsnap", searched(), [{"name": "a"}, {"name": "b"}])
    assert first == "ttsnap by a + b: 4 candidates, 1 dropped on the way, 40 evaluations, 1.5 s" and not rest


def test_costs_by_prompt_share_what_no_candidate_counts():
    history = [
        Candidate(0, 0, 1, evaluations=10),
        Candidate(1, 0, 2, evaluations=20),
        Iterate(1, 0, 0.0, {}, 1.0),
    ]
    found = result(history, 0.0, nfe=34)
    two = Result(**{name: getattr(found, name) for name in found.__slots__} | {"scores": torch.zeros(2)})
    assert two.costs() == [12.0, 22.0]
