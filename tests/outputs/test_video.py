import sys

import numpy as np
import pytest
from PIL import Image

from diffusers_ext.outputs.video import check, write_video


def movie(height, width, frames=9):
    """Draw a bright bar that moves over a gradient."""
    ramp = np.linspace(40, 200, width, dtype=np.uint8)
    clip = np.broadcast_to(ramp[None, None, :, None], (frames, height, width, 3)).copy()
    for i in range(frames):
        clip[i, :, i * width // frames : (i + 2) * width // frames] = (230, 60, 60)
    return clip


def decoded(path):
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path), pix_fmt="rgb24")
    facts = next(reader)
    width, height = facts["size"]
    frames = [np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in reader]
    return np.stack(frames), facts["fps"]


@pytest.mark.parametrize("height, width", [(32, 32), (40, 24), (17, 31)])
def test_mp4_keeps_size_pace_and_pictures(tmp_path, height, width):
    clip = movie(height, width)
    write_video(tmp_path / "x.mp4", clip, 12)
    frames, fps = decoded(tmp_path / "x.mp4")
    assert frames.shape == clip.shape and fps == 12
    assert np.abs(frames.astype(int) - clip).mean() < 8
    assert [p.name for p in tmp_path.iterdir()] == ["x.mp4"]


@pytest.mark.parametrize("fps", [8, 24, 30])
def test_gif_keeps_size_pace_and_frames(tmp_path, fps):
    clip = movie(17, 31)
    write_video(tmp_path / "x.gif", clip, fps)
    with Image.open(tmp_path / "x.gif") as image:
        assert image.size == (31, 17) and image.n_frames == len(clip) and image.info["loop"] == 0
        lasts = 0
        for i in range(image.n_frames):
            image.seek(i)
            lasts += image.info["duration"]
            assert np.abs(np.asarray(image.convert("RGB")).astype(int) - clip[i]).mean() < 4
    assert lasts == pytest.approx(1000 * len(clip) / fps, abs=5)


@pytest.mark.parametrize(
    "suffix, fps, match",
    [
        (".avi", 8, "written as .mp4 or .gif, got '.avi'"),
        (".mp4", 0, "between 1 and 240"),
        (".mp4", float("nan"), "between 1 and 240"),
        (".gif", 60, "at most 50 frames a second, got 60; write an .mp4"),
    ],
)
def test_what_cannot_be_written_is_refused(suffix, fps, match):
    with pytest.raises(ValueError, match=match):
        check(suffix, fps)


def test_without_ffmpeg_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    check(".gif", 8)
    with pytest.raises(ValueError, match=r"diffusers-ext\[video\]"):
        check(".mp4", 8)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    from diffusers_ext.outputs import video

    monkeypatch.setattr(video, "mp4", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_video(tmp_path / "x.mp4", movie(16, 16), 8)
    assert not list(tmp_path.iterdir())
