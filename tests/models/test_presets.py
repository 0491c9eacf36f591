"""Presets: every shipped file is read, its methods are built and planned, and names find the right one."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import diffusers_ext as dx
from diffusers_ext.kernels.block_sparse import gains
from diffusers_ext.kernels.block_sparse.gains import MARGIN
from diffusers_ext.models.loading import load
from diffusers_ext.models.presets import FOLDER, find, known, of_model, read, shipped, tokens_of
from diffusers_ext.models.sizes import of_pipeline
from diffusers_ext.processors.sparse.method import SparseMethod
from diffusers_ext.settings.methods import build
from diffusers_ext.zoo import catalogue

FILES = sorted(FOLDER.glob("*.toml"))
SIZES = {"height", "width", "num_frames"}
IMAGES = {"flux.1", "sd1.5", "sd2.1", "sd2.1-base", "sdxl", "sd3", "sd3.5", "sd3.5-medium"}
MODELS = IMAGES | {"hunyuan-video", "wan2.1", "wan2.2", "wan2.2-ti2v-5b", "mochi"}
ZOO = {"shapes-sd3", "shapes-sd3-256", "shapes-sd", "shapes-sd-turbo", "shapes-wan"}
TOKENS = "[tokens]\nedge_px = 16\nframes = 0\ntext = 0\nheight = 64\nwidth = 64\n"


@pytest.fixture
def written(tmp_path):
    """Reads a preset with the geometry of a picture of 4 x 4 tokens and what is given."""

    def write(text, tokens=TOKENS):
        path = tmp_path / "mine.toml"
        path.write_text(tokens + text)
        return read(path)

    return write


def test_there_is_a_file_for_each_model():
    assert set(shipped()) == {path.stem for path in FILES} == MODELS | ZOO
    assert all(find(name) for name in catalogue.MODELS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_built_and_planned_at_the_usual_size(path):
    found, forecasts = read(path), {}
    for name in found.settings:
        method = dx.preset(path.stem, name)
        assert method == build([name], preset=found.settings)[0]
        if not isinstance(method, SparseMethod):
            continue  # guidance, which test_presets_checkpoints.py puts on the models
        forecast = forecasts[name] = dx.plan(path.stem, method)
        assert forecast.block_density <= 0.6
        share = (forecast.tokens / forecast.expected_speedup - forecast.text) / math.prod(forecast.grid)
        assert forecast.note.startswith("no gain") == (share * MARGIN > 1)
    for name in list(forecasts)[:1]:  # a plan of a real size takes a second
        assert forecasts[name] == dx.plan(path.stem, name)


@pytest.mark.parametrize("name, method", [("flux.1", "clear"), ("mochi", "radial")])
def test_auto_stays_dense_on_a_preset_where_coordinates_would_be_looked_up(name, method):
    """Both visit about half of the blocks and check many, which pays if kernels compute the rule alone."""
    grid = find(name).tokens.grid({})
    spec = dx.preset(name, method).plan_spec(grid.shape, grid.text, text_rows=False)
    assert spec.computed and gains.no_gain(spec, "triton", gains.USUAL) is None
    slow = SimpleNamespace(stats=spec.stats, kind=spec.kind, in_raster=spec.in_raster, computed=False)
    assert "takes triton" in gains.no_gain(slow, "triton", gains.USUAL)


def test_published_settings_have_the_published_density():
    """Blocks that the authors' code keeps, at the sizes of their runs."""
    cases = {
        "hunyuan-video": (dict(height=768, width=1280, num_frames=117, text=0), 0.2746),
        "wan2.1": (dict(height=768, width=1280, num_frames=69), 0.2871),
        "wan2.2": (dict(height=768, width=1280, num_frames=77), 0.3525),
    }
    for name, (size, density) in cases.items():
        radial = dataclasses.replace(dx.preset(name, "radial"), reduce="block")
        assert dx.plan(name, radial, **size).block_density == pytest.approx(density, abs=0.51e-4)


