"""Test that files are complete or absent, and that folders are checked before any work is done."""

import json
import os
import tempfile
from pathlib import Path

import pytest

from diffusers_ext.outputs.files import (
    PARTIAL,
    output_folder,
    remove_leftovers,
    remove_partials,
    replacing,
    slug,
    write_bytes,
    write_json,
)

NOBODY = 65534  # the user that owns nothing


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"half")
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_an_exception_in_the_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_what_killed_writers_left_is_removed_an_hour_later(tmp_path):
    with replacing(tmp_path / "a") as file:
        (temporary,) = tmp_path.iterdir()
        assert temporary.name.endswith(PARTIAL)
        remove_leftovers(tmp_path)  # of a process that writes: it is new
        assert temporary.exists()
        file.write(b"x")
    old, other = tmp_path / f".b-1{PARTIAL}", tmp_path / ".mine"
    for path in (old, other):
        path.write_bytes(b"")
        os.utime(path, (0, 0))
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".mine", "a"]


@pytest.mark.parametrize("stem", ["x" * 40, "[a] * ?"])
def test_partial_files_are_removed_of_one_path_alone(tmp_path, stem):
    """Names of pictures begin alike: those of one prompt with two seeds, for example."""
    path, other = (tmp_path / f"{stem}-{seed}.png" for seed in (1, 2))
    with pytest.raises(OSError), replacing(path), replacing(other) as file:
        file.write(b"x")
        remove_partials(path)
    assert other.read_bytes() == b"x" and os.listdir(tmp_path) == [other.name]


def test_missing_folders_are_made_only_on_request(tmp_path):
    with pytest.raises(OSError, match=r"its folder .* was removed"), replacing(tmp_path / "new" / "a"):
        pass
    with replacing(tmp_path / "new" / "a", parents=True) as file:
        file.write(b"x")
    assert os.listdir(tmp_path / "new") == ["a"]


def test_json_is_strict(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert os.listdir(tmp_path) == []


def test_files_have_the_rights_of_other_files(tmp_path):
    write_bytes(tmp_path / "ours", b"")
    (tmp_path / "theirs").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_output_folder(tmp_path):
    assert output_folder(tmp_path / "new" / "deep").is_dir()
    assert os.listdir(tmp_path / "new" / "deep") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OSError, match=r"cannot write to the output folder .*file.*; choose another with --out"
    ):
        output_folder(tmp_path / "file" / "below")


def test_names_of_files_are_no_output_folders(tmp_path):
    for name in ("a.png", "A.JPG", "a.mp4"):
        with pytest.raises(ValueError, match=r"--out names a folder here, got that of a file, .*ending out"):
            output_folder(tmp_path / name)
    with pytest.raises(ValueError, match=r"takes the name of a folder, got ''; write \. for the current one"):
        output_folder("")
    assert not list(tmp_path.iterdir())
    (tmp_path / "old.png").mkdir()
    assert output_folder(tmp_path / "old.png") and output_folder(tmp_path / "runs-0.5").is_dir()


@pytest.fixture
def read_only_folder():
    """Make a folder in which this process may not write; root becomes nobody meanwhile."""
    if not hasattr(os, "geteuid"):
        pytest.skip("folders have no write permission to take away on Windows; run it on Linux or macOS")
    folder, user = Path(tempfile.mkdtemp()), os.geteuid()  # not tmp_path, whose parents are its owner's alone
    folder.chmod(0o555)
    if user == 0:
        try:
            os.seteuid(NOBODY)
        except OSError:
            folder.rmdir()
            pytest.skip("root may write anywhere and cannot be somebody else here; run it as another user")
    yield folder
    os.seteuid(user)
    folder.rmdir()


def test_read_only_folder(read_only_folder):
    with pytest.raises(OSError, match="Permission denied"):
        output_folder(read_only_folder)


@pytest.mark.parametrize(
    "text", ["../../etc/passwd", "CON", "a/b\\c", "日本", "", "%s" * 99, ".hidden", "~root"]
)
def test_slugs_are_harmless(text):
    assert set(slug(text)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert 1 <= len(slug(text)) <= 40
