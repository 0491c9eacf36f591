import hashlib

import numpy as np
import pytest

from diffusers_ext.zoo.world.captions import OBJECTS, SHAPES, parse
from diffusers_ext.zoo.world.render import PALETTE, distance, draw, training_sample
from diffusers_ext.zoo.world.scenes import SIZE


def test_the_same_seed_draws_the_same_picture():
    first, again = training_sample(3, 41), training_sample(3, 41)
    assert first[0] == again[0]
    assert np.array_equal(first[1], again[1]) and np.array_equal(first[2], again[2])
    assert not np.array_equal(first[1], training_sample(3, 42)[1])
    assert not np.array_equal(first[1], training_sample(4, 41)[1])


def test_pictures_stay_what_the_weights_were_trained_on():
    """A change of the renderer makes a new world: retrain, then record the new digest."""
    digest = hashlib.sha256()
    for index in range(50):
        spec, image, _ = training_sample(0, index)
        digest.update(spec.caption.encode())
        digest.update((image // 8).tobytes())  # coarse: libm may differ in the last bit between machines
    assert digest.hexdigest()[:16] == "91a250768038cfc3"


def test_shape_of_a_picture():
    image = draw(parse("a red circle and a blue square"), seed=0)
    assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8


def test_the_mask_covers_the_objects_and_nothing_else():
    for index in range(30):
        spec, image, mask = training_sample(0, index)
        chroma = (image.max(-1).astype(int) - image.min(-1)) / 255
        assert chroma[mask > 0.99].min() > 0.3 and chroma[mask == 0].max() < 0.15
        assert mask.max() == 1 and len(spec.objects) * 60 < mask.sum() < 900


def test_backgrounds_are_neither_dark_nor_saturated():
    for index in range(100):
        _, image, mask = training_sample(1, index)
        assert image[mask == 0].mean() > 60


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_fit_their_radius_and_signs_agree(shape):
    at = np.linspace(-15, 15, 301)
    inside = distance(shape, at[None], at[:, None], 10.0) < 0
    farthest = np.hypot(at[None], at[:, None])[inside].max()
    assert 9 < farthest <= 11.05
    assert inside[150, 150] and not inside[0, 0]


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_are_one_pixel_soft(shape):
    """The distance changes by one px per px across the outline, which anti-aliasing relies on."""
    at = np.linspace(-15, 15, 301)
    d = distance(shape, at[None], at[:, None], 10.0)
    gy, gx = np.gradient(d, at, at)
    slope = np.hypot(gx, gy)[np.abs(d) < 0.3]
    assert np.median(slope) == pytest.approx(1, abs=0.02)


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="draws circle, square"):
        distance("hexagon", np.zeros(1), np.zeros(1), 5.0)


def test_every_colour_has_paint():
    assert {o.colour for o in OBJECTS} == set(PALETTE)
