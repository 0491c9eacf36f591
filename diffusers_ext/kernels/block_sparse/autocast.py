"""Make our own arithmetic follow autocast; FlexAttention does so in torch."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def dtype_of(x: Tensor) -> torch.dtype:
    """Return the dtype in which `x` takes part in arithmetic that follows autocast."""
    return torch.get_autocast_dtype(x.device.type) if _is_on(x) else x.dtype


def follows_autocast(attend: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function of `q, k, v` and more so that it follows autocast as dense attention does.

    If autocast is on, the function gets `q, k, v` in the dtype of autocast. It then runs with autocast off,
    because autocast would lower the precision of the products inside.
    """

    @wraps(attend)
    def run(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **named: Any) -> Any:
        if not _is_on(q):
            return attend(q, k, v, *rest, **named)
        cast = [x.to(dtype_of(x)) for x in (q, k, v)]
        with torch.autocast(q.device.type, enabled=False):
            return attend(*cast, *rest, **named)

    return run


def _is_on(x: Tensor) -> bool:
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)  # autocast raises for meta
