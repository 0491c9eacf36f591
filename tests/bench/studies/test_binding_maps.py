"""Test what looks at the maps of A-STAR: it moves nothing, and it knows when a map is on an object."""

import numpy as np
import torch

import diffusers_ext as dx
from bench.studies.binding_maps import looking, on_object, to_markdown


def test_looking_moves_nothing():
    pipe = dx.load("shapes-sd")
    prompts = ["a red circle and a blue square", "a green star and a red cross"]
    call = dict(num_inference_steps=3, output_type="latent")

    def latents():
        return pipe(prompts, generator=[torch.Generator().manual_seed(i) for i in (0, 1)], **call).images

    plain, notes = latents(), []
    for halvings, side in ((0, 16), (1, 8)):
        with dx.apply(pipe, looking(notes, halvings=halvings)):
            assert torch.equal(latents(), plain)
        assert [[tuple(maps.shape) for maps in step] for step in notes] == [[(2, side, side)] * 2] * 3
        notes.clear()


def test_a_peak_is_on_the_object_that_covers_its_place():
    mask = np.zeros((64, 64), bool)
    mask[20:40, 8:24] = True  # rows 5 to 9 and columns 2 to 5 of 16
    plane = torch.zeros(16, 16)
    plane[6, 3] = 1
    assert on_object(plane, mask) and not on_object(plane.T, mask)
    coarse = torch.zeros(8, 8)
    coarse[2, 1] = 1  # half of rows 16 to 23, all of columns 8 to 15
    assert on_object(coarse, mask)
    coarse[1, 1] = 2
    assert not on_object(coarse, mask)


def test_the_table_has_a_row_for_each_kind_of_words():
    share = {"accuracy": 0.75, "low": 0.6, "high": 0.9, "n": 40}
    found = {"model": "m", "suite": "tuning", "n": 24, "covered": 0.05}
    text = to_markdown(found | {"shares": {"16 x 16": {"noun": {"1": share, "8": share}}}})
    assert "| maps | words | step 1 | step 8 |" in text and "An object covers 5 % of its picture." in text
    assert "| 16 x 16 | noun | 75 % (60 to 90) | 75 % (60 to 90) |" in text
