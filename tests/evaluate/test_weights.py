import pytest

from diffusers_ext.evaluate.weights import fingerprint


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