@pytest.mark.parametrize(
    "text, name",
    [
        ("black-forest-labs/FLUX.1-dev", "flux.1"),
        ("FLUX", "flux.1"),
        ("/models/stable-diffusion-3.5-large", "sd3.5"),
        ("stabilityai/stable-diffusion-3.5-medium", "sd3.5-medium"),
        ("stabilityai/stable-diffusion-3-medium-diffusers", "sd3"),
        ("runwayml/stable-diffusion-v1-5", "sd1.5"),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd1.5"),
        ("stabilityai/stable-diffusion-2-1", "sd2.1"),
        ("stabilityai/stable-diffusion-2-1-base", "sd2.1-base"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
        ("hunyuanvideo-community/HunyuanVideo", "hunyuan-video"),
        ("Wan-AI/Wan2.1-T2V-14B-Diffusers", "wan2.1"),
        ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "wan2.2"),
        ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "wan2.2-ti2v-5b"),
        ("genmo/mochi-1-preview", "mochi"),
        ("city96/flux1-dev_bf16", "flux.1"),
        ("city96/FLUX.1-dev-gguf", "flux.1"),
        ("org/FLUX.1-dev-fp8", "flux.1"),
        ("org/FLUX.1-dev-bnb-nf4", "flux.1"),
        ("org/stable-diffusion-3.5-large-int8", "sd3.5"),
        ("org/Wan2.1-T2V-14B-Diffusers-4bit", "wan2.1"),
        ("shapes-sd3", "shapes-sd3"),
        ("runs/shapes-sd-turbo", "shapes-sd-turbo"),
    ],
)
def test_names_of_checkpoints(text, name):
    assert of_model(text).name == name
    assert tokens_of(text) == tokens_of(Path(text)) == find(name).tokens


@pytest.mark.parametrize("text", ["black-forest-labs/FLUX.2-dev", "org/swan2.1", "stable-diffusion-2", "sd"])
def test_no_preset_is_guessed(text):
    with pytest.raises(
        dx.MethodError, match=r"No preset fits the model .*the presets are flux\.1, .*nearest is"
    ):
        of_model(text)


@pytest.mark.parametrize(
    "text, kin",
    [
        ("tencent/HunyuanVideo-1.5", "hunyuan-video"),
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "wan2.1"),
        ("Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", "wan2.1"),
        ("black-forest-labs/FLUX.1-schnell", "flux.1"),
        ("org/FLUX.1-schnell-fp8", "flux.1"),
        ("stabilityai/stable-diffusion-3.5-large-turbo", "sd3.5"),
    ],
)
def test_settings_of_a_related_model_are_not_taken_in_silence(text, kin):
    words = rf"settings of {kin!r} are not known to hold for the model {text!r}; .*preset\({kin!r}, METHOD"
    with pytest.raises(dx.MethodError, match=words):
        dx.preset(text, "gna")
    assert dx.preset(kin, "gna")


def test_shipped_models_of_the_zoo_are_cut_as_their_preset_says():
    """But for text and clips: pipelines have stock lengths of T5 and video, the zoo its own."""
    for name, model in catalogue.MODELS.items():
        pipe = load(name)
        tokens = find(name).tokens
        own = {k: v for k, v in model.call.items() if "num_frames" in model.call and k in SIZES}
        assert dataclasses.replace(of_pipeline(pipe), text=tokens.text, **own) == tokens
        if "max_sequence_length" in model.call and tokens.text:
            assert tokens.text == pipe.tokenizer_max_length + model.call["max_sequence_length"]


def test_untrained_models_of_the_zoo_too():
    from diffusers_ext.zoo.models import sd, wan
    from diffusers_ext.zoo.models.components import build_vae

    assert of_pipeline(sd.build_sd(build_vae())) == find("shapes-sd").tokens
    of_clips = of_pipeline(wan.build_wan(wan.build_wan_vae()))
    tokens = find("shapes-wan").tokens
    assert (of_clips.edge_px, of_clips.frames, of_clips.text) == (tokens.edge_px, tokens.frames, tokens.text)
    for name, model in catalogue.MODELS.items():
        tokens, sizes = find(name).tokens, SIZES & model.call.keys()
        assert all(getattr(tokens, key) == model.call[key] for key in sizes)


