import numpy as np
import pytest

from diffusers_ext.evaluate.pictures import Pictures
from diffusers_ext.evaluate.score import judge, summarise
from diffusers_ext.sampling.clip import Clip, still
from diffusers_ext.sampling.failures import BrokenImageError
from diffusers_ext.sampling.generate import to_image
from diffusers_ext.sampling.items import Item
from diffusers_ext.zoo.world.clips import draw_clip
from diffusers_ext.zoo.world.motion import parse

CAPTION = "a red circle moves left"


def clip(caption=CAPTION, seed=0):
    return Clip(draw_clip(parse(caption), seed))


def test_clips_are_judged_by_their_own_world():
    right = judge(clip(), CAPTION, 3)
    assert (right.correct, right.task, right.seed) == (True, "motion", 3)
    wrong = judge(clip(), "a red circle moves right", 3)
    assert wrong.correct is False and "moves left" in wrong.reason
    swapped = judge(clip("a red circle and a blue square"), "a blue circle and a red square", 0)
    assert swapped.swapped and swapped.task == "two_object"
    assert set(summarise([right, wrong])["tasks"]) == {"motion"}


@pytest.mark.parametrize(
    "frames, prompt, match",
    [
        (draw_clip(parse(CAPTION), 0), "a cat", "not in the grammar of clips"),
        (np.zeros((9, 16, 16, 3), np.uint8), CAPTION, "not a clip of 32x32"),
    ],
)
def test_no_ground_truth_is_no_verdict(frames, prompt, match):
    judged = judge(Clip(frames), prompt, 0)
    assert judged.correct is None and match in judged.reason


def test_a_sheet_shows_every_frame_in_order():
    own = clip()
    sheet = np.asarray(own.sheet())
    assert sheet.shape == (3 * 33 - 1, 3 * 33 - 1, 3) and own.size == (32, 32)
    for i, frame in enumerate(own.frames):
        y, x = 33 * (i // 3), 33 * (i % 3)
        assert np.array_equal(sheet[y : y + 32, x : x + 32], frame)
    assert Clip(own.frames[:5]).sheet().size == (98, 65)


def test_pictures_keep_the_sheet(tmp_path):
    kept, item = Pictures(tmp_path), Item(CAPTION, 3)
    kept.add("[]", item, clip())
    from PIL import Image

    assert Image.open(kept.path("[]", item)).size == still(clip()).size


def test_arrays_of_frames_become_clips_and_broken_ones_are_refused():
    array = clip().frames / 255
    assert np.array_equal(to_image(array, Item(CAPTION, 0)).frames, clip().frames)
    array[4, 0, 0, 0] = np.nan
    with pytest.raises(BrokenImageError, match="NaN"):
        to_image(array, Item(CAPTION, 0))
