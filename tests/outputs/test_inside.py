"""Test that records come back from every kind of file, and that copies without them show the same picture."""

import json
import os
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusers_ext.outputs import inside
from diffusers_ext.outputs.parameters import parameters
from diffusers_ext.outputs.record import CHUNK, beside, comment, has_record, read, write_image
from diffusers_ext.outputs.video import write_video

RECORD = {
    "prompt": 'ein Kreis, "日本" 🙂 \x00 & <b>]]> \\ = ; # \n\t',
    "call": {"num_inference_steps": 15, "negative_prompt": "übel </dx:record>"},
    "seed": 2**63 - 1,
    "size": [60, 64],
}
KINDS = [".png", ".jpg", ".webp"]
BIG = RECORD | {"prompt": RECORD["prompt"] + "é<" * 150_000}


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 60, 3), dtype=np.uint8))


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 30, 3), dtype=np.uint8)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("record", [RECORD, BIG], ids=["small", "big"])
def test_records_come_back_and_can_be_removed(tmp_path, image, kind, record):
    path, copy = tmp_path / f"a{kind}", tmp_path / f"b{kind}"
    write_image(path, image, record)
    assert read(path) == record and has_record(path)
    copy.write_bytes(inside.without(path))
    assert inside.texts(copy) == (None, None) and not has_record(copy)
    assert b"Kreis" not in copy.read_bytes() and len(copy.read_bytes()) < 14_000
    assert np.array_equal(pixels(copy), pixels(path))
    if kind != ".jpg":
        assert np.array_equal(pixels(path), np.asarray(image)), "no loss"
    else:
        assert np.abs(pixels(path).astype(int) - np.asarray(image)).mean() < 6


@pytest.mark.parametrize("kind", KINDS[1:])
def test_viewers_find_the_block_where_they_look_for_it(tmp_path, image, kind):
    path = tmp_path / f"a{kind}"
    write_image(path, image, RECORD)
    with Image.open(path) as opened:
        raw = opened.getexif().get_ifd(0x8769)[0x9286]
    assert raw[:8] == b"UNICODE\0" and raw[8:].decode("utf-16-be") == parameters(RECORD)
    assert inside.texts(path)[1] == parameters(RECORD)


def test_long_packets_of_a_jpeg_are_in_pieces_as_the_standard_says(tmp_path, image):
    path = tmp_path / "a.jpg"
    write_image(path, image, BIG)
    with Image.open(path) as opened:
        pieces = [
            data for name, data in opened.applist if data.startswith(b"http://ns.adobe.com/xmp/extension/\0")
        ]
        guid = opened.info["xmp"].decode().partition('HasExtendedXMP="')[2][:32]
    heads = [(data[35:67].decode(), int.from_bytes(data[67:71], "big")) for data in pieces]
    assert len(pieces) > 10 and {name for name, _ in heads} == {guid}
    assert {size for _, size in heads} == {sum(len(data) - 75 for data in pieces)}


@pytest.mark.parametrize("record", [RECORD, BIG], ids=["small", "big"])
def test_clips_hold_a_record_and_their_frames_stay(tmp_path, frames, record):
    path, copy, plain = (tmp_path / f"{name}.mp4" for name in "abc")
    write_video(path, frames, 8, comment(record))
    write_video(plain, frames, 8)
    assert read(path) == record
    copy.write_bytes(inside.without(path))
    assert inside.texts(copy) == (None, None) and b"Kreis" not in copy.read_bytes()
    import imageio_ffmpeg

    def decoded(clip):
        reader = imageio_ffmpeg.read_frames(str(clip), pix_fmt="rgb24")
        facts = next(reader)
        return facts["size"], facts["fps"], [*reader]

    assert decoded(path) == decoded(copy) == decoded(plain)
    again = tmp_path / "again.mp4"
    write_video(again, frames, 8, comment(record))
    assert again.read_bytes() == path.read_bytes(), "no clock in it"


def test_a_gif_holds_none(tmp_path, frames):
    write_video(tmp_path / "a.gif", frames, 8, comment(RECORD))
    assert inside.texts(tmp_path / "a.gif") == (None, None)
    with pytest.raises(ValueError, match="is a GIF, which holds no record"):
        inside.without(tmp_path / "a.gif")


def test_without_ffmpeg_a_clip_is_one_sentence(tmp_path, frames, monkeypatch):
    write_video(tmp_path / "a.mp4", frames, 8)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match=r"an .mp4 needs ffmpeg.*run pip install 'diffusers-ext\[video\]'"):
        read(tmp_path / "a.mp4")


