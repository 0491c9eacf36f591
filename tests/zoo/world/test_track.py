from dataclasses import replace

import numpy as np
import pytest

from diffusers_ext.zoo.world.clips import FRAMES, SIDE, draw_clip, training_clip
from diffusers_ext.zoo.world.motion import MOTIONS, parse
from diffusers_ext.zoo.world.suites import VIDEO_TASKS, suite
from diffusers_ext.zoo.world.track import follow, observe, verify_clip


def clip(caption, seed=0):
    return draw_clip(parse(caption), seed)


def test_rendered_clips_are_judged_right():
    exact = [
        verify_clip(frames, script).correct
        for script, frames, _ in (training_clip(21, i) for i in range(120))
    ]
    assert np.mean(exact) >= 0.99


@pytest.mark.parametrize("task", VIDEO_TASKS)
def test_held_out_clips_are_judged_right(task):
    scripts = [parse(s.caption) for s in suite("held-out", task, 20)]
    assert np.mean([verify_clip(draw_clip(s, i), s).correct for i, s in enumerate(scripts)]) >= 0.95


@pytest.mark.parametrize("shown", ["", *MOTIONS])
def test_every_other_motion_is_refused(shown):
    frames = clip(f"a red circle {shown}".strip())
    for asked in ["", *MOTIONS]:
        verdict = verify_clip(frames, parse(f"a red circle {asked}".strip()))
        assert verdict.correct == (asked == shown), (asked, verdict.reason)


@pytest.mark.parametrize(
    "shown, asked, reason",
    [
        ("a red circle", "a red square", "found a red circle at rest"),
        ("a red circle", "a blue circle", "found a red circle at rest"),
        ("a red circle and a blue square", "a red circle", "a blue square at rest and a red circle"),
        ("a red circle moves left", "a red circle moves right", "motion is not"),
    ],
)
def test_a_wrong_clip_is_told_apart_in_words(shown, asked, reason):
    verdict = verify_clip(clip(shown), parse(asked))
    assert not verdict.correct and reason in verdict.reason and not verdict.swapped


def test_exchanged_colours_are_a_failure_of_binding():
    verdict = verify_clip(clip("a red circle and a blue square"), parse("a blue circle and a red square"))
    assert verdict.swapped and not verdict.correct


def test_crossing_objects_keep_their_identity():
    caption = "a red circle moves left while a blue square moves right"
    for seed in range(10):
        tracks = follow(observe(clip(caption, seed)))
        assert sorted(map(str, tracks)) == ["a blue square", "a red circle"]
        assert all(len(t.frames) >= FRAMES - 3 for t in tracks)


def test_time_reversed_clips_show_the_opposite():
    frames = clip("a red circle moves up")[::-1]
    assert verify_clip(frames, parse("a red circle moves down")).correct


def test_an_object_that_vanishes_or_wanders_off_is_no_motion_of_the_world():
    gone = clip("a red circle").copy()
    gone[5:] = gone[0, 0, 0]
    there_and_back = np.concatenate(
        [clip("a red circle moves left")[::2], clip("a red circle moves left")[6::-2]]
    )
    assert len(there_and_back) == FRAMES
    assert "moves oddly" in verify_clip(gone, parse("a red circle")).reason
    assert not verify_clip(there_and_back, parse("a red circle moves left")).correct


def test_a_flicker_of_two_frames_is_forgiven():
    frames, other = clip("a red circle").copy(), clip("a blue square", 1)
    small = observe(other)[0][0]
    x, y = map(int, small.centre)
    frames[3:5, max(y - 7, 0) : y + 7, max(x - 7, 0) : x + 7] = other[
        3:5, max(y - 7, 0) : y + 7, max(x - 7, 0) : x + 7
    ]
    tracks = follow(observe(frames))
    assert all(str(replace(t)) == "a red circle" for t in tracks)


def test_blank_clips_show_nothing_and_other_sizes_are_refused():
    blank = np.full((FRAMES, SIDE, SIDE, 3), 128, np.uint8)
    assert verify_clip(blank, parse("a red circle")).reason == "found nothing"
    with pytest.raises(ValueError, match="frames"):
        observe(np.zeros((SIDE, SIDE, 3), np.uint8))
