"""Back-ends say why they cannot run, and the choice repeats it."""

import pytest
import torch

from diffusers_ext.kernels.block_sparse.capabilities import Request, choose, interpreted, why_not
from tests import needs

CPU = Request(torch.device("cpu"), torch.float32, 64, (128, 128))


def request(**change):
    return Request(**{name: change.get(name, getattr(CPU, name)) for name in Request.__slots__})


def test_the_reference_runs_everything():
    for dtype in (torch.float64, torch.bfloat16):
        assert why_not("reference", request(dtype=dtype, head_dim=256, blocks=(7, 9))) is None


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
    assert words in why_not("triton", request(**change))
    assert choose(request(**change)).name == "reference"


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


@pytest.mark.parametrize(
    "platform, named, words",
    [("linux", None, r"g\+\+"), ("linux", "clang++", r"clang\+\+"), ("win32", None, "cl")],
)
def test_flex_attention_without_a_compiler(monkeypatch, platform, named, words):
    """torch takes the one that CXX names, and looks for no other."""
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("shutil.which", lambda name: None)  # the one of Windows asks Windows
    monkeypatch.delenv("CXX", raising=False)
    if named:
        monkeypatch.setenv("CXX", named)
    with pytest.raises(ValueError, match=rf"no {words} on the path; use the reference"):
        choose(CPU, "flex")


@pytest.mark.parametrize("value, on", [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_interpreter_is_on_where_triton_says_so(monkeypatch, value, on):
    triton = pytest.importorskip("triton", reason=needs.TRITON)
    monkeypatch.setenv("TRITON_INTERPRET", value)
    assert interpreted() is on is bool(triton.knobs.runtime.interpret)