def test_a_playlist_under_the_name_of_a_clip_opens_nothing_else(tmp_path, frames):
    secret = tmp_path / "secret.mp4"
    write_video(secret, frames, 8, comment(RECORD))
    fake = tmp_path / "a.mp4"
    fake.write_bytes(b"\0\0\0\x08ftyp\n#EXTM3U\n#EXTINF:1,\n" + os.fsencode(secret))
    with pytest.raises(ValueError, match="ffmpeg cannot read it"):
        read(fake)
    fake.write_text(f"ffconcat version 1.0\nfile {secret}")
    with pytest.raises(ValueError, match="is no PNG, JPEG, WebP, GIF or mp4 file"):
        read(fake)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_breaks_off_is_said_to_be_damaged(tmp_path, image, kind):
    whole, path = tmp_path / f"whole{kind}", tmp_path / f"a{kind}"
    write_image(whole, image, RECORD)
    data = whole.read_bytes()
    for size in [0, 1, 7, 20, 40, 100, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:size])
        assert not has_record(path)
        try:
            inside.texts(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert kind == ".jpg" and size > 1000, "its texts are before the picture"


@pytest.mark.parametrize("kind", KINDS)
def test_no_flipped_byte_is_a_trace(tmp_path, image, kind):
    path = tmp_path / f"a{kind}"
    write_image(path, image, RECORD)
    data = path.read_bytes()
    rng = np.random.default_rng(1)
    for place in rng.integers(0, min(len(data), 1500), 150):
        path.write_bytes(data[:place] + bytes([data[place] ^ int(rng.integers(1, 256))]) + data[place + 1 :])
        for ask in (read, inside.without):
            try:
                ask(path)
            except ValueError as error:
                assert "\n" not in str(error)


def test_other_files_and_empty_ones(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_text("hello, this is text")
    with pytest.raises(ValueError, match="is empty, so the run that wrote it broke off"):
        inside.texts(tmp_path / "a.png")
    with pytest.raises(ValueError, match="is no PNG, JPEG, WebP, GIF or mp4 file, whatever its name is"):
        inside.texts(tmp_path / "b.png")
    with pytest.raises(FileNotFoundError):
        inside.texts(tmp_path / "none.png")


def test_the_content_counts_not_the_name(tmp_path, image):
    write_image(tmp_path / "a.png", image, RECORD)
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert read(tmp_path / "a.jpg") == RECORD


def test_a_text_that_unpacks_to_gigabytes_is_cut(tmp_path, image, monkeypatch):
    monkeypatch.setattr("diffusers_ext.outputs.tags.png.MOST", 10_000)
    info = PngInfo()
    info.add_itxt(CHUNK, json.dumps({"prompt": "x" * 10**6}), zip=True)
    info.add_text("parameters", "a cat", zip=True)
    image.save(tmp_path / "a.png", pnginfo=info)
    record, block = inside.texts(tmp_path / "a.png")
    assert len(record) == 10_000 and block == "a cat"
    with pytest.raises(ValueError, match="a diffusers_ext record that is no JSON object; it was changed"):
        read(tmp_path / "a.png")


def test_records_of_large_pictures_are_read_without_their_pixels(tmp_path):
    info = PngInfo()
    info.add_itxt(CHUNK, json.dumps(RECORD))
    Image.new("RGB", (1, 1)).save(tmp_path / "a.png", pnginfo=info)
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = (10**5).to_bytes(4, "big") * 2  # 10 gigapixels, which Pillow refuses to open
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "a.png")
    assert read(tmp_path / "a.png") == RECORD


def test_other_programs_write_the_comment_too(tmp_path, image):
    exif = Image.Exif()
    for raw, said in (
        (b"UNICODE\0" + "a cat\nSteps: 1".encode("utf-16-le"), "a cat\nSteps: 1"),
        (b"ASCII\0\0\0a cat", "a cat"),
        (b"a cat", "a cat"),
    ):
        exif[0x8769] = {0x9286: raw}
        image.save(tmp_path / "a.jpg", exif=exif)
        assert inside.texts(tmp_path / "a.jpg") == (None, said)


def test_a_jpeg_keeps_its_colours_when_texts_are_removed(tmp_path, image):
    image.convert("CMYK").save(tmp_path / "a.jpg", comment=b"secret", icc_profile=b"x" * 70_000)
    (tmp_path / "b.jpg").write_bytes(inside.without(tmp_path / "a.jpg"))
    assert b"secret" not in (tmp_path / "b.jpg").read_bytes()
    with Image.open(tmp_path / "a.jpg") as before, Image.open(tmp_path / "b.jpg") as after:
        assert before.info["icc_profile"] == after.info["icc_profile"]
        assert before.mode == after.mode == "CMYK" and before.tobytes() == after.tobytes()


def test_the_json_beside(tmp_path):
    for content, found in (
        ('{"prompt": "a"}', {"prompt": "a"}),
        ("[1]", None),
        ("{", None),
        ("[" * 10**5, None),
    ):
        (tmp_path / "a.json").write_text(content)
        assert beside(tmp_path / "a.png") == found
    assert beside(tmp_path / "b.png") is None


def test_pictures_have_known_endings(tmp_path, image):
    with pytest.raises(ValueError, match=r"pictures are written as .png, .jpg, .jpeg, .webp, got 'a.bmp'"):
        write_image(tmp_path / "a.bmp", image)
