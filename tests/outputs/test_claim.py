"""Test that a folder has one writer, and that a killed writer does not block the next one."""

import json
import os
import signal
import subprocess
import sys

import pytest

from diffusers_ext.outputs.claim import FILE, FolderInUseError, claim

HOLD = """
import sys, time
from pathlib import Path
from diffusers_ext.outputs.claim import claim
with claim(Path(sys.argv[1]), "eval"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_writer_is_refused_until_the_first_ends_or_is_killed(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(FolderInUseError) as refusal, claim(tmp_path, "compare"):
        pass
    said = str(refusal.value)
    assert f"'eval' (process {other.pid} on " in said
    assert "since 20" in said and said.endswith("another --out")
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / FILE).exists(), "it could not clean up"
    with claim(tmp_path, "compare"):
        assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_claim_ends_with_its_context_also_after_an_error(tmp_path):
    with pytest.raises(KeyError), claim(tmp_path, "eval"):
        raise KeyError
    with claim(tmp_path, "eval"):
        pass
    assert not list(tmp_path.iterdir())


def test_damage_in_the_file_is_no_harm(tmp_path):
    (tmp_path / FILE).write_text("{")
    with (
        claim(tmp_path, "eval"),
        pytest.raises(FolderInUseError, match="by 'eval' "),
        claim(tmp_path, "eval"),
    ):
        pass


def test_commands_that_write_folders_ask_first(refused, saved_model, tmp_path):
    (tmp_path / "shapes-vae").mkdir()
    for folder, words in (
        (tmp_path / "shapes-vae", ["train", "shapes-vae"]),
        (tmp_path, ["train", "clear", "--set", "radius=2"]),
        (tmp_path, ["eval", "-m", saved_model, "--n", 1]),
    ):
        with claim(folder, "demo"):
            assert f"'{folder}' is being written to by 'demo' (process {os.getpid()} on " in refused(
                *words, "--out", tmp_path
            )


def test_a_folder_that_is_gone_is_one_sentence(tmp_path):
    with pytest.raises(OSError, match="was removed while the command ran"), claim(tmp_path / "gone", "eval"):
        pass
