"""Everything that the tests of a family need to know: how a tiny model is built and called."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from diffusers_ext.families.base import Family

TEXT_TOO = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


class Config:
    """Facts that a class of tests states once; mixins read them."""

    family: ClassVar[Family]
    build: ClassVar[Callable[..., nn.Module]]  # a tiny model, in eval mode
    inputs: ClassVar[Callable[..., dict[str, Any]]]  # arguments of a denoiser call: batch, then options
    stock: ClassVar[type]  # the processor class that diffusers installs
    host: ClassVar[str]  # a pipeline of tests.hosts
    timestep: ClassVar[float] = 500.0  # that the calls have, on the scale of the scheduler
    adapted: ClassVar[tuple[str, ...]] = ()  # what LoRA may adapt besides q, k, v and the output
    outside: ClassVar[str] = ""  # part of the names of attention modules that are no sites
    odd: ClassVar[tuple[dict[str, int], ...]] = ()  # options of calls of odd sizes
