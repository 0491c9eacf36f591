"""Test the record of a picture: all that moves its pixels is in it and in the name, and decides skipping."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from diffusers_ext import SoftPAG
from diffusers_ext.models.checkpoint import Checkpoint
from diffusers_ext.models.fingerprint import fingerprint, quick
from diffusers_ext.sampling import identity
from diffusers_ext.sampling.items import Item

ITEM = Item("a red circle", 3)


def pipe(dtype=torch.float32, device="cpu"):
    return SimpleNamespace(dtype=dtype, device=torch.device(device))


@pytest.fixture
def made(saved_model):
    def make(model=saved_model, item=ITEM, methods=(), call={"num_inference_steps": 2}, **facts):  # noqa: B006
        return identity.of(item, identity.shared(pipe(**facts), Checkpoint.resolve(model), methods, call))

    return make


def test_every_setting_has_a_name_of_its_own(made, saved_model, tmp_path):
    other = shutil.copytree(saved_model, tmp_path / "other")
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"shift": 6.0}))
    records = [
        made(),
        made(dtype=torch.bfloat16),
        made(device="meta"),
        made(methods=[SoftPAG()]),
        made(methods=[SoftPAG(scale=2.0)]),
        made(call={"num_inference_steps": 3}),
        made(call={"num_inference_steps": 2, "negative_prompt": "blue"}),
        made(item=Item("a red circle", 4)),
        made(item=Item("A red circle", 3)),
        made(model=other),
        made() | {"fps": 8.0},
        made() | {"versions": made()["versions"] | {"torch": "1.0"}},
    ]
    assert len({identity.name(r) for r in records}) == len(records)
    assert len({json.dumps(identity.shaping(r)) for r in records}) == len(records)


def test_the_same_weights_elsewhere_are_the_same_model(made, saved_model, tmp_path):
    copy = shutil.copytree(saved_model, tmp_path / "copy")
    assert identity.name(made(model=copy)) == identity.name(made())
    file = next(copy.glob("vae/*.safetensors"))
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert identity.name(made(model=copy)) != identity.name(made())


def test_finished_means_a_picture_and_the_same_record_beside_it(made, tmp_path):
    path = tmp_path / "a.png"
    assert identity.finished(path, made()) is None
    path.write_bytes(b"png")
    assert identity.finished(path, made()) is None
    for text in ("", "[]", "{}", '{"prompt": 1, "versions": 3}', json.dumps(made(dtype=torch.float16))):
        path.with_suffix(".json").write_text(text)
        assert identity.finished(path, made()) is None
    path.with_suffix(".json").write_text(json.dumps(made() | {"seconds": 1.5}))
    assert identity.finished(path, made())["seconds"] == 1.5
    path.unlink()
    assert identity.finished(path, made()) is None


def test_large_weights_are_read_in_part(saved_model, tmp_path, monkeypatch):
    assert quick(saved_model) == fingerprint(saved_model)
    monkeypatch.setattr("diffusers_ext.models.fingerprint._WHOLE", 1)
    first = quick(saved_model)
    assert first.startswith("sampled ")
    copy = shutil.copytree(saved_model, tmp_path / "copy")
    file = next(copy.glob("transformer/*.safetensors"))
    for place in (0, -1):
        raw = bytearray(file.read_bytes())
        raw[place] ^= 1
        file.write_bytes(raw)
        assert quick(copy) != first
