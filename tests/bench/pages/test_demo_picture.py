import numpy as np
import pytest
from PIL import Image

from bench.pages import demo_picture
from diffusers_ext.commands.demo import COLUMNS, PROMPTS
from diffusers_ext.evaluate.report.wide_grid import LABEL, MARGIN, PITCH


def test_the_picture_of_readme_is_the_demo():
    with Image.open(demo_picture.OUT) as image:
        assert image.width == LABEL + PITCH * len(PROMPTS) + MARGIN
        assert image.height > 130 * len(COLUMNS.split(","))
    assert demo_picture.OUT.stat().st_size <= demo_picture.MOST


def test_values_stay_within_three(monkeypatch, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "full.png")
    (tmp_path / "small.png").write_bytes(demo_picture.reduced(tmp_path / "full.png"))
    found = np.asarray(Image.open(tmp_path / "small.png")).astype(int)
    assert np.abs(found - pixels).max() <= 3 and (found[pixels == 255] == 255).all()
    assert (tmp_path / "small.png").stat().st_size < (tmp_path / "full.png").stat().st_size
    monkeypatch.setattr(demo_picture, "MOST", 100)
    with pytest.raises(ValueError, match="at most 100 bytes, got"):
        demo_picture.reduced(tmp_path / "full.png")
