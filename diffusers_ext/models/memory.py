"""Check that a picture or video fits into memory, before anything runs."""

import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..families.latents import denoiser_of
from .sizes import Tokens, cut_of

PLENTY = 16384  # bytes a pixel and frame; known autoencoders need less, so smaller requests are not checked
STREAMS = 8  # tensors of a denoiser's width in memory at once: states, norms, q, k, v, and the wider middle
SMALL = (8, 3)  # latents on a side and latent frames with which an autoencoder is measured


def check(pipe: Any, call: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a size whose picture cannot fit into free memory, with the largest that can.

    It is a lower bound: a size that passes may still run out of memory.
    """
    usual = cut_of(pipe)
    size = {
        name: call.get(name) or getattr(usual, name)
        for name in ("height", "width", *(["num_frames"] if usual.frames else []))
    }
    count = size["height"] * size["width"] * size.get("num_frames", 1)
    device = torch.device(getattr(pipe, "device", "cpu"))
    free = free_bytes(device)
    if not count or free is None or count * PLENTY < free:
        return
    once, each = decoder_bytes(pipe.vae, bool(usual.frames)) if hasattr(pipe, "vae") else (0.0, 0.0)

    def needs(size: Mapping[str, int]) -> int:
        area = size["height"] * size["width"]
        return max(int(area * (once + each * size.get("num_frames", 1))), denoiser_bytes(pipe, usual, size))

    needed = needs(size)
    if needed <= free:
        return
    # The side that is furthest from usual gives way.
    name = max(size, key=lambda name: size[name] / max(getattr(usual, name), 1))
    step = usual.frames if name == "num_frames" else usual.unit_px or usual.edge_px
    first = 1 if name == "num_frames" else step
    low, high = 0, (size[name] - first) // step
    while low < high:
        middle = (low + high + 1) // 2
        fits = needs(size | {name: first + middle * step}) <= free
        low, high = (middle, high) if fits else (low, middle - 1)
    rest = " and ".join(f"{key} {value}" for key, value in size.items() if key != name)
    raise ValueError(
        f"{type(pipe).__name__} needs at least {_gib(needed)} beside the model for {name} {size[name]}, and "
        f"{_gib(free)} are free on {device}; with {rest} the largest {name} that may fit is "
        f"{first + low * step}"
    )


def free_bytes(device: torch.device) -> int | None:
    """Find the memory that is still free on a device; `None` if it is not known."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type != "cpu" or os.name != "posix":
        return None
    import resource

    found = []
    if (meminfo := Path("/proc/meminfo")).exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    else:  # other systems do not say what caches would give back
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and (status := Path("/proc/self/statm")).exists():
        found.append(limit - int(status.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE"))
    group = Path("/sys/fs/cgroup")
    if (most := group / "memory.max").exists() and (text := most.read_text().strip()) != "max":
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
        found.append(int(text) - used)
    return max(min(found), 0)


def denoiser_bytes(pipe: Any, tokens: Tokens, size: Mapping[str, int]) -> int:
    """Count the least bytes that the states of the denoiser need, without maps of attention."""
    model = denoiser_of(pipe)
    if model is None:
        return 0
    if channels := model.config.get("block_out_channels"):
        width = channels[0]
    else:
        heads, head = (model.config.get(name) for name in ("num_attention_heads", "attention_head_dim"))
        width = heads * head if isinstance(heads, int) and isinstance(head, int) else 0
    frames = (size.get("num_frames", 1) - 1) // (tokens.frames or 1) + 1
    count = frames * (size["height"] // tokens.edge_px) * (size["width"] // tokens.edge_px)
    return count * width * STREAMS * next(model.parameters()).element_size()


def decoder_bytes(vae: Any, video: bool) -> tuple[float, float]:
    """Measure bytes at the peak of a decoder for each pixel of the picture, and for each of its frames.

    They are measured on a few latents without contents. Both are 0 for a decoder that works in tiles, and for
    one that cannot run without contents.
    """
    hooked = hasattr(vae, "_hf_hook") or hasattr(vae, "_diffusers_hook")  # they would move its weights
    if vae is None or hooked or getattr(vae, "use_tiling", False):
        return 0.0, 0.0
    side, frames = SMALL
    try:
        if not video:
            return _peak(vae, side)[0], 0.0
        (few, n), (more, m) = _peak(vae, side, frames), _peak(vae, side, 2 * frames)
    except Exception:  # a decoder may fail without contents, and the call itself may be fine
        return 0.0, 0.0
    each = (more - few) / (m - n)
    return max(few - each * n, 0.0), each


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _peak(vae: Any, side: int, *frames: int) -> tuple[float, int]:
    """Measure bytes a pixel at the peak of a decoder, and frames, on tensors without contents."""
    channels = vae.config.get("latent_channels") or vae.config.get("z_dim")
    live = Live()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        latents = torch.empty((1, channels, *frames, side, side), dtype=vae.dtype, device=vae.device)
        with live:
            found = vae.decode(latents, return_dict=False)[0]
    return live.peak / (found.shape[-2] * found.shape[-1]), found.shape[2]


class Live(TorchDispatchMode):
    """Counts the bytes of storages that are in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.note(tensor.untyped_storage())
        return out

    def note(self, storage: Any) -> None:
        key = storage._cdata
        if key in self.seen:
            return
        size = storage.nbytes()

        def gone(_: Any) -> None:
            self.now -= size
            self.seen.pop(key, None)

        self.seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)
