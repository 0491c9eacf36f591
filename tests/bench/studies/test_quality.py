"""Test similarity by hand, and the sweep on tiny models of an image and a video family."""

import json

import numpy as np
import pytest

import diffusers_ext as dx
from bench.studies.quality import (
    call_of,
    ladder,
    measured,
    overall_density,
    pairs,
    psnr,
    ssim,
    sweep,
    without,
)
from bench.studies.quality_chart import chart, ran
from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.compare import run
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.sampling.items import Item
from tests.tiny_models import unet, wan

ITEMS = [Item("a red circle", 1), Item("a blue square", 2)]
CALL = {"num_inference_steps": 2, "guidance_scale": 4.0, "max_sequence_length": 16}


def test_psnr_is_that_of_the_mean_square():
    a = np.zeros((2, 4, 4, 3))
    assert psnr(a, a + 0.1) == pytest.approx(20)
    assert psnr(a, a) is None


def test_ssim_of_flat_pictures_is_that_of_their_means():
    a, b = np.full((1, 16, 16, 3), 0.2), np.full((1, 16, 16, 3), 0.6)
    assert ssim(a, b) == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4))


def test_ssim_falls_with_noise_and_knows_negatives():
    dice = np.random.default_rng(0)
    a = dice.random((1, 32, 32, 3))
    slight, strong = (ssim(a, a + spread * dice.normal(size=a.shape)) for spread in (0.05, 0.5))
    assert pytest.approx(ssim(a, a)) == 1 and 1 > slight > strong > 0 > ssim(a, 1 - a)


def test_the_ladder_has_what_fits_the_grid():
    assert {m.name for m in ladder((1, 8, 8))} == {"gna", "clear", "rectified"}
    assert {m.name for m in ladder((5, 4, 4))} == {"gna", "radial", "rectified"}


def test_sweep_on_an_image_model(pipe):
    found = {"model": "tiny", "suite": "x", "n": 1, **sweep(pipe, ITEMS, CALL, 2)}
    rows = ran(found)
    assert len(rows) == len(found["rows"]) == 2 * len(ladder(tuple(found["grid"])))
    assert all(0 < r["density"] <= r["average_density"] + 1e-9 and r["ssim"] <= 1 for r in rows)
    assert any(r["density"] < 0.6 and r["ssim"] < 1 for r in rows), "sparse attention was at work"
    panels = chart(found).axes
    assert len(panels) == 2 and panels[0].lines


def test_rows_of_one_method_are_made_again_beside_the_others(pipe, tmp_path, monkeypatch):
    facts, file = {"model": "tiny", "n": 1}, tmp_path / "quality.json"
    monkeypatch.setattr(
        "bench.studies.quality.ladder", lambda grid: [dx.CLEAR(2), dx.RectifiedSparse(block=16)]
    )
    whole = {**facts, **sweep(pipe, ITEMS, CALL, 2)}
    file.write_text(json.dumps(whole))
    before = without("rectified", file, facts)
    assert [row["method"] for row in before["rows"]] == ["clear", "clear"]
    before["rows"][0]["density"] = 0.125  # would be another if it were made again
    again = sweep(pipe, ITEMS, CALL, 2, before)["rows"]
    assert [row["density"] for row in again] == [0.125] + [row["density"] for row in whole["rows"][1:]]
    with pytest.raises(ValueError, match="made with another n; leave --method out"):
        without("rectified", file, facts | {"n": 2})
    with pytest.raises(ValueError, match="no rows of gna; it has those of clear, rectified"):
        without("gna", file, facts)
    with pytest.raises(ValueError, match="dense pictures are judged otherwise"):
        sweep(pipe, ITEMS, CALL, 2, before | {"dense": {}})


def test_what_hides_nothing_equals_the_dense_pictures(pipe):
    dense, weights = run(pipe, [Variant("dense")], ITEMS, CALL, 2), pairs(pipe, ITEMS[0], CALL)
    row = measured(pipe, dx.CLEAR(radius=50, backend="reference"), ITEMS, CALL, 2, dense, weights)
    assert row["psnr_db"] is None and row["density"] == 1 and row["ssim"] == pytest.approx(1)


def test_a_method_that_the_model_refuses_says_why(pipe):
    dense, weights = run(pipe, [Variant("dense")], ITEMS, CALL, 2), pairs(pipe, ITEMS[0], CALL)
    row = measured(pipe, dx.Radial(backend="reference"), ITEMS, CALL, 2, dense, weights)
    assert "needs two or more" in row["refused"]


def test_modules_count_by_their_pairs():
    """A U-Net has attention on 64 and on 16 tokens, with 2 heads each.

    A window of 4 sees a quarter of the pairs of the large grid and all pairs of the small one.
    """
    grown = dict(down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2)
    pipe = unet.pipeline(attention_head_dim=2, **grown)
    call = {"num_inference_steps": 1}
    weights = pairs(pipe, ITEMS[0], call)
    assert sorted(weights.values()) == [2 * 16**2] * 4 + [2 * 64**2] * 3
    made = run(pipe, [Variant("gna", (dx.GNA((1, 4, 4), backend="reference", dense_steps=0),))], ITEMS, call)
    sites = made.reports[0]["sites"]
    assert sorted(round(s["density"], 6) for s in sites) == [0.25] * 3 + [1] * 4
    large, small = 3 * 64**2, 4 * 16**2
    want = (0.25 * large + small) / (large + small)
    assert overall_density(sites, weights) == pytest.approx(want)


def test_a_folder_without_a_card_takes_the_steps_of_its_pipeline(pipe, saved_model):
    assert call_of(Checkpoint.resolve(saved_model), pipe) == {"num_inference_steps": 28}
    assert call_of(Checkpoint.resolve("shapes-sd3"), pipe)["num_inference_steps"] == 15


def test_sweep_on_a_video_model():
    pipe = wan.pipeline()
    call = {"num_inference_steps": 1, "height": 32, "width": 32, "num_frames": 5, "max_sequence_length": 16}
    found = sweep(pipe, ITEMS[:1], call, 1)
    assert {r["method"] for r in found["rows"] if "refused" not in r} == {"gna", "radial", "rectified"}
