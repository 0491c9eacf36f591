"""Test that every example runs as it is shown."""

import shutil
from pathlib import Path

import pytest

from .jobs import lines, pictures

EXAMPLES = Path(__file__).parents[2] / "examples"
COUNTS = {"first": 12, "grid": 4, "best-of-n": 3, "geneval": 12, "variants": 4, "clips": 1}


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.toml")} == COUNTS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_examples_run(cli, tmp_path, name):
    folder = shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("out"))
    code, said, err = cli("run", folder / f"{name}.toml")
    out = folder / "out" / name
    assert (code, err) == (0, "") and f"{COUNTS[name]} of {COUNTS[name]} " in said
    assert len(lines(out)) == COUNTS[name] and all(line["status"] == "done" for line in lines(out))
    if name == "geneval":
        assert len(pictures(out)) == 12 and (out / "00002" / "samples" / "00003.png").is_file()
        assert {p.name for p in (out / "00000").iterdir()} == {"metadata.jsonl", "samples"}
    if name == "clips":
        (clip,) = out.glob("*.gif")
        assert cli("show", clip)[0] == 0, "its record is beside it"
