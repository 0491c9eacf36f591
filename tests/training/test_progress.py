import numpy as np
import pytest
from PIL import Image

import diffusers_ext as dx
from diffusers_ext.training.progress import FRAME, RIGHT, WRONG, Answer, draw, score
from diffusers_ext.zoo.world.detect import verify
from diffusers_ext.zoo.world.suites import suite

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_the_share_is_that_of_the_pictures_on_the_sheet(tmp_path):
    """Few steps of the shipped model give right and wrong pictures; frames show which."""
    pipe = dx.load("shapes-sd3")
    pipe.set_progress_bar_config(disable=True)
    sheet = tmp_path / "made" / "sheet.png"
    found = score(pipe, "shapes-sd3", 6, sheet, tasks=("single_object", "counting"), num_inference_steps=6)
    pixels, edge = np.asarray(Image.open(sheet)), 64 + 2 * FRAME + 2
    assert pixels.shape == (2 * edge, 6 * edge, 3)
    for y, task in enumerate(found):
        specs = suite("tuning", task, 6, 0)
        right = []
        for x, spec in enumerate(specs):
            tile = pixels[y * edge : (y + 1) * edge, x * edge : (x + 1) * edge]
            inside = tile[1 + FRAME : -1 - FRAME, 1 + FRAME : -1 - FRAME]
            right.append(verify(inside, spec).correct)
            assert tuple(tile[1, 1]) == (RIGHT if right[-1] else WRONG)
        assert found[task] == pytest.approx(np.mean(right))
    assert 0 < sum(found.values()) < 2


def test_clips_show_first_middle_and_last_frame():
    movie = np.stack([np.full((4, 4, 3), t / 10) for t in range(9)])
    pixels = np.asarray(draw({"motion": [Answer(movie, True)]}))
    column = pixels[1 + FRAME : -1 - FRAME, pixels.shape[1] // 2, 0]
    assert list(column[[0, 4, 8]]) == [0, 102, 204]


def test_rows_of_different_lengths_share_a_sheet():
    picture = np.zeros((4, 4, 3))
    pixels = np.asarray(draw({"a": [Answer(picture, True)] * 3, "b": [Answer(picture, False)]}))
    edge = 4 + 2 * FRAME + 2
    assert pixels.shape == (2 * edge, 3 * edge, 3) and (pixels[edge:, edge:] == 255).all()
