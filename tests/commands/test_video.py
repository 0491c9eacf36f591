"""Test clips on the command line, with a tiny Wan of random weights."""

import json

import pytest
from PIL import Image

from diffusers_ext.outputs.inside import texts
from diffusers_ext.zoo.world.suites import VIDEO_TASKS

PROMPT = "a red circle moves left"


def sparse(name, **settings):
    return ["--method", name, *(w for k, v in settings.items() for w in ("--set", f"{k}={v}"))]


@pytest.mark.parametrize("method", [[], sparse("radial", dense_steps=0), sparse("gna", window="[3,3,3]")])
def test_generate_writes_the_clip_that_was_asked_for(cli, saved_clip_model, tmp_path, method):
    out = tmp_path / "clips" / "left.mp4"
    code, said, err = cli("generate", PROMPT, "-m", saved_clip_model, *method, "--fps", 6, "--out", out)
    assert (code, err) == (0, "") and str(out) in said
    assert sorted(p.name for p in out.parent.iterdir()) == ["left.json", "left.mp4"]
    record = json.loads(out.with_suffix(".json").read_text())
    assert (record["size"], record["frames"], record["fps"]) == ([32, 32], 9, 6.0)
    assert record["verdict"]["correct"] is False and "found" in record["verdict"]["reason"]
    assert [m["name"] for m in record["methods"]] == method[1:2] and bool(record["report"]) == bool(method)
    import imageio_ffmpeg

    facts = next(imageio_ffmpeg.read_frames(str(out)))
    assert (facts["size"], facts["fps"]) == ((32, 32), 6.0)


def test_a_clip_is_made_again_if_its_record_belongs_inside_and_is_not(cli, saved_clip_model, tmp_path):
    words = ["generate", PROMPT, "-m", saved_clip_model, "--seed", 1, "--out", tmp_path / "a.mp4"]
    for embed in ("--no-embed", "--embed"):
        assert "finished before" not in cli(*words, embed)[1]
        assert (texts(tmp_path / "a.mp4")[0] is not None) == (embed == "--embed")
        assert "finished before" in cli(*words, embed)[1]


def test_gif_and_folders(cli, saved_clip_model, tmp_path):
    base = ["generate", PROMPT, "-m", saved_clip_model, "--num-frames", 5]
    assert cli(*base, "--out", tmp_path / "x.gif")[0] == 0
    with Image.open(tmp_path / "x.gif") as image:
        assert image.size == (32, 32)
    assert json.loads((tmp_path / "x.json").read_text())["frames"] == 5
    assert cli(*base, "--out", tmp_path / "folder", "--num-images", 2)[0] == 0
    names = sorted(p.name for p in (tmp_path / "folder").glob("*.mp4"))
    assert len(names) == 2 and all(n.startswith("a-red-circle-moves-left-") for n in names)


def test_what_does_not_fit_is_one_line(refused, saved_clip_model, saved_model, tmp_path):
    base = ["generate", PROMPT, "-m", saved_clip_model, "--out", tmp_path / "x.mp4"]
    unfit = refused(*base, "--method", "clear")
    assert "radial" in unfit.lower() and "gna" in unfit.lower()
    assert "1 more than a multiple of 2 up to 127, got 8; the nearest are 7 and 9" in refused(
        *base, "--num-frames", 8
    )
    assert "multiple of 16 px up to 256, got 40" in refused(*base, "--width", 40)
    assert "name a folder instead" in refused(*base, "--num-images", 2)
    assert "--fps must lie between" in refused(*base, "--fps", 0)
    assert "makes videos, which --out writes as .mp4, .gif" in refused(*base[:-1], tmp_path / "x.png")
    still = ["generate", "a red circle", "-m", saved_model, "--steps", 1, "--out"]
    images = ".png, .jpg, .jpeg, .webp"
    assert f"makes images, which --out writes as {images}, got 'x.mp4'" in refused(*still, tmp_path / "x.mp4")
    assert "which have no --fps" in refused(*still, tmp_path, "--fps", 8)
    assert "takes no num_frames" in refused(*still, tmp_path, "--num-frames", 9)
    for name in ("x.avi", "x.BMP"):
        assert f"--out writes files as {images}, .mp4, .gif, got '{tmp_path}/{name}'" in refused(
            *still, tmp_path / name
        )
    assert not list(tmp_path.iterdir())


def test_an_image_model_takes_the_name_of_a_png(cli, saved_model, tmp_path):
    words = ["generate", "a red circle", "-m", saved_model, "--steps", 1, "--out", tmp_path / "mine.png"]
    assert cli(*words)[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.json", "mine.png"]


def test_eval_measures_clips_and_resumes(cli, saved_clip_model, tmp_path):
    words = ["eval", "-m", saved_clip_model, "--steps", 1, "--out", tmp_path, "--n"]
    assert cli(*words, 1)[0] == 0
    code, _, err = cli(*words, 2, *sparse("radial", dense_steps=0, backend="reference"))
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "results.json").read_text())
    assert tuple(found["tasks"]) == VIDEO_TASKS and found["overall"]["n"] == 8
    assert all(set(t) == {"accuracy", "low", "high", "n"} for t in found["tasks"].values())
    assert found["paired"]["overall"]["n"] == 8 and found["call"]["num_frames"] == 9
    assert len((tmp_path / "items.jsonl").read_text().splitlines()) == 1 + 8 + 8
    pictures = list(tmp_path.glob("pictures/*/*.png"))
    assert len(pictures) == 16 and Image.open(pictures[0]).size == (98, 98)
    assert "motion" in (tmp_path / "gallery.html").read_text()


def test_compare_shows_the_frames_of_clips(cli, saved_clip_model, tmp_path):
    words = ["compare", PROMPT, "-m", saved_clip_model, "--methods", "plain,radial", "--out", tmp_path]
    code, _, err = cli(*words, "--set", "dense_steps=0", "--set", "backend=reference")
    assert (code, err) == (0, "")
    assert (tmp_path / "report.html").exists() and Image.open(tmp_path / "compare.png").width > 300