def test_the_method_is_read_before_the_model():
    with pytest.raises(ValueError, match="unknown method 'softpga'; nearest is 'softpag'"):
        dx.preset("no-such-model", "softpga")
    with pytest.raises(dx.MethodError, match=r"takes the name of a method, got <class .*for example 'soft"):
        dx.preset("sdxl", dx.SoftPAG)
    with pytest.raises(
        ValueError, match=r"settings for nag, softpag, got gna; set them one by one, as GNA\(\.\."
    ):
        dx.preset("sdxl", "gna")


def test_settings_beside_the_weights_go_first(saved_model, tmp_path):
    for name in catalogue.MODELS:
        tuned = json.loads((catalogue.path(name) / "softpag.json").read_text())["settings"]
        assert dx.preset(name, "softpag") == dx.SoftPAG(**tuned)
        tables = find(name).settings
        assert not [m for m in tables if (catalogue.path(name) / f"{m}.json").exists()], (
            "a setting is there twice"
        )
    folder = shutil.copytree(saved_model, tmp_path / "nobody-knows-it")
    with pytest.raises(dx.MethodError, match="No preset fits"):
        dx.preset(str(folder), "softpag")
    (folder / "softpag.json").write_text(json.dumps({"settings": {"scale": 1.5, "scope": "all"}}))
    assert dx.preset(str(folder), "softpag") == dx.SoftPAG(scale=1.5, scope="all")
    assert dx.preset(load(folder), "softpag") == dx.SoftPAG(scale=1.5, scope="all")
    (folder / "softpag.json").write_text(json.dumps({"settings": {"scal": 1.5}}))
    with pytest.raises(
        dx.MethodError, match=r"nobody-knows-it.softpag.json: softpag has no setting 'scal'; nearest"
    ):
        of_model(str(folder))
    for text, words in (("[]", "are a table of keys and values, got None"), ("{", "is no JSON in UTF-8")):
        (folder / "softpag.json").write_text(text)
        with pytest.raises(dx.MethodError, match=f"softpag.json.* {words}"):
            dx.preset(str(folder), "softpag")


def test_a_tuned_method_stands_for_the_shipped_one_and_no_other(saved_model, tmp_path):
    """Both have both methods: what is tuned is taken as a table, not key by key."""
    folder = shutil.copytree(saved_model, tmp_path / "stable-diffusion-3.5-large")
    shipped_gna, shipped_softpag = (shipped()["sd3.5"].settings[m] for m in ("gna", "softpag"))
    (folder / "softpag.json").write_text(json.dumps({"settings": {"scale": 1.5}}))
    assert shipped_softpag["scale"] != 1.5 and shipped_softpag["scope"] != dx.SoftPAG().scope
    assert dx.preset(folder, "softpag") == dx.SoftPAG(scale=1.5)
    assert dx.preset(folder, "gna") == dx.GNA(**shipped_gna)
    (folder / "softpag.json").rename(folder / "gna.json").write_text('{"settings": {"window": [4, 4]}}')
    assert dx.preset(folder, "gna") == dx.GNA((4, 4))
    assert dx.preset(folder, "softpag") == dx.SoftPAG(**shipped_softpag)


def test_what_is_known_of_a_model_may_be_nothing(saved_model):
    assert known("nobody/knows-it") is None and known(saved_model) is None
    assert known("wan2.1") == of_model("wan2.1") == of_model(Path("org/Wan2.1-T2V-14B"))


def test_a_file_of_the_user(written, tmp_path):
    written("[gna]\nwindow = [3, 3]\n")
    path = str(tmp_path / "mine.toml")
    assert dx.preset(path, "gna") == dx.GNA((3, 3))
    assert dx.plan(path, "gna", height=160).grid == (1, 10, 4)


