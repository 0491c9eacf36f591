"""Run CLEAR on several devices, each of which has a horizontal strip of the picture.

Paper: Liu et al., "CLEAR: Conv-Like Linearization Revs Pre-Trained Diffusion Transformers Up" (arXiv
2412.16112), patch-wise multi-GPU inference. Except for attention a denoiser treats each token by itself. So
its input is cut into strips and its output is joined. Only keys and values beside the borders are sent. The
paper averages the text outputs of the devices; `text_merge="exact"` merges by log-sum-exp instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import MethodError, UnsupportedError
from ..families.denoisers import denoisers
from ..session.session import Session, apply

if TYPE_CHECKING:
    import torch.distributed as dist

    from ..processors.clear import CLEAR
    from .core import TextMerge


@contextmanager
def patch_parallel(
    target: Any, method: CLEAR, group: dist.ProcessGroup | None = None, text_merge: TextMerge = "exact"
) -> Iterator[Session]:
    """Run the denoiser of a pipeline (or a bare one) with CLEAR, one strip of rows on each rank of `group`.

    Every rank calls the pipeline with the same arguments and the same generator, and gets the full picture.
    `group` is the default process group when left out. `text_merge="mean"` is the paper's approximation.
    `backend="auto"` never leaves attention dense here: a rank has only the keys in and around its strip.

    Raises `UnsupportedError` for compiled blocks, for settings that need the full picture, and for denoisers
    that do not take a picture as tokens (SD3 cuts it up inside). Raises `MethodError` without a process group
    and for other methods than CLEAR. Calls raise for more ranks than rows, for inputs that differ between
    ranks, and outside of `torch.no_grad()`.
    """
    from .core import Split, StripMethod
    from .hook import StripHook, install

    split = Split(_group(group), _checked(method, text_merge))
    with apply(target, StripMethod(method, split)) as session:
        models = denoisers(target).values()
        undo = [install(model, StripHook(method, split)) for model in models]
        try:
            yield session
        finally:
            for remove in reversed(undo):
                remove()


def _group(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized():
        raise MethodError(
            "patch_parallel needs a process group, and none was set up; start with torchrun and call "
            "torch.distributed.init_process_group() first."
        )
    return dist.group.WORLD if group is None else group


def _checked(method: Any, text_merge: TextMerge) -> TextMerge:
    from ..processors.clear import CLEAR

    if not isinstance(method, CLEAR):
        raise MethodError(
            f"patch_parallel runs CLEAR, whose image tokens see only rows near their own, got "
            f"{type(method).__name__}; pass dx.CLEAR(...)."
        )
    if text_merge not in ("exact", "mean"):
        raise MethodError(f"text_merge must be exact or mean, got {text_merge!r}.")
    for name in ("dense_steps", "dense_layers", "downsample"):
        if getattr(method, name):
            raise UnsupportedError(
                f"patch_parallel has no more than a strip of the picture, but {name}="
                f"{getattr(method, name)} needs all of it; set {name}=0."
            )
    if method.reduce == "block":
        raise UnsupportedError(
            "patch_parallel exchanges the rows that a disk reaches, and whole tiles reach farther; use "
            "reduce='token'."
        )
    if method.backend == "flex":
        raise UnsupportedError(
            "patch_parallel needs the log-sum-exp of attention, which FlexAttention does not give here; use "
            "auto, triton or reference."
        )
    return text_merge
