import json
import shutil

import pytest

from diffusers_ext.models.fingerprint import configs, fingerprint, marks


def test_names_and_contents_count(tmp_path):
    (tmp_path / "vae").mkdir()
    file = tmp_path / "vae" / "model.safetensors"
    file.write_bytes(b"one")
    first = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == first and len(first) == 64
    (tmp_path / "notes.txt").write_text("not a weight")
    assert fingerprint(tmp_path) == first
    file.write_bytes(b"two")
    assert fingerprint(tmp_path) != first
    file.write_bytes(b"one")
    file.rename(file.with_name("other.safetensors"))
    assert fingerprint(tmp_path) != first


def test_no_weights(tmp_path):
    with pytest.raises(ValueError, match="has none"):
        fingerprint(tmp_path)


def test_configs_of_what_makes_pictures_count(saved_model, tmp_path):
    """Equal weights draw other pictures with another scheduler, architecture or tokenizer."""
    folder = shutil.copytree(saved_model, tmp_path / "copy")
    first = marks(folder)
    assert first == marks(saved_model) and len(first["configs"]) == 64
    for name in (
        "model_index.json",
        "scheduler/scheduler_config.json",
        "vae/config.json",
        "tokenizer/tokenizer_config.json",
    ):
        file = folder / name
        kept = file.read_text()
        file.write_text(json.dumps(json.loads(kept) | {"edited": 1}))
        assert marks(folder) == first | {"configs": configs(folder)} != first, name
        file.write_text(kept)
    assert marks(folder) == first


def test_files_beside_the_components_do_not_count(saved_model, tmp_path):
    folder = shutil.copytree(saved_model, tmp_path / "copy")
    (folder / "card.json").write_text("{}")
    (folder / "softpag.json").write_text("{}")
    (folder / "training_log.jsonl").write_text("{}")
    (folder / "results").mkdir()
    (folder / "results" / "held-out.json").write_text("{}")
    assert marks(folder) == marks(saved_model)
