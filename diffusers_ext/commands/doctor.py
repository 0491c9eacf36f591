"""Find out what is installed, what can compute, and why anything is missing. Nothing runs on a device."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ..versions import NEEDED, OPTIONAL, RANGES, installed, misfit, remedy

PACKAGES = (*NEEDED, *OPTIONAL, "triton", "gradio")
State = Literal["ok", "newer", "missing", "broken"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding is one line of the doctor.

    `state` is ok, newer (than what was tested), missing (harmless until needed) or broken (needs action).
    """

    section: str
    name: str
    state: State
    text: str


def examine() -> list[Finding]:
    """List all findings, in the order of reading: versions, devices, back-ends, models."""
    return [*_versions(), *_devices(), *_backends(), *_models()]


def _versions() -> list[Finding]:
    from .._version import __version__

    python = f"{platform.python_version()} on {platform.platform(terse=True)}"
    ours = [("diffusers-ext", "ok", __version__), ("python", "ok", python)]
    return [Finding("versions", *facts) for facts in (*ours, *((p, *_version(p)) for p in PACKAGES))]


def _version(package: str) -> tuple[State, str]:
    """Return state and text of one package."""
    version = installed(package)
    if version is None:
        if package in NEEDED:
            return "broken", f"not installed, but needed; run {remedy(package)}"
        return "missing", "not installed"
    wrong = misfit(package, version)
    if wrong is None:
        return "ok", version
    text = f"{version}, {wrong} than {RANGES[package]}; run {remedy(package)}"
    return ("broken", text) if wrong == "older" else ("newer", text)


def _devices() -> list[Finding]:
    import torch

    cpu = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    found = [Finding("devices", "cpu", "ok", cpu)]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(i)
            memory = f"{facts.total_memory / 2**30:.0f} GiB, compute capability {facts.major}.{facts.minor}"
            found.append(Finding("devices", f"cuda:{i}", "ok", f"{facts.name}, {memory}"))
    else:
        found.append(Finding("devices", "cuda", "missing", why_no_cuda() or ""))
    mps = torch.backends.mps
    why = "only on Apple machines" if not mps.is_built() else "macOS reports no Metal device"
    state: State = "ok" if mps.is_available() else "missing"
    found.append(Finding("devices", "mps", state, "Metal" if mps.is_available() else why))
    return found


def why_no_cuda() -> str | None:
    """Return one sentence that says why CUDA cannot be used, or `None` if it can."""
    import torch

    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} was built without CUDA; install a CUDA build from pytorch.org"
    return "torch has CUDA but sees no device; check the driver with nvidia-smi"


def why_no_flash() -> str | None:
    """Return why torch's own attention cannot use its flash kernel, or `None` if it can."""
    import torch

    if reason := why_no_cuda():
        return f"no GPU for it: {reason}"
    major, minor = torch.cuda.get_device_capability()
    return None if major >= 8 else f"needs compute capability 8.0, this GPU has {major}.{minor}"


def why_no_backend(backend: str) -> str | None:
    """Return why a block-sparse back-end cannot run a usual request on this machine, or `None` if it can."""
    import torch

    from ..kernels.block_sparse import capabilities

    if backend == "triton" and (reason := why_no_cuda()):
        return f"no GPU for it: {reason}"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    why = capabilities.why_not(backend, capabilities.Request(device, torch.float16, 64, (128, 128)))
    return why.rstrip(".") if why else None


BACKENDS: dict[str, Callable[[], str | None]] = {
    "torch sdpa": lambda: None,
    "torch sdpa, flash kernel": why_no_flash,
    "reference": partial(why_no_backend, "reference"),
    "flex attention": partial(why_no_backend, "flex"),
    "triton": partial(why_no_backend, "triton"),
}


def _backends() -> list[Finding]:
    reasons = {name: reason_of() for name, reason_of in BACKENDS.items()}
    return [
        Finding("attention back-ends", name, "missing" if reason else "ok", reason or _usable(name))
        for name, reason in reasons.items()
    ]


def _usable(name: str) -> str:
    """Return what a back-end that can run is good for."""
    from ..kernels.block_sparse import gains

    backend = {"flex attention": "flex", "triton": "triton", "reference": "reference"}.get(name)
    if backend is None:
        return "can be used"
    device = "cpu" if why_no_cuda() else gains.device_class()
    return f"can be used, {gains.limits(backend, device)}"


def _models() -> list[Finding]:
    from ..zoo import cards, catalogue

    found = []
    for name in (*catalogue.MODELS, *catalogue.REWARDS, *catalogue.NOISES):
        try:
            folder = _folder(name)
        except FileNotFoundError as error:
            found.append(Finding("models", name, "missing", str(error)))
            continue
        try:
            cards.verify_weights(folder)
        except (ValueError, OSError) as error:
            found.append(Finding("models", name, "broken", str(error)))
        else:
            found.append(Finding("models", name, "ok", "weights match their sha256"))
    return found


def _folder(name: str) -> Path:
    """Return the folder of a pipeline, a reward or an NPNet of the zoo.

    Raises `FileNotFoundError` if it is not installed.
    """
    from ..models.checkpoint import Checkpoint
    from ..zoo import catalogue

    if name in catalogue.MODELS:
        return Checkpoint.resolve(name).folder
    folder = catalogue.path(name)
    if not (folder / "config.json").is_file():
        kind = "reward" if name in catalogue.REWARDS else "NPNet"
        raise FileNotFoundError(
            f"{folder} holds no {kind}; install the package again, or run 'diffusers-ext train {name}'"
        )
    return folder
