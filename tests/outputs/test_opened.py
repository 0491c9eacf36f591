"""Test that pictures of any kind are opened upright in RGB, and that the others are one sentence."""

import zlib

import numpy as np
import pytest
from PIL import Image

from diffusers_ext.outputs import opened as module
from diffusers_ext.outputs.opened import opened

RED_AND_BLUE = np.zeros((4, 6, 3), np.uint8)
RED_AND_BLUE[:, :3, 0] = RED_AND_BLUE[:, 3:, 2] = 255


@pytest.mark.parametrize("mode", ["RGB", "P", "CMYK", "L", "I;16", "1"])
def test_modes(tmp_path, mode):
    image = Image.fromarray(RED_AND_BLUE)
    kind = "tiff" if mode == "CMYK" else "png"
    (Image.new(mode, (6, 4)) if mode == "I;16" else image.convert(mode)).save(tmp_path / f"a.{kind}")
    found = opened(tmp_path / f"a.{kind}")
    assert found.mode == "RGB" and found.size == (6, 4)
    if mode in ("RGB", "P", "CMYK"):
        assert np.array_equal(np.asarray(found), RED_AND_BLUE)


def test_transparency_becomes_white(tmp_path):
    image = np.dstack([RED_AND_BLUE, np.full((4, 6), 255, np.uint8)])
    image[0, 0, 3] = 0
    Image.fromarray(image).save(tmp_path / "a.png")
    expected = RED_AND_BLUE.copy()
    expected[0, 0] = 255
    assert np.array_equal(np.asarray(opened(tmp_path / "a.png")), expected)


def test_pictures_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(RED_AND_BLUE).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(opened(tmp_path / "a.png")), np.rot90(RED_AND_BLUE, -1))


def test_of_an_animation_the_first_frame(tmp_path):
    frames = [Image.fromarray(RED_AND_BLUE), Image.fromarray(RED_AND_BLUE[:, ::-1])]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.array_equal(np.asarray(opened(tmp_path / "a.gif")), RED_AND_BLUE)


def test_what_is_no_picture(tmp_path):
    Image.fromarray(RED_AND_BLUE).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    for name, content, said in (
        ("empty.png", b"", "is empty"),
        ("text.png", b"hello", "is no picture, or is damaged"),
        ("half.png", data[: len(data) // 2], "is no picture, or is damaged"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}' {said}; make or copy it again"):
            opened(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        opened(tmp_path / "none.png")


@pytest.mark.parametrize("side", [8000, 10**5])
def test_too_many_pixels_are_not_decoded(tmp_path, side):
    Image.new("RGB", (1, 1)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=f"more than {module.MOST // 10**6} million pixels"):
        opened(tmp_path / "a.png")
