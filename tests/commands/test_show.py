"""Test `show`: what it prints, the same bytes in a new process, and copies without a record."""

import json
import shutil

import numpy as np
import pytest
from diffusers import DiffusionPipeline
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusers_ext.cli import main
from diffusers_ext.outputs.record import read, write_image
from tests.processes import command

from .test_cli import files

TURBO = ["-m", "shapes-sd-turbo", "--seed", 7]


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A picture that was made with a method."""
    return made(tmp_path_factory.mktemp("made"), "generate", "a red circle", *TURBO, "--method", "softpag")


def made(folder, *words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in (*words, "--out", folder)])
    assert not stop.value.code
    (path,) = (path for path in folder.glob("*.png") if path.name != "candidates.png")
    return path


def test_a_new_process_makes_the_same_bytes(picture, tmp_path):
    chain = ["--method", "softpag", "--sampler", "best-of-2+zero-order", "--set", "rounds=1"]
    found = made(tmp_path / "search", "search", "a red circle", *TURBO, *chain)
    copies = {picture: tmp_path / "a.png", found: tmp_path / "b.png"}
    for path, out in copies.items():
        process = command("show", path, "--again", "--out", out)
        said, err = process.communicate()
        assert (process.returncode, err) == (0, "")
        assert out.read_bytes() == path.read_bytes() and f"{out}  the same bytes as {path.name}\n" in said


@pytest.mark.slow
def test_a_search_that_starts_from_a_network(cli, tmp_path):
    words = [
        "search",
        "a red circle",
        "-m",
        "shapes-sd",
        "--steps",
        2,
        "--seed",
        7,
        "--sampler",
        "npnet+best-of-2",
    ]
    assert cli(*words, "--set", "npnet.model=shapes-sd-npnet", "--out", tmp_path)[0] == 0
    (path,) = tmp_path.glob("a-red*.png")
    code, said, err = cli("show", path, "--again")
    assert (code, err) == (0, "") and "the same bytes" in said


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_every_kind_of_picture_and_every_setting(cli, saved_model, tmp_path, name):
    words = ["--guidance-scale", 3.5, "--negative", "grün & <b>", "--height", 32, "--width", 48, "--steps", 2]
    words += ["--method", "clear", "--set", "radius=3", "--set", "backend=reference", "--dtype", "bfloat16"]
    path = tmp_path / name
    assert cli("generate", "ein Kreis ☂", "-m", saved_model, *words, "--seed", 5, "--out", path)[0] == 0
    code, said, err = cli("show", path, "--again", "--out", tmp_path / "out")
    assert (code, err) == (0, "") and f"the same bytes as {name}" in said
    assert files(tmp_path / "out") == [name], "no JSON file beside it"
    assert (tmp_path / "out" / name).read_bytes() == path.read_bytes()


def test_a_clip(cli, refused, saved_clip_model, tmp_path):
    path = tmp_path / "a.mp4"
    words = ["-m", saved_clip_model, "--method", "radial", "--set", "dense_steps=0", "--fps", 6, "--seed", 3]
    assert cli("generate", "a red circle moves left", *words, "--out", path)[0] == 0
    code, said, err = cli("show", path, "--again")
    assert (code, err) == (0, "") and "the same bytes as a.mp4" in said
    assert cli("show", path, "--strip")[0] == 0
    beside = path.with_name("a.json")
    plain = tmp_path / "b.mp4"
    cli("show", path, "--strip", "--out", plain)
    plain.with_suffix(".json").write_text(json.dumps(changed(json.loads(beside.read_text()), fps=...)))
    assert "the record of b.mp4 has no fps, which a clip needs" in refused("show", plain, "--again")
    beside.unlink()
    assert "fps" in cli("show", path)[1] and "holds no record" in refused("show", tmp_path / "a-stripped.mp4")


def test_without_a_record_inside_the_json_beside_is_used(cli, tmp_path):
    path = tmp_path / "a.png"
    assert cli("generate", "a red circle", *TURBO, "--no-embed", "--out", path)[0] == 0
    code, said, _ = cli("show", path, "--again")
    assert code == 0 and "the same bytes as a.png" in said and Image.open(tmp_path / "a-again.png").text == {}
    assert "verdict" in cli("show", path)[1]


def test_what_is_printed(cli, picture):
    code, said, err = cli("show", picture)
    assert (code, err) == (0, "")
    found = dict(line.split("  ", 1) for line in said.splitlines())
    found = {key: value.strip() for key, value in found.items()}
    assert found["prompt"] == "a red circle" and found["seed"] == "7" and found["size"] == "64 x 64"
    assert found["call"] == "height 64, width 64, num_inference_steps 1, guidance_scale 0.0"
    assert found["softpag"].startswith('heads {"mid_block.') and "scale 0.5" in found["softpag"]
    assert "torch 2" in found["versions"] and len(found["weights"]) == 64


def test_json_is_the_record(cli, picture):
    code, said, _ = cli("show", picture, "--json")
    assert code == 0 and json.loads(said) == read(picture)


def test_a_foreign_prompt_cannot_steer_the_terminal(cli, tmp_path):
    hostile = "a\x1b[2Jcat\r\nprompt  a dog\x9b1m \u202e"
    write_image(tmp_path / "a.png", Image.new("RGB", (2, 2)), {"prompt": hostile, "x\x1b": "y\x1b"})
    for more in ([], ["--json"]):
        code, said, _ = cli("show", tmp_path / "a.png", *more)
        assert code == 0 and "cat" in said and not set("\x1b\r\x9b\u202e") & set(said), said


def test_the_block_of_another_program(cli, refused, tmp_path):
    info = PngInfo()
    info.add_text(
        "parameters", "a cat\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, Seed: 9, Size: 8x8"
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    code, said, _ = cli("show", tmp_path / "a.png")
    assert code == 0 and "negative prompt  blurry" in said and "Sampler          Euler a" in said
    line = refused("show", tmp_path / "a.png", "--again")
    assert "made again from a record of generate, and that of a.png has no seed" in line


def test_what_differs_is_said_first(cli, picture, tmp_path):
    record = read(picture)
    record |= {"weights": "0" * 64, "versions": record["versions"] | {"torch": "1.0"}, "device": "cuda"}
    write_image(tmp_path / "a.png", Image.open(picture), record)
    code, said, err = cli("show", tmp_path / "a.png", "--again", "--out", tmp_path / "b.png")
    lines = err.splitlines()
    assert code == 0 and len(lines) == 3 and "the same pixels as a.png, with another record" in said
    assert lines[0].startswith("warning: the record has other weights: 000000000000 then, ")
    assert lines[1] == "warning: the record has other device: cuda then, cpu now"
    assert lines[2].startswith("warning: versions are others than those of the record: torch 1.0 then, 2")
    assert read(tmp_path / "b.png")["versions"] == read(picture)["versions"]


def test_other_pixels_are_counted(cli, picture, tmp_path):
    pixels = np.array(Image.open(picture))
    pixels[:32, :, 0] ^= 4
    write_image(tmp_path / "a.png", Image.fromarray(pixels), read(picture))
    code, said, _ = cli("show", tmp_path / "a.png", "--again")
    assert code == 0 and "50.0% of the pixels are others than in a.png, by at most 4 of 255" in said


def test_a_model_that_has_moved(cli, refused, saved_model, tmp_path):
    path = tmp_path / "a.png"
    assert cli("generate", "a", "-m", saved_model, "--steps", 1, "--seed", 1, "--out", path)[0] == 0
    record = read(path) | {"model": str(tmp_path / "gone")}
    write_image(path, Image.open(path), record)
    assert "there is no model folder" in refused("show", path, "--again")
    code, said, _ = cli("show", path, "--again", "--model", saved_model)
    assert code == 0 and "the same bytes" in said


def test_a_model_that_only_the_record_names_is_not_fetched(cli, refused, saved_model, tmp_path, monkeypatch):
    path, home = tmp_path / "a.png", tmp_path / "hub" / "models--nobody--tiny"
    assert cli("generate", "a", "-m", saved_model, "--steps", 1, "--seed", 1, "--out", path)[0] == 0
    write_image(path, Image.open(path), read(path) | {"model": "nobody/tiny"})
    asked = []

    def download(name, **kwargs):
        asked.append(kwargs.get("local_files_only"))
        return stock(name, cache_dir=home.parent, **kwargs)

    stock = DiffusionPipeline.download
    monkeypatch.setattr(DiffusionPipeline, "download", download)
    line = refused("show", path, "--again")
    assert "a.png names the Hub model nobody/tiny, which is not on this disk; --model nobody/tiny" in line
    shutil.copytree(saved_model, home / "snapshots" / ("0" * 40))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    code, said, _ = cli("show", path, "--again")
    assert code == 0 and "the same bytes as a.png" in said and asked == [True, True]


def test_strip(cli, picture, tmp_path):
    copy = tmp_path / "copy.png"
    code, said, _ = cli("show", picture, "--strip", "--out", copy)
    assert code == 0 and said == f"{copy}  holds the picture alone\n"
    assert Image.open(copy).text == {} and b"circle" not in copy.read_bytes()
    assert np.array_equal(np.asarray(Image.open(copy)), np.asarray(Image.open(picture)))
    assert read(picture)["prompt"] == "a red circle", "the first file stays"
    (tmp_path / "copy.json").write_text("{}")
    assert "copy.json beside it still has the record" in cli("show", picture, "--strip", "--out", copy)[1]


@pytest.mark.parametrize("what", ["--strip", "--again"])
def test_the_picture_itself_is_never_written(refused, picture, what):
    before = picture.read_bytes()
    for out in (picture, picture.parent):
        assert "is the picture itself; choose another" in refused("show", picture, what, "--out", out)
    assert picture.read_bytes() == before


def changed(record, **more):
    return {key: value for key, value in (record | more).items() if value is not ...}


@pytest.mark.parametrize(
    "more, said",
    [
        ({"model": ...}, "has no model"),
        ({"call": []}, "was changed: its call cannot be read"),
        ({"methods": ["softpag"]}, "was changed: its methods cannot be read"),
        ({"methods": [{"name": "softpg"}]}, "unknown method 'softpg'"),
        ({"methods": [{"name": "softpag", "scal": 2}]}, "the record of a.png: softpag has no setting 'scal'"),
        ({"methods": [{"name": "softpag", "scale": "x"}]}, "softpag.scale takes a number, got 'x'"),
        ({"methods": [{"name": "best-of-n", "n": 2, "rewards": [{"name": "none"}]}]}, "none"),
        ({"methods": [{"name": "best-of-n"}, {"name": "reno"}]}, "has several searches"),
        ({"methods": [{"name": "best-of-n", "prune_reward": "f"}]}, "a search with prune_reward"),
        ({"seed": "x"}, "a seed must be a whole number"),
        ({"seed": 1.5}, "a seed must be a whole number"),
        ({"dtype": "int8"}, "must be one of float32"),
        ({"call": {"callback": "x"}}, "sets callback, which belongs to a single call; it was changed"),
        ({"call": {"output_type": "latent"}}, "the record of a.png sets output_type"),
        ({"call": {"cat": 1}}, "StableDiffusionPipeline takes no cat"),
        ({"size": 3}, "its size cannot be read"),
        ({"model": 3}, "its model cannot be read"),
        ({"device": []}, "its device cannot be read"),
        ({"methods": [{"name": "best-of-n", "rewards": 5}]}, "has rewards that cannot be read"),
        ({"call": {"num_inference_steps": "many"}}, "num_inference_steps"),
        ({"model": "https://example.org/x"}, "there is no model folder"),
    ],
)
def test_a_record_that_was_changed_is_one_sentence(refused, picture, tmp_path, more, said):
    Image.open(picture).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps(changed(read(picture), **more)))
    assert said in refused("show", tmp_path / "a.png", "--again")
    assert files(tmp_path) == ["a.json", "a.png"]


def test_bad_input_is_one_line(refused, picture, tmp_path):
    plain = tmp_path / "plain.png"
    Image.new("RGB", (2, 2)).save(plain)
    (tmp_path / "text.png").write_text("x")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "half.png").write_bytes(picture.read_bytes()[:300])
    assert "holds no record and has no JSON file beside it" in refused("show", plain)
    assert "is no PNG, JPEG, WebP, GIF or mp4 file" in refused("show", tmp_path / "text.png")
    assert "is empty" in refused("show", tmp_path / "empty.png")
    assert "is damaged: it breaks off" in refused("show", tmp_path / "half.png")
    assert "none.png' is not there; check the path" in refused("show", tmp_path / "none.png")
    assert "is a folder; name a picture in it" in refused("show", tmp_path)
    assert "--again and --strip do not go together" in refused("show", picture, "--again", "--strip")
    assert "--json prints the record alone" in refused("show", picture, "--again", "--json")
    assert "--out needs --again or --strip" in refused("show", picture, "--out", tmp_path)
    assert "--model is for --again" in refused("show", picture, "--strip", "--model", "x")
    assert "--out has the ending of the picture, .png" in refused(
        "show", picture, "--again", "--out", "x.jpg"
    )
