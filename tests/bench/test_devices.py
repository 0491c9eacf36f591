"""Test that benches refuse a missing CUDA in one sentence, before they write anything."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
BENCHES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "bench").rglob("*.py"))
    if re.search(r'argument\("--device"|options\(__doc__', path.read_text()) and path.stem != "runner"
]


def test_the_timed_benches_are_among_them():
    timed = "blocks", "growth", "guidance_cost", "sparse_kernels"
    assert {*BENCHES} >= {"bench.gpu", "bench.gpu_tests", *(f"bench.timing.{name}" for name in timed)}


@pytest.mark.parametrize("name", BENCHES)
def test_no_cuda_is_one_sentence(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "--device", "cuda", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(name).main()
    assert re.fullmatch(r"error: .*cuda.*--device cpu.*", stop.value.code) and capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
