import json

import pytest

from bench.studies.judge_labels import (
    LABELS,
    VERDICTS,
    by_eye,
    drawn,
    judged,
    readings,
    sheets,
    summary,
    to_markdown,
    wanted,
)
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.models.fingerprint import fingerprint
from diffusers_ext.zoo import catalogue
from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.render import draw

KNOWN = json.loads(LABELS.read_text())
FOUND = json.loads(VERDICTS.read_text())
AGAIN = "shapes-sd-turbo"  # one step a picture
SOME = 20  # of its pictures; the label of one disagrees with the detector, two are unclear
ROUNDING = 1  # verdicts that another machine's rounding may change, of these


def label(prompt, *seen, **more):
    return {"prompt": prompt, "seen": list(seen), **more}


@pytest.mark.parametrize(
    "seen, right",
    [
        (label("a red circle", "red circle"), True),
        (label("a red circle", "red square"), False),
        (label("a red circle", "red circle", "blue star"), False),
        (label("a red circle", "red circle/square"), None),
        (label("a red circle", "red square/star"), False),
        (label("a red circle", "red none"), False),
        (label("a red circle", "any circle"), None),
        (label("two red circles", "red circle", "red any", "red any"), False),
        (label("a red circle left of a blue star", "blue star", "red circle", relation="left of"), False),
        (label("a red circle left of a blue star", "red circle", "blue star", relation="left of"), True),
        (label("a red circle above a blue star", "blue star", "red circle", relation="below"), True),
        (label("a red circle above a blue star", "blue star", "red circle", relation="unclear"), None),
        (label("a red circle and a blue star", "blue star", "red circle", relation="unclear"), True),
        (label("a red circle moves left", "red circle moves left"), True),
        (label("a red circle moves left", "red circle"), False),
        (label("a red circle moves left", "red circle any"), None),
        (label("a red circle moves left", "red square any"), False),
    ],
)
def test_what_was_seen_answers_the_prompt_or_leaves_it_open(seen, right):
    assert by_eye(seen) is right


def test_unsure_labels_have_several_readings():
    assert readings("pink circle/none") == {("pink", "circle", ""), ("pink", "none", "")}
    assert len(readings("any cross")) == 8 and len(readings("green any")) == 6


def test_the_labels_are_of_the_shipped_weights_their_call_and_a_seed_of_their_own():
    for model, weights in KNOWN["weights"].items():
        assert weights == fingerprint(catalogue.path(model))
        checkpoint = Checkpoint.resolve(model)
        assert KNOWN["call"][model] == checkpoint.call
        mine = [entry for entry in KNOWN["labels"] if entry["model"] == model]
        tasks = checkpoint.tasks
        asked = questions(KNOWN["suite"], len(mine) // len(tasks), KNOWN["seed"], tasks)
        assert sorted((e["task"], e["prompt"], e["seed"]) for e in mine) == sorted(
            (q.task, q.item.prompt, q.item.seed) for q in asked
        ), model


def test_the_results_follow_from_labels_and_verdicts():
    kept = {key: FOUND[key] for key in ("pictures", "models", "objects")}
    assert json.loads(json.dumps(summary(KNOWN["labels"], FOUND["verdicts"]))) == kept
    assert FOUND["pictures"]["n"] >= 300


def test_the_judge_still_says_so():
    labels = KNOWN["labels"]
    verdicts = {i: judged(image, labels[i]["prompt"]) for i, image in drawn(labels, [AGAIN], SOME)}
    assert len(verdicts) == SOME
    other = [i for i, v in verdicts.items() if v["correct"] != FOUND["verdicts"][i]["correct"]]
    assert len(other) <= ROUNDING


def test_mistakes_of_either_kind_are_counted():
    labels = [
        label("a red circle", "red circle", model="m"),
        label("a red circle", "red circle", model="m"),
        label("a blue star", "blue square", model="m"),
        label("a blue star", "blue star/none", model="m"),
    ]
    found = ["red circle"], ["red blob"], ["blue star"], ["blue star"]
    verdicts = [{"correct": c, "found": f} for c, f in zip((True, False, True, True), found, strict=True)]
    rates = summary(labels, verdicts)
    kinds = ("wrong", "too_strict", "too_kind", "unclear")
    got = {k: (rates["models"]["m"][k]["accuracy"], rates["models"]["m"][k]["n"]) for k in kinds}
    assert got == {"wrong": (2 / 3, 3), "too_strict": (1 / 2, 2), "too_kind": (1, 1), "unclear": (1, 1)}
    assert rates["objects"]["circle"] == {"seen": 2, "misread": 1}
    assert rates["objects"]["square"] == {"seen": 1, "misread": 1}


def test_the_page_has_both_kinds_of_error():
    text = to_markdown(FOUND)
    assert "wrong ones called right" in text and "stars" in text and "crosss" not in text


def test_sheets_show_every_picture(tmp_path):
    from PIL import Image

    images = [Image.fromarray(draw(parse("a red circle"), seed)) for seed in range(13)]
    sheets(images, tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["sheet-00.png", "sheet-01.png"]


def test_prompts_of_pictures_and_clips_are_read():
    assert wanted("a red circle above a blue star")[1] == "above"
    assert wanted("a red circle moves left") == ([("red", "circle", "moves left")], None)
