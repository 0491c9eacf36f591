"""The rule of autocast for our own arithmetic; FlexAttention has torch's."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def follows_autocast(attend: Callable[..., Any]) -> Callable[..., Any]:
    """A function of `q, k, v` and more that gets them in the dtype of autocast where that is on, as dense
    attention does, and runs with autocast off, which would take precision from its own products.
    """

    @wraps(attend)
    def run(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **named: Any) -> Any:
        if not torch.is_autocast_enabled(place := q.device.type):
            return attend(q, k, v, *rest, **named)
        cast = (x.to(torch.get_autocast_dtype(place)) for x in (q, k, v))
        with torch.autocast(place, enabled=False):
            return attend(*cast, *rest, **named)

    return run
