"""Back-ends say why they cannot run, and the choice repeats it."""

import pytest
import torch

from diffusers_ext.kernels.capabilities import Problem, choose, why_not
from tests import needs

CPU = Problem(torch.device("cpu"), torch.float32, 64, (128, 128))


def problem(**change):
    return Problem(**{name: change.get(name, getattr(CPU, name)) for name in Problem.__slots__})


def test_the_reference_runs_everything():
    for dtype in (torch.float64, torch.bfloat16):
        assert why_not("reference", problem(dtype=dtype, head_dim=256, blocks=(7, 9))) is None


def test_a_cpu_has_the_reference_only(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    choice = choose(CPU)
    assert choice.name == "reference" and "riton" in choice.why and not choice.why.endswith(".")
    with pytest.raises(ValueError, match=r"need a CUDA device, the tensors are on cpu|not installed"):
        choose(CPU, "triton")
    assert choose(CPU, "reference").why == "asked for"


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(dtype=torch.bfloat16), "wrong bfloat16 products"),
        (dict(dtype=torch.float64), "float16, bfloat16 and float32"),
        (dict(head_dim=256), "1 to 128 dims, got 256"),
        (dict(blocks=(8, 128)), "multiples of 16"),
    ],
)
def test_triton_in_its_interpreter(monkeypatch, change, words):
    pytest.importorskip("triton", reason=needs.TRITON)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose(CPU).name == "triton"
    assert words in why_not("triton", problem(**change))
    assert choose(problem(**change)).name == "reference"


def test_unknown_back_ends():
    with pytest.raises(ValueError, match="no back-end 'flash'; use triton, reference, flex"):
        choose(CPU, "flash")


@pytest.mark.parametrize("platform, found", [("linux", "DEFAULT"), ("linux", "SVE256"), ("darwin", "AVX2")])
def test_cpus_that_flex_attention_is_not_built_for(monkeypatch, platform, found):
    """torch ends in a trace of its compiler there."""
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: found)
    words = (
        f"needs AVX2 on a CPU and does not run on macOS, torch finds {found} on {platform}; use the reference"
    )
    with pytest.raises(ValueError, match=words):
        choose(CPU, "flex")


def test_flex_attention_without_a_compiler(monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"no g\+\+ on the path; use the reference"):
        choose(CPU, "flex")
