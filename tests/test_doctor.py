import platform
from importlib import metadata

import torch

from diffusers_ext import zoo
from diffusers_ext.doctor import (
    BACKENDS,
    PACKAGES,
    examine,
    why_no_cuda,
    why_no_flash,
    why_no_flex,
    why_no_triton,
)


def findings(section):
    return {f.name: f for f in examine() if f.section == section}


def test_versions_are_those_that_run():
    found = findings("versions")
    assert found["torch"].text == torch.__version__
    assert found["python"].text.startswith(platform.python_version())
    assert set(PACKAGES) < set(found)
    for name in PACKAGES:
        installed = bool(list(metadata.distributions(name=name)))
        assert (found[name].state == "ok") == installed


def test_devices_agree_with_torch():
    found = findings("devices")
    assert found["cpu"].state == "ok"
    assert ("cuda:0" in found) == torch.cuda.is_available()
    assert (why_no_cuda() is None) == torch.cuda.is_available()


def test_every_backend_can_be_used_or_says_why_not():
    found = findings("attention back-ends")
    assert list(found) == list(BACKENDS)
    for name, why_not in BACKENDS.items():
        reason = why_not()
        assert found[name].state == ("missing" if reason else "ok")
        assert len(found[name].text) > 10 or not reason
    assert found["torch sdpa"].state == "ok"


def test_a_gpu_backend_passes_on_the_reason_for_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert why_no_flash().startswith("no GPU for it: torch")
    assert "triton is not installed" in why_no_triton() or "no GPU for it" in why_no_triton()


def test_flex_attention_needs_avx2_on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert why_no_flex() == "on a CPU torch has it for AVX2 alone, and not on macOS"


def test_models_ok_missing_and_broken(tmp_path, monkeypatch):
    names = "shapes-sd3", "shapes-clip"  # a pipeline and a reward
    assert set(names) <= set(findings("models")) == {*zoo.MODELS, *zoo.REWARDS}

    def states():
        found = findings("models")
        return [found[name].state for name in names]

    assert states() == ["ok", "ok"]
    monkeypatch.setattr(zoo, "path", lambda name: tmp_path)
    assert states() == ["missing", "missing"]
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    assert states() == ["broken", "broken"]
