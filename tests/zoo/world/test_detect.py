import numpy as np
import pytest

from diffusers_ext.zoo.world.captions import parse
from diffusers_ext.zoo.world.detect import detect, find, segmented, verify
from diffusers_ext.zoo.world.render import draw, render, training_sample
from diffusers_ext.zoo.world.scenes import Background, Scene
from diffusers_ext.zoo.world.suites import IMAGE_TASKS, SPLITS, suite

GREY = Background("plain", (0.6, 0.6, 0.6), 0.0, 0.0, 10.0, 0)


def picture(caption, *places):
    spec = parse(caption)
    return render(Scene(spec, places, (1.0,) * len(spec.objects), GREY))[0]


@pytest.mark.parametrize("split", SPLITS)
def test_drawn_pictures_are_read_exactly(split):
    specs = [spec for task in IMAGE_TASKS for spec in suite(split, task, 60)]
    verdicts = [verify(draw(spec, seed), spec) for seed, spec in enumerate(specs)]
    assert np.mean([v.correct for v in verdicts]) >= 0.996


def test_the_training_stream_is_read_exactly():
    samples = [training_sample(7, i) for i in range(300)]
    assert np.mean([verify(image, spec).correct for spec, image, _ in samples]) >= 0.996


def test_places_and_areas_are_those_drawn():
    (found,) = detect(picture("a red square", (20.0, 40.0, 10.0)))
    assert (found.shape, found.colour) == ("square", "red")
    assert found.centre == pytest.approx((20, 40), abs=0.6)
    assert found.area == pytest.approx(4 * 7.8**2, rel=0.12)


def test_uint8_and_float_pictures_agree():
    image = draw(parse("three green stars"), 1)
    assert verify(image, parse("three green stars")) == verify(
        image.astype(np.float32) / 255, parse("three green stars")
    )


def test_touching_objects_of_two_colours_are_split():
    found = detect(picture("a red square and a blue square", (22.0, 32.0, 10.0), (37.6, 32.0, 10.0)))
    assert sorted((f.colour, f.shape) for f in found) == [("blue", "square"), ("red", "square")]


@pytest.mark.parametrize(
    "asked, reason",
    [
        ("a red circle and a blue square", "found a blue square and a red circle"),  # in a fixed order
        ("a red circle left of a blue square", "found a blue square and a red circle"),
        ("a red circle right of a blue square", "a red circle is not right of a blue square"),
        ("a red circle above a blue square", "a red circle is not above a blue square"),
        ("a red circle", "found an extra blue square"),
        ("a red circle and a blue star", "missing a blue star; found an extra blue square"),
        ("two red circles", "missing a red circle; found an extra blue square"),
    ],
)
def test_verdicts_say_why(asked, reason):
    image = picture("a red circle and a blue square", (18.0, 32.0, 9.0), (46.0, 34.0, 9.0))
    verdict = verify(image, parse(asked))
    assert verdict.reason == reason
    assert verdict.correct == (
        asked in ("a red circle and a blue square", "a red circle left of a blue square")
    )


def test_masks_are_the_pixels_that_are_counted():
    image = picture("a red circle and a blue square", (18.0, 32.0, 9.0), (46.0, 34.0, 9.0))
    for found, mask in segmented(image):
        assert mask.shape == image.shape[:2] and mask.sum() == found.area
        rows, columns = np.nonzero(mask)
        assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx(found.centre)
    masks = {str(found.object): mask for found, mask in segmented(image)}
    assert np.array_equal(find(image, "a blue square"), masks["a blue square"])
    assert find(image, "a blue circle") is None
    with pytest.raises(ValueError, match="one object at a time, got 'two red circles'"):
        find(image, "two red circles")


def test_a_blank_picture_holds_nothing():
    blank = np.full((64, 64, 3), 128, np.uint8)
    assert detect(blank) == ()
    assert verify(blank, parse("four red circles")).reason == "missing four red circles"


def test_a_shapeless_patch_is_a_blob():
    image = np.full((64, 64, 3), 0.5, np.float32)
    image[10:50, 10:14] = image[46:50, 10:50] = (1.0, 0.0, 0.0)
    (found,) = detect(image)
    assert (found.shape, found.colour) == ("blob", "red")


def test_batches_are_refused():
    with pytest.raises(ValueError, match=r"one RGB image .* pass images one by one"):
        detect(np.zeros((2, 64, 64, 3)))
