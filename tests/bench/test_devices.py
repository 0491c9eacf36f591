"""Every bench that takes a device says in one sentence where there is no CUDA, before it writes anything."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

import bench

BENCHES = [
    path.stem
    for path in sorted(Path(bench.__file__).parent.glob("*.py"))
    if re.search(r'argument\("--device"|options\(__doc__', path.read_text()) and path.stem != "runner"
]


def test_the_timed_benches_are_among_them():
    assert set(BENCHES) >= {"blocks", "gpu", "gpu_tests", "growth", "guidance_cost", "sparse_kernels"}


@pytest.mark.parametrize("name", BENCHES)
def test_no_cuda_is_one_sentence(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "--device", "cuda", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"bench.{name}").main()
    assert re.fullmatch(r"error: .*cuda.*--device cpu.*", stop.value.code) and capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
