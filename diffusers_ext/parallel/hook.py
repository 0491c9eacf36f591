"""The hook that gives each rank its strip of the denoiser's input and joins the output."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.hooks.hooks import ModelHook
from torch import Tensor, nn

from ..errors import UnsupportedError
from ..families import family_of
from ..families.base import with_prediction
from ..processors.clear import CLEAR
from ..session.hook import by_name
from ..session.registration import install as install_hook
from .core import Split
from .exchange import gathered, stacked
from .strips import cut

NAME = "diffusers_ext_strips"
APART = 1e-5  # relative difference of inputs between two ranks that is rounding, not other noise


class StripHook(ModelHook):
    """A hook above that of the session, which therefore gets a call with a strip."""

    def __init__(self, method: CLEAR, split: Split) -> None:
        super().__init__()
        self.method = method
        self.split = split

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            raise UnsupportedError(
                "patch_parallel has no gradients between processes; call the model under torch.no_grad()."
            )
        call, family, split = by_name(module, args, kwargs), family_of(module), self.split
        layout = family.layout(module, call)
        if not layout.raster:
            raise UnsupportedError(
                f"patch_parallel needs the grid of the tokens, got a sequence of {layout.tokens} that is no "
                "single grid (reference images do that)."
            )
        if (why := self.method.refuses(layout.grid)) is not None:
            raise UnsupportedError(f"{why}.")
        extra = [k for k, v in call.items() if isinstance(v, (list, tuple)) and len(v)]
        if extra:
            raise UnsupportedError(
                f"patch_parallel does not know how to cut {', '.join(extra)} into strips; leave ControlNet "
                "out."
            )
        self._same(call)
        _, rows, width = layout.grid
        split.grid, split.strips = layout.grid, cut(rows, split.group.size())
        first, last = split.strips[split.rank]
        for name, axis in family.token_axes.items():
            call[name] = call[name].narrow(axis, first * width, (last - first) * width)
        out = self.fn_ref.original_forward(**call)
        own = out[0].unflatten(1, (last - first, width))
        picture = gathered(own, split.strips, split.group).flatten(1, 2)
        return with_prediction(out, picture)

    def _same(self, call: Mapping[str, Any]) -> None:
        """Raise if ranks were given different latents or prompts: the strips would not fit together."""
        tensors = [x.double() for x in call.values() if isinstance(x, Tensor) and x.is_floating_point()]
        sums = torch.stack([torch.stack([x.sum(), x.abs().sum()]) for x in tensors])
        all_sums = stacked(sums, self.split.group)
        apart = (all_sums[..., 0] - all_sums[:1, :, 0]).abs() > APART * all_sums[..., 1].clamp(min=1e-12)
        if bool(apart.any()):
            raise UnsupportedError(
                "patch_parallel cuts one picture into strips, but the ranks were given different inputs; "
                "pass the same prompt and a generator with the same seed on every rank."
            )


def install(model: nn.Module, hook: StripHook) -> Callable[[], str | None]:
    """Register the hook above that of the session; return the undo.

    Raises `UnsupportedError` as `patch_parallel` does.
    """
    if not family_of(model).token_axes:
        raise UnsupportedError(
            f"patch_parallel cuts the tokens that a denoiser takes, but {type(model).__name__} takes latents "
            "and cuts them up inside; FLUX.1 is supported."
        )
    if any(getattr(m, "_compiled_call_impl", None) is not None for m in model.modules()):
        raise UnsupportedError(
            f"patch_parallel talks between processes inside attention, which compiled blocks of "
            f"{type(model).__name__} cannot; load the model anew without compile()."
        )
    return install_hook(model, hook, NAME)
