import json

import numpy as np
import pytest

from bench.ledger import RESULTS
from bench.studies.detector import hidden, is_crowded, main, read, scenes, summary
from bench.studies.detector_study import NOTHING, nearby
from diffusers_ext.models.fingerprint import fingerprint
from diffusers_ext.zoo.catalogue import WEIGHTS
from diffusers_ext.zoo.world.captions import COLOURS, SHAPES, parse
from diffusers_ext.zoo.world.detect import detect
from diffusers_ext.zoo.world.render import render
from diffusers_ext.zoo.world.scenes import Background, Scene

GREY = Background("plain", (0.6, 0.6, 0.6), 0.0, 0.0, 10.0, 0)


def scene(caption, *places):
    spec = parse(caption)
    return Scene(spec, places, (1.0,) * len(spec.objects), GREY)


SPACED = (18.0, 20.0, 9.0), (46.0, 44.0, 9.0)
ASKED = scene("a red circle and a blue square", *SPACED)


@pytest.mark.parametrize(
    "shown, pairs",
    [
        (ASKED, {("red circle", "red circle"), ("blue square", "blue square")}),
        (
            scene("a red square and a blue square", *SPACED),
            {("red circle", "red square"), ("blue square", "blue square")},
        ),
        (scene("a red circle", SPACED[0]), {("red circle", "red circle"), ("blue square", NOTHING)}),
        (
            scene("a red circle and a green star", SPACED[0], (46.0, 15.0, 9.0)),
            {("red circle", "red circle"), ("blue square", NOTHING), (NOTHING, "green star")},
        ),
    ],
)
def test_drawn_and_found_objects_meet_by_place(shown, pairs):
    assert set(nearby(ASKED.spec.objects, detect(render(shown)[0]), ASKED.places)) == pairs


def test_a_blank_picture_misses_everything():
    assert [found for _, found in nearby(ASKED.spec.objects, (), ASKED.places)] == [NOTHING, NOTHING]


def test_hidden_shares():
    touching = scene("a red square and a blue square", (24.0, 32.0, 10.0), (36.0, 32.0, 10.0))
    under, over = hidden(touching)
    assert under == pytest.approx(3.6 / 15.6, abs=0.02) and over == 0  # squares of side 15.6, 12 px apart
    assert is_crowded(touching) and not is_crowded(ASKED)


def test_scenes_cover_both_worlds_and_repeat():
    first, again = list(scenes(24)), list(scenes(24))
    assert first == again
    assert [s.spec.held_out for s in first] == [False, True] * 12
    tasks = {"single_object", "two_object", "counting", "position", "three_object"}
    assert {s.spec.task for s in first[1::2]} == tasks


def test_tables_count_every_object():
    found = summary([read(s, *[render(s)[0]] * 2) for s in scenes(40)])
    drawn = sum(len(s.spec.objects) for s in scenes(40))
    assert sum(sum(row.values()) for row in found["shapes"].values()) == drawn
    assert sum(sum(row.values()) for row in found["colours"].values()) == drawn
    assert found["exact"]["n"] == 40 == sum(t["n"] for t in found["tasks"].values())


def test_a_run_leaves_figures_and_a_chart(tmp_path, capsys):
    main(["--pictures", "4", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "detector-renders.json").read_text())["exact"]["n"] == 4
    assert (tmp_path / "detector-renders.png").is_file() and "renders: " in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(RESULTS.glob("detector-*.json")), ids=lambda p: p.stem)
def test_committed_evidence_is_whole(path):
    found = json.loads(path.read_text())
    assert found["pictures"] == found["exact"]["n"] == 10_000
    objects = sum(len(s.spec.objects) for s in scenes(10_000)) if path.stem.endswith("renders") else None
    for key, names in (("shapes", SHAPES), ("colours", COLOURS)):
        assert list(found[key]) == [*names, NOTHING]
        total = sum(sum(found[key][name].values()) for name in names)
        assert objects is None or total == objects
        assert np.mean([found[key][n][n] / sum(found[key][n].values()) for n in names]) > 0.9


def test_the_detector_keeps_its_promise_on_renders():
    found = json.loads((RESULTS / "detector-renders.json").read_text())
    assert min(found[key]["low"] for key in ("exact", "held_out")) >= 0.99


def test_reconstructions_are_those_of_the_shipped_autoencoders():
    for path in RESULTS.glob("detector-*.json"):
        found = json.loads(path.read_text())
        if "vae" in found:
            assert found["vae"] == fingerprint(WEIGHTS / found["model"] / "vae"), f"run {path.stem} again"
