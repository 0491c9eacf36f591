import json
import os
import shutil

import huggingface_hub
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

import diffusers_ext as dx
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.zoo import cards, catalogue
from diffusers_ext.zoo.world.suites import IMAGE_TASKS


def test_a_folder_becomes_the_stock_pipeline(saved_model):
    pipe = dx.load(saved_model)
    assert type(pipe) is StableDiffusion3Pipeline
    stock = StableDiffusion3Pipeline.from_pretrained(saved_model)
    for ours, theirs in zip(pipe.transformer.parameters(), stock.transformer.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_keywords_reach_diffusers(saved_model):
    assert dx.load(str(saved_model), dtype=torch.bfloat16).transformer.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({"device": "cuda"}, r"read onto the CPU, got device='cuda'; move it with \.to\('cuda'\)"),
        ({"dtype": "half"}, r"dtype is a dtype of torch, got 'half'; write dtype=torch\.float16"),
        ({"torch_dtype": "auto"}, r"torch_dtype is a dtype of torch, got 'auto'"),
    ],
)
def test_keywords_that_diffusers_would_ignore(kwargs, match):
    with pytest.raises(ValueError, match=match):
        dx.load("shapes-sd", **kwargs)
    with pytest.raises(ValueError, match=match):
        dx.ImageExtPipeline.from_pretrained("shapes-sd", **kwargs)


def test_zoo_models_come_in_float32():
    pipe = dx.load("shapes-sd3")
    assert isinstance(pipe, StableDiffusion3Pipeline)
    assert {p.dtype for p in pipe.transformer.parameters()} == {torch.float32}
    half = dx.load("shapes-sd3", dtype=torch.float16)
    assert half.transformer.dtype == torch.float16


@pytest.mark.parametrize(
    "name, kind, match",
    [
        ("shapes-sd4", ValueError, "unknown model 'shapes-sd4': the zoo has shapes-sd3"),
        ("", ValueError, "unknown model ''"),
        ("./nope", FileNotFoundError, "there is no model folder './nope'"),
        ("/nope/none/x", FileNotFoundError, "there is no model folder"),
        ("~/nope-none", FileNotFoundError, "there is no model folder"),
        ("a/b/c", FileNotFoundError, "there is no model folder 'a/b/c'"),
    ],
)
def test_names_that_lead_nowhere(name, kind, match):
    with pytest.raises(kind, match=match):
        dx.load(name)


def test_folder_without_index_and_single_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"needs a model_index.json, .* has none; pass what save_pretrained"
    ):
        dx.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"got the file .*from_single_file"):
        dx.load(tmp_path / "model.safetensors")


def test_only_owner_and_name_is_a_hub_id():
    assert Checkpoint.resolve("owner/name-1.5_x").folder is None
    assert Checkpoint.resolve("shapes-sd3").folder.name == "shapes-sd3"


@pytest.mark.parametrize("get", [dx.load, lambda name: Checkpoint.resolve(name).home], ids=["load", "home"])
def test_a_hub_id_offline_is_one_sentence(monkeypatch, tmp_path, get):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError) as caught:
        get("nobody/nothing")
    assert str(caught.value) == (
        "'nobody/nothing' is no folder here and could not be had from the Hub (it is not in the local cache, "
        "and the Hub cannot be reached); go online once, or pass a folder with the model"
    )


@pytest.fixture
def copy(saved_model, tmp_path):
    return shutil.copytree(saved_model, tmp_path / "copy")


@pytest.mark.parametrize("part", ["transformer", "pipeline"])
def test_code_in_a_folder_is_not_run(copy, tmp_path, part):
    proof = tmp_path / "ran"
    code = f"open({str(proof)!r}, 'w')\nfrom diffusers import {{}} as Mine\n"
    index = json.loads((copy / "model_index.json").read_text())
    if part == "pipeline":
        index["_class_name"] = ["mine", "Mine"]
        (copy / "mine.py").write_text(code.format("StableDiffusion3Pipeline"))
    else:
        index["transformer"] = ["mine", "Mine"]
        (copy / "transformer" / "mine.py").write_text(code.format("SD3Transformer2DModel"))
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="custom code"):
        dx.load(copy)
    assert not proof.exists()
    dx.load(copy, trust_remote_code=True)
    assert proof.exists(), "the test must hold code that would have run"


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickled_code_is_not_run(copy, tmp_path):
    proof, file = tmp_path / "ran", copy / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save({"x": Evil(str(proof))}, file.with_suffix(".bin"))
    torch.load(file.with_suffix(".bin"), weights_only=False)
    assert proof.exists(), "the test must hold a pickle that would have run"
    proof.unlink()
    file.unlink()
    with pytest.raises(OSError, match="cannot be read"):
        dx.load(copy)
    assert not proof.exists()


def test_truncated_weights(copy):
    os.truncate(copy / "transformer" / "diffusion_pytorch_model.safetensors", 1000)
    with pytest.raises(OSError, match=r"transformer/.*is cut off; copy it again"):
        dx.load(copy)


def flip(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, lambda file: os.truncate(file, 1000)], ids=["edited", "truncated"])
def test_folders_with_a_card_of_training_are_checked_against_it(copy, damage):
    sums = cards.checksums(cards.weight_files(copy), copy)
    (copy / cards.CARD).write_text(json.dumps({"sha256": sums}))
    assert dx.load(copy)
    damage(copy / "vae" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"sha256 of .*vae/.* must match card\.json.*another folder"):
        dx.load(copy)


@pytest.mark.parametrize("text", ["{}", "[1]", '{"call": "text", "tasks": "text-to-image", "sha256": "0f"}'])
def test_a_card_of_another_project_says_nothing(copy, text):
    (copy / cards.CARD).write_text(text)
    assert dx.load(copy)
    model = Checkpoint.resolve(copy)
    assert model.call == {} and model.tasks == IMAGE_TASKS and not model.of_world


def test_a_damaged_card_is_one_sentence(copy):
    (copy / cards.CARD).write_text('{"sha256": ')
    for read in (
        dx.load,
        lambda name: Checkpoint.resolve(name).call,
        lambda name: Checkpoint.resolve(name).tasks,
    ):
        with pytest.raises(ValueError, match=r"card\.json is no JSON in UTF-8 .*; restore or delete it"):
            read(str(copy))


def test_edited_zoo_weights_are_refused(tmp_path, monkeypatch):
    folder = shutil.copytree(catalogue.path("shapes-sd3"), tmp_path / "shapes-sd3")
    flip(next(folder.glob("transformer/*.safetensors")))
    monkeypatch.setattr(catalogue, "path", lambda name: folder)
    with pytest.raises(ValueError, match="sha256"):
        dx.load("shapes-sd3")
