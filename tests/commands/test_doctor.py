"""Test the doctor: versions against their ranges, devices, back-ends with reasons, models."""

import importlib.util
import platform
from types import SimpleNamespace

import pytest
import torch

import diffusers_ext as dx
from diffusers_ext.commands.doctor import PACKAGES, examine
from diffusers_ext.core import RunContext
from diffusers_ext.kernels.block_sparse.gains import COSTS, Costs
from diffusers_ext.versions import NEEDED
from diffusers_ext.zoo import catalogue

from ..processors.sparse.test_method import SITE, dense, layout_of, tensors


def findings(section):
    return {f.name: f for f in examine() if f.section == section}


def told(finding):
    return finding.state, finding.text


@pytest.fixture
def gpu(monkeypatch):
    """Fake a driver that reports one GPU of a given compute capability."""

    def put(major, minor):
        facts = SimpleNamespace(name="A GPU", total_memory=3 * 2**30, major=major, minor=minor)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: facts)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (major, minor))

    return put


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_versions_are_those_that_run():
    found = findings("versions")
    assert found["torch"].text == torch.__version__ and found["torch"].state == "ok"
    assert found["python"].text.startswith(platform.python_version())
    assert {"torch", "diffusers", "pillow", "triton", "gradio"} < set(PACKAGES) < set(found)
    assert {found[name].state for name in NEEDED} == {"ok"}


def test_versions_outside_their_ranges(tmp_path, monkeypatch, cli):
    for name, version in (("torch", "2.4.0"), ("diffusers", "0.43.1"), ("gradio", "6.31.0")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = findings("versions")
    newer = "0.43.1, newer than >=0.42,<0.43; run pip install 'diffusers>=0.42,<0.43'"
    assert told(found["torch"]) == ("broken", "2.4.0, older than >=2.9; run pip install 'torch>=2.9'")
    assert told(found["diffusers"]) == ("newer", newer)
    assert told(found["gradio"]) == ("ok", "6.31.0")
    assert found["transformers"].state == "ok"
    code, out, _ = cli("doctor")
    assert code == 1 and "broken   torch" in out and "newer    diffusers" in out


def test_packages_that_are_not_there(tmp_path, monkeypatch):
    """The path has no metadata, as if nothing was installed."""
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    found = findings("versions")
    assert told(found["torch"]) == ("broken", "not installed, but needed; run pip install 'torch>=2.9'")
    assert told(found["peft"]) == ("missing", "not installed")


def test_a_gpu_is_described(gpu):
    gpu(9, 0)
    found = findings("devices")
    assert found["cpu"].state == found["cuda:0"].state == "ok" and "cuda" not in found
    assert found["cuda:0"].text == "A GPU, 3 GiB, compute capability 9.0"


@pytest.mark.parametrize(
    "built, words", [(None, "was built without CUDA; install a CUDA build"), ("13.0", "check the driver")]
)
def test_no_gpu_says_what_is_missing(no_gpu, monkeypatch, built, words):
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.version, "hip", None)
    found = findings("devices")
    assert found["cpu"].state == "ok" and "cuda:0" not in found
    assert found["cuda"].state == "missing" and words in found["cuda"].text


def test_backends_without_a_gpu_say_so(no_gpu, monkeypatch, tmp_path):
    compiler = tmp_path / "g++"
    compiler.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CXX", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    costs = Costs(full=2.0, none=1.0, disk=3.0, box=4.0, band=5.0, gathers=0, source="as timed here")
    monkeypatch.setitem(COSTS, ("reference", "cpu"), costs)
    found = findings("attention back-ends")
    states = {name: f.state for name, f in found.items()}
    usable = {"torch sdpa": "ok", "reference": "ok", "flex attention": "ok"}
    assert states == usable | {"torch sdpa, flash kernel": "missing", "triton": "missing"}
    assert found["torch sdpa, flash kernel"].text.startswith("no GPU for it: torch")
    assert found["triton"].text == found["torch sdpa, flash kernel"].text
    words = "can be used, gains up to 0.45 of the blocks, 0.09 where all need checks (as timed here)"
    assert found["reference"].text == words
    compiler.unlink()
    why = "FlexAttention compiles C++ on a CPU, and there is no g++ on the path; use the reference"
    assert told(findings("attention back-ends")["flex attention"]) == ("missing", why)


@pytest.mark.parametrize("capability, flash", [((8, 0), "ok"), ((7, 5), "missing")])
def test_backends_with_a_gpu(gpu, monkeypatch, capability, flash):
    gpu(*capability)
    found = findings("attention back-ends")
    assert found["torch sdpa, flash kernel"].state == flash
    texts = [f.text for f in found.values()]
    assert flash == "ok" or "needs compute capability 8.0, this GPU has 7.5" in texts
    there = importlib.util.find_spec
    for spec, state in ((object(), "ok"), (None, "missing")):
        find = lambda name, s=spec: s if name == "triton" else there(name)  # noqa: E731
        monkeypatch.setattr(importlib.util, "find_spec", find)
        found = findings("attention back-ends")
        assert found["flex attention"].state == state
        assert found["triton"].state == (state if capability == (8, 0) else "missing")
        assert state == "ok" or found["triton"].text.startswith("Triton is not installed")
        assert flash == "ok" or state != "ok" or "compute capability 8.0, got 7.5" in found["triton"].text


def test_a_back_end_says_what_its_error_says(no_gpu, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    method = dx.CLEAR(2, backend="flex")
    core = method.bind(SITE, RunContext(), dense)
    layout = layout_of((1, 5, 7), 0, front=False)
    with pytest.raises(dx.UnsupportedError) as error:
        core(*tensors(layout, batch=1), None, layout)
    text = findings("attention back-ends")["flex attention"].text
    assert text.startswith("FlexAttention needs AVX2 on a CPU") and str(error.value) == f"clear: {text}."


def test_models_ok_missing_and_broken(tmp_path, monkeypatch):
    names = "shapes-sd3", "shapes-clip"  # a pipeline and a reward
    assert set(names) <= set(findings("models")) == {*catalogue.MODELS, *catalogue.REWARDS, *catalogue.NOISES}

    def states():
        found = findings("models")
        return [found[name].state for name in names]

    assert states() == ["ok", "ok"]
    monkeypatch.setattr(catalogue, "path", lambda name: tmp_path)
    assert states() == ["missing", "missing"]
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    assert states() == ["broken", "broken"]
