import numpy as np
import pytest

from diffusers_ext.zoo.world.clips import (
    FRAMES,
    GAP,
    SIDE,
    draw_clip,
    render_clip,
    sample_script,
    sample_take,
    training_clip,
)
from diffusers_ext.zoo.world.motion import MOTIONS, MOVES, Actor, parse
from diffusers_ext.zoo.world.scenes import EXTENT, OVERLAP


def takes(count, caption=None):
    for i in range(count):
        rng = np.random.default_rng((11, i))
        yield sample_take(parse(caption) if caption else sample_script(rng), rng)


def test_the_stream_is_fixed_and_never_shows_what_is_held_out():
    first, again = training_clip(3, 17), training_clip(3, 17)
    assert first[0] == again[0] and np.array_equal(first[1], again[1])
    assert first[1].shape == (FRAMES, SIDE, SIDE, 3) and first[1].dtype == np.uint8
    scripts = [sample_script(np.random.default_rng((5, i))) for i in range(800)]
    assert not any(s.held_out for s in scripts)
    assert {a.motion for s in scripts for a in s.actors} == {"", *MOTIONS}
    assert any(s.crossing for s in scripts) and len({s.task for s in scripts}) == 4


def test_objects_stay_inside_and_do_what_the_script_says():
    for take in takes(150):
        for path in take.paths:
            x, y, radius = path.places.T
            assert (np.minimum(x, y) >= EXTENT * radius).all()
            assert (np.maximum(x, y) <= SIDE - EXTENT * radius).all()
            dx, dy, growth = x[-1] - x[0], y[-1] - y[0], radius[-1] / radius[0]
            motion = path.actor.motion
            way = MOVES.get(motion.removeprefix("moves "), (0, 0))
            assert np.allclose(np.sign((dx, dy)), way)
            assert not any(way) or abs(dx + dy) >= 8.9
            assert (growth > 1.3) == (motion == "grows") and (growth < 0.75) == (motion == "shrinks")
            assert (path.since > 0) == (motion == "appears")


def test_two_objects_keep_apart_unless_they_cross():
    for take in takes(150):
        if len(take.paths) == 2:
            a, b = (p.places for p in take.paths)
            apart, radii = np.hypot(*(a - b)[:, :2].T), np.stack([a[:, 2], b[:, 2]])
            slack = -OVERLAP * radii.min(0) if take.script.crossing else GAP
            assert (apart >= EXTENT * radii.sum(0) + slack - 1e-6).all()


def test_crossing_objects_change_sides():
    for take in takes(20, "a red circle moves left while a blue square moves right"):
        a, b = (p.places[:, 0] for p in take.paths)
        assert a[0] > b[0] and a[-1] < b[-1]


def test_an_object_that_appears_is_not_there_before():
    take = next(takes(1, "a red circle appears"))
    frames, masks = render_clip(take)
    since = take.paths[0].since
    assert not masks[:since].any() and masks[since:].any((1, 2)).all()
    assert (frames[:since] == frames[0]).all() and (frames[since] != frames[0]).any()


@pytest.mark.parametrize("motion", ["", "grows"])
def test_a_clip_of_a_script_depends_on_the_seed_alone(motion):
    script = parse(str(Actor(parse("a pink star").actors[0].object, motion)))
    assert np.array_equal(draw_clip(script, 1), draw_clip(script, 1))
    assert not np.array_equal(draw_clip(script, 1), draw_clip(script, 2))
