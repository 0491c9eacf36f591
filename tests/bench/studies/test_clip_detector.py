import json

import numpy as np
import pytest

from bench.ledger import RESULTS
from bench.studies.clip_detector import main, read, readings, summary, takes
from bench.studies.detector_study import NOTHING
from diffusers_ext.models.fingerprint import fingerprint
from diffusers_ext.zoo.catalogue import WEIGHTS
from diffusers_ext.zoo.world.clips import FRAMES, render_clip, sample_take
from diffusers_ext.zoo.world.motion import parse
from diffusers_ext.zoo.world.suites import VIDEO_TASKS


def take(caption, seed=0):
    return sample_take(parse(caption), np.random.default_rng(seed))


def test_half_of_the_clips_are_held_out_and_every_task_comes():
    scripts = [t.script for t in takes(24)]
    assert not any(s.held_out for s in scripts[::2]) and all(s.held_out for s in scripts[1::2])
    assert {s.task for s in scripts[1::2]} == set(VIDEO_TASKS)


def test_clips_as_drawn_are_read_exactly():
    found = summary(list(readings(16)))
    assert found["exact"]["accuracy"] == 1 and found["tracks"]["accuracy"] == 1
    assert found["frames"] == {"exact": 16 * FRAMES, "n": 16 * FRAMES}
    tables = found["shapes"] | found["track_shapes"] | found["track_colours"] | found["motions"]
    assert all(set(row) == {name} for name, row in tables.items())


@pytest.mark.parametrize(
    "shown, track, motion",
    [
        ("a blue circle moves left", ("red circle", "blue circle"), ("moves left", "moves left")),
        ("a red star moves left", ("red circle", "red star"), ("moves left", "moves left")),
    ],
)
def test_what_is_confused_is_counted(shown, track, motion):
    """Another object moves in the same way in place of the right one."""
    right, wrong = take("a red circle moves left"), take(shown)
    frames, other = render_clip(right)[0], render_clip(wrong)[0]
    found = read(right, frames, other)
    assert not found.correct and found.tracks == (track,) and found.motions == (motion,)
    assert found.frames == (track,) * FRAMES and found.exact_frames == 0 and found.error > 0


def test_what_is_missing_is_counted():
    own = take("a red circle moves left")
    empty = np.full_like(render_clip(own)[0], 140)
    found = read(own, render_clip(own)[0], empty)
    assert found.tracks == (("red circle", NOTHING),) and found.motions == ()
    facts = summary([found])
    assert facts["shapes"] == {"circle": {NOTHING: FRAMES}} and facts["frames"]["exact"] == 0
    assert facts["track_shapes"] == {"circle": {NOTHING: 1}}
    assert facts["track_colours"] == {"red": {NOTHING: 1}}


def test_a_run_leaves_figures_of_the_model_that_it_is_given(tmp_path):
    main(["--clips", "2", "--model", str(WEIGHTS / "shapes-wan"), "--out", str(tmp_path)])
    (path,) = tmp_path.glob("clip_detector-*.json")
    found = json.loads(path.read_text())
    assert found["clips"] == 2 and found["psnr_db"] > 20
    assert found["vae"] == fingerprint(WEIGHTS / "shapes-wan" / "vae")


def test_reconstructions_are_those_of_the_shipped_autoencoder():
    found = json.loads((RESULTS / "clip_detector-shapes-wan.json").read_text())
    assert found["vae"] == fingerprint(WEIGHTS / "shapes-wan" / "vae"), (
        "run bench.studies.clip_detector again"
    )
