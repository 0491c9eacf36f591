"""Test the study of binding: which settings are chosen, and the table of the page."""

from bench.studies.binding import LOSSES, best, candidates, to_markdown, tried
from bench.studies.paired_verdicts import results
from diffusers_ext.evaluate.score import Judged, summarise


def judged(right, task="two_object"):
    return [Judged(f"p{i}", i, task, bool(r), "", swapped=not r) for i, r in enumerate(right)]


def test_the_best_step_of_each_loss_is_chosen_and_the_smaller_of_two():
    shares = [1, 3, 3, 2, 0, 1]
    found = {label: judged([1] * n + [0] * (4 - n)) for label, n in zip(tried(), shares, strict=True)}
    chosen = best(found | {"plain": judged([1] * 4)})
    labels = list(tried())
    assert list(chosen) == list(LOSSES) and list(chosen.values()) == [labels[1], labels[3]]
    methods = candidates(chosen)
    assert methods["A-STAR"][0] == tried()[labels[1]] and methods["plain"] == ()
    assert methods["Attend-and-Excite"][0].loss == "attend_and_excite"


def test_the_table_has_swaps_and_what_was_tried():
    asked = {
        "plain": judged([1, 0]) + judged([1, 0, 0, 0], "color_attr"),
        "A-STAR": judged([1, 1]) + judged([1, 1, 0, 1], "color_attr"),
    }
    tuned = {label: summarise(judged([1, 0])) for label in ("plain", *tried())}
    found = results(asked, [("plain", "A-STAR")]) | {
        "model": "shapes-sd",
        "suite": "held-out",
        "tried": tuned,
    }
    text = to_markdown(found | {"n": 4, "tuning_n": 2})
    assert "| plain | 75 % |" in text and "| A-STAR | 25 % |" in text
    assert "- A-STAR - plain: 3 wins, 0 losses of 6" in text and "| astar, step size 20 | 50 % |" in text