@pytest.mark.parametrize("name", ["far.safetensors", "/elsewhere/far.safetensors", "~/far.safetensors"])
def test_files_are_named_from_the_folder_of_the_settings(tmp_path, name):
    wanted = {"~": Path.home(), "": Path("/elsewhere")}.get(name.split("/")[0], tmp_path) / "far.safetensors"
    table = {"settings": {"downsample": 4, "weights": name}}
    (tmp_path / "clear.json").write_text(json.dumps(table))
    assert dx.preset(str(tmp_path), "clear") == dx.CLEAR(downsample=4, weights=str(wanted))
    (tmp_path / "mine.toml").write_text(f"{TOKENS}[clear]\ndownsample = 4\nweights = '{name}'\n")
    assert dx.preset(str(tmp_path / "mine.toml"), "clear").weights == str(wanted)


@pytest.mark.parametrize(
    "text, words",
    [
        ("[radial]\ndeca = 1\n", r"mine.toml: radial has no setting 'deca'; nearest is 'decay'"),
        ("[radical]\ndecay = 1\n", r"mine.toml: there is no method 'radical'; nearest is 'radial'"),
        ("[radial]\ndecay = 'x'\n", "mine.toml: radial.decay takes a number, got 'x'"),
        ("[radial]\ndecay = -1\n", "mine.toml: Radial decay must be above 0 and not above 4, got -1"),
        ("[radial]\ndecay =\n", "mine.toml is no TOML in UTF-8"),
        ("lenght = 3\n", "mine.toml: tokens has no 'lenght'; nearest is 'height'"),
        ("num_frames = 'all'\n", "mine.toml: tokens.num_frames takes a whole number, got 'all'"),
        ("levels = [0, -1]\n", r"mine.toml: tokens.levels must be 0 or more, got \[0, -1\]"),
        ("levels = []\n", r"mine.toml: tokens.levels must be 0 or more, got \[\]"),
        ("levels = 1\n", "mine.toml: tokens.levels takes a list of whole numbers, got 1"),
        ("num_frames = 0\n", "mine.toml: tokens.num_frames must be 1 or more, got 0"),
    ],
)
def test_bad_files(written, text, words):
    with pytest.raises(dx.MethodError, match=words) as error:
        written(text)
    assert str(error.value).count("\n") == 0


def test_missing_tables_and_files(written, tmp_path):
    with pytest.raises(dx.MethodError, match=r"mine.toml: the table \[tokens\] needs edge_px, .* got none"):
        written("", tokens="")
    with pytest.raises(dx.MethodError, match=r"tokens.edge_px must be 1 or more, got 0"):
        written("", tokens=TOKENS.replace("edge_px = 16", "edge_px = 0"))
    with pytest.raises(dx.MethodError, match=r"got no frames"):
        written("", tokens="[tokens]\nedge_px = 16\n")
    with pytest.raises(dx.MethodError, match=r"mine.toml: the settings of gna are a table"):
        written("", tokens="gna = 3\n" + TOKENS)
    with pytest.raises(dx.MethodError, match=r"mine.toml: names takes a list of texts, got 'me'"):
        written("", tokens="names = 'me'\n" + TOKENS)
    with pytest.raises(dx.MethodError, match=r"wan2.3.toml cannot be read.*nearest is 'wan2\.[12]'"):
        dx.preset(str(tmp_path / "wan2.3.toml"), "radial")


def test_what_a_preset_does_not_know():
    with pytest.raises(ValueError, match="the preset of this model has settings for softpag, got radial"):
        dx.preset("shapes-wan", "radial")
    with pytest.raises(ValueError, match="has settings for radial, gna, nag, rectified, got clear; set them"):
        dx.preset("wan2.1", "clear")
    with pytest.raises(ValueError, match="unknown method 'radical'"):
        dx.preset("wan2.1", "radical")
    assert build(["clear", "gna"], ["radius=3"], shipped()["sd3.5"].settings)[0] == dx.CLEAR(radius=3)


def test_a_pipeline_built_from_parts_has_no_name(pipe):
    with pytest.raises(dx.MethodError, match="was not loaded by name"):
        dx.preset(pipe, "softpag")
