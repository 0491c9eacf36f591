"""Damaged model folders: each family, component and kind of damage has a sentence that names the file."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import diffusers_ext as dx
from tests.hosts import HOSTS, host

FAMILIES = ("sd", "sdxl", "sd3", "flux", "wan", "hunyuan-video", "mochi")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345678\n"
PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>"


@pytest.fixture(scope="module", params=FAMILIES)
def home(request, tmp_path_factory):
    """Folder of a tiny pipeline of each family; tests put back what they damage."""
    folder = tmp_path_factory.mktemp("models") / request.param
    host(request.param).build().save_pretrained(folder)
    return folder


def parts(folder):
    """Components with weights, and their files."""
    return {file.parent.name: file for file in sorted(folder.glob("*/*.safetensors"))}


def cut(file):
    data = file.read_bytes()
    file.write_bytes(data[: len(data) - 8])


def lose_a_key(file):
    tensors = load_file(file)
    tensors.pop(min(key for key in tensors if key.endswith("weight")))
    save_file(tensors, file, metadata={"format": "pt"})


DAMAGES = {
    "pointer": (
        lambda file: file.write_bytes(POINTER),
        "is a pointer of git-lfs, not the file; run 'git lfs pull'",
    ),
    "page": (lambda file: file.write_bytes(PAGE), "is a web page"),
    "empty": (lambda file: file.write_bytes(b""), "is empty"),
    "cut": (cut, r"has \d+ of its \d+ bytes"),
    "short": (lambda file: file.write_bytes(b"\x00" * 4), "no safetensors file, or is cut off"),
    "missing": (lambda file: file.unlink(), "has no weights"),
    "key": (lose_a_key, r"lack 1 of the \d+ tensors of \w+ \(\S+weight\), which would be random"),
    "ckpt": (
        lambda file: file.rename(file.with_suffix(".ckpt")),
        r"\.ckpt' cannot be read safely.*save_file",
    ),
}


# What is seen before any weight is read does not depend on the family, nor on the number of components.
EARLY = set(DAMAGES) - {"cut", "key"}
KINDS = [(f, kind) for f in FAMILIES for kind in DAMAGES if kind not in EARLY or f in ("sd3", "wan")]


@pytest.mark.parametrize("home, kind", KINDS, indirect=["home"])
def test_weights(home, kind):
    damage, words = DAMAGES[kind]
    for part, file in parts(home).items():
        whole = file.read_bytes()
        try:
            damage(file)
            with pytest.raises(OSError, match=words) as caught:
                dx.load(home)
            assert part in str(caught.value) and "\n" not in str(caught.value)
        finally:
            file.with_suffix(".ckpt").unlink(missing_ok=True)
            file.write_bytes(whole)


def test_a_complete_folder_loads(home):
    assert dx.load(home).components.keys() >= parts(home).keys()


@pytest.mark.parametrize("data", [POINTER, PAGE, b"", b"{"], ids=["pointer", "page", "empty", "cut"])
def test_configs_and_tokenizers(home, data):
    for name in sorted({"config.json", "scheduler_config.json", "tokenizer_config.json", "tokenizer.json"}):
        for file in sorted(home.glob(f"*/{name}")):
            whole = file.read_bytes()
            try:
                file.write_bytes(data)
                with pytest.raises(OSError, match=f"{file.parent.name}/{name}"):
                    dx.load(home)
            finally:
                file.write_bytes(whole)


def test_components_that_are_not_there(home, tmp_path):
    index = json.loads((home / "model_index.json").read_text())
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or entry[0] is None:
            continue
        away = tmp_path / name
        shutil.move(home / name, away)
        try:
            with pytest.raises(OSError, match=rf"has no {name}/, which its model_index\.json asks for"):
                dx.load(home)
        finally:
            shutil.move(away, home / name)


def test_a_tokenizer_without_vocabulary(home, tmp_path):
    for folder in sorted(home.glob("tokenizer*")):
        files = [f for f in folder.iterdir() if f.name != "tokenizer_config.json"]
        for file in files:
            shutil.move(file, tmp_path / file.name)
        try:
            with pytest.raises(OSError, match=rf"{folder.name}' has no vocabulary \(tokenizer\.json"):
                dx.load(home)
        finally:
            for file in files:
                shutil.move(tmp_path / file.name, file)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """SD3 with weights in several files, for denoiser and text encoder."""
    folder = tmp_path_factory.mktemp("models") / "shards"
    host("sd3").build().save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("transformer/*.safetensors"))) > 2
    assert len(list(folder.glob("text_encoder/*.safetensors"))) > 1
    return folder


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae"])
@pytest.mark.parametrize("kind", ["pointer", "cut", "missing", "key"])
def test_one_of_several_files(shards, part, kind):
    file = sorted((shards / part).glob("*.safetensors"))[-1]
    whole = file.read_bytes()
    words = {"missing": "is missing, although the index", "key": r"lacks 1 of the \d+ tensors that .*index"}
    words = words.get(kind, DAMAGES[kind][1])
    try:
        DAMAGES[kind][0](file)
        with pytest.raises(OSError, match=words) as caught:
            dx.load(shards)
        assert part in str(caught.value)
    finally:
        file.write_bytes(whole)
    assert dx.load(shards)


class Evil:
    def __reduce__(self):
        return print, ("this would have run",)


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae"])
def test_pickles_of_tensors_load_and_others_are_refused_with_the_way_out(saved_model, tmp_path, capsys, part):
    folder = shutil.copytree(saved_model, tmp_path / "copy")
    file = next((folder / part).glob("*.safetensors"))
    stem = "pytorch_model" if file.stem == "model" else file.stem
    tensors = load_file(file)
    file.unlink()
    torch.save(tensors, pickled := file.with_name(f"{stem}.bin"))
    assert dx.load(folder)
    torch.save({**tensors, "more": Evil()}, pickled)
    with pytest.raises(
        OSError, match=rf"{part}/{stem}\.bin' cannot be read safely.*weights_only=False"
    ) as caught:
        dx.load(folder)
    assert "\n" not in str(caught.value) and "would have run" not in capsys.readouterr().out


def test_files_that_nobody_reads_do_not_matter(saved_model, tmp_path):
    """Other variants and formats are often pointers in a clone without git-lfs."""
    folder = shutil.copytree(saved_model, tmp_path / "copy")
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_flax_model.msgpack", "model.onnx"):
        (folder / "transformer" / name).write_bytes(POINTER)
    (folder / "sd3.safetensors").write_bytes(POINTER)
    assert dx.load(folder)
    with pytest.raises(OSError, match=r"transformer/.*fp16.*pointer"):
        dx.load(folder, variant="fp16")


def test_components_that_the_caller_passes_are_not_read(saved_model, tmp_path):
    folder = shutil.copytree(saved_model, tmp_path / "copy")
    vae = dx.load(folder).vae
    shutil.rmtree(folder / "vae")
    assert dx.load(folder, vae=vae).vae is vae
    shutil.rmtree(folder / "text_encoder_3")
    assert dx.load(folder, vae=vae, text_encoder_3=None).text_encoder_3 is None


def test_the_command_line_says_it_in_one_line(refused, saved_model, tmp_path):
    folder = shutil.copytree(saved_model, tmp_path / "copy")
    next((folder / "text_encoder").glob("*.safetensors")).write_bytes(POINTER)
    for command in (["generate", "a"], ["compare", "a"], ["eval"]):
        assert "git lfs pull" in refused(*command, "-m", folder, "--out", tmp_path / "out")


def test_every_family_is_among_the_pipelines():
    assert set(FAMILIES) <= {h.name for h in HOSTS}


@pytest.fixture
def cache(saved_model, tmp_path):
    """A cache of the Hub that holds one model, `nobody/tiny`."""
    home = tmp_path / "models--nobody--tiny"
    snapshot = home / "snapshots" / ("0" * 40)
    shutil.copytree(saved_model, snapshot)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    return tmp_path


def test_models_of_the_hub_are_looked_at_too(cache):
    pipe = dx.load("nobody/tiny", cache_dir=cache, local_files_only=True)
    assert pipe.name_or_path == "nobody/tiny"
    (file,) = cache.glob("models--nobody--tiny/snapshots/*/text_encoder/*.safetensors")
    whole = file.read_bytes()
    for kind in ("cut", "key"):
        file.write_bytes(whole)
        DAMAGES[kind][0](file)
        with pytest.raises(OSError, match=DAMAGES[kind][1]):
            dx.load("nobody/tiny", cache_dir=cache, local_files_only=True)
