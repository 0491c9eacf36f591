"""What every model family provides, and the processor they share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from ..core import Core, Layout, RunContext, Site
from ..errors import UnsupportedError
from . import latents

Select = Callable[[Sequence[Site]], list[Site]]  # the sites that a method picks


class FamilyProcessor:
    """A diffusers attention processor that stops at the attention call and hands over to a core.

    Subclasses write `__call__` (the host's arithmetic, same order, all keyword names spelled out because the
    host filters by signature) and `dense` (the host's own attention call). They are plain classes and own no
    tensors, so that offloading, `state_dict` and device moves never see them.
    """

    _attention_backend = None

    def __init__(self, site: Site | None = None, run: RunContext | None = None) -> None:
        if site is None or run is None:
            # IP-Adapter loaders rebuild every processor by `processor.__class__()`.
            raise UnsupportedError(
                f"{type(self).__name__} belongs to an applied session and cannot be built without one; "
                "close the session, load the IP-Adapter, then apply again."
            )
        self.site = site
        self.run = run
        self.calls = 0
        self.core: Core = self.dense
        # Whether a method here looks at the layout: deriving a site's own from the joint one ties a compiled
        # graph to one size of image.
        self.reads_layout = False

    @property
    def _parallel_config(self) -> None:
        return None

    @_parallel_config.setter
    def _parallel_config(self, config: Any) -> None:
        if config is not None:
            raise UnsupportedError(
                "Context parallelism shards the sequence before our attention core sees it, which would "
                "attend to the "
                "local shard only; close the session before enable_parallelism()."
            )

    def dense(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        """The host's own attention on `q, k, v [B, N, H, D]`."""
        raise NotImplementedError(f"{type(self).__name__} must define dense()")

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        """Runs the core, and counts the call where that costs no compiled graph."""
        if not torch.compiler.is_compiling():
            self.calls += 1
        return self.core(q, k, v, mask, layout)


class SDPAProcessor(FamilyProcessor):
    """For hosts that call scaled_dot_product_attention themselves and know no attention back-ends."""

    def dense(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        """`q [B, N, H, D]`, `k, v [B, L, H, D]`; the transposes are views, so the host's bits come out."""
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=0.0, is_causal=False)
        return out.transpose(1, 2)


class DispatchProcessor(FamilyProcessor):
    """For hosts that call `dispatch_attention_fn`: the back-end that the user chose is honoured."""

    def dense(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        """`q [B, N, H, D]`, `k, v [B, L, H, D]`."""
        return dispatch_attention_fn(q, k, v, attn_mask=mask, backend=self._attention_backend)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`[B, N, C]` -> `[B, H, N, D]`, the order in which SDPA hosts norm and join."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class Family(ABC):
    """Facts and arithmetic of one denoiser class; stateless. Each family is one file and inherits from this.

    A denoiser takes its tokens one by one where positions travel with them. Then `token_axes` names the
    forward arguments with an entry for each grid token, with their axes of tokens. `order_free` names those
    without such an entry; of dictionaries it names the entries.
    """

    name: ClassVar[str]
    denoisers: ClassVar[tuple[str, ...]]  # class names of the denoisers it knows
    stock: ClassVar[frozenset[str]]  # class names of the host processors it reproduces bit for bit
    cfg: ClassVar[Literal["batch", "two_calls"]]  # how the host's pipelines run classifier-free guidance
    unbatched: ClassVar[frozenset[str]] = frozenset()  # forward arguments without a batch axis
    rotary: ClassVar[str | None] = None  # path of the module that reads `theta` in each call, if any
    token_axes: ClassVar[Mapping[str, int] | None] = None
    order_free: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def sites(self, model: nn.Module, component: str) -> list[Site]:
        """Every attention module of the denoiser, in model order."""

    @abstractmethod
    def processor(self, site: Site, run: RunContext) -> FamilyProcessor:
        """Our processor for one site, with the dense core."""

    @abstractmethod
    def layout(self, model: nn.Module, call: Mapping[str, Any]) -> Layout:
        """The joint layout of a denoiser call, from its arguments by name."""

    def timestep(self, call: Mapping[str, Any]) -> Tensor | float:
        """The timestep of a denoiser call, `[B]` or a scalar, on the scale of `scheduler.timesteps`."""
        return call["timestep"]

    def batch(self, call: Mapping[str, Any]) -> int:
        """The number of rows of a denoiser call."""
        return call["hidden_states"].shape[0]

    def text_tokens(self, pipe: Any) -> int:
        """How many text tokens stand in the attention sequence of a pipeline, padding included."""
        return latents.defaults(pipe)["max_sequence_length"]

    def levels(self, model: nn.Module, component: str, select: Select | None = None) -> tuple[int, ...]:
        """How often the grid of latents is halved at the sites that `select` picks, finest first."""
        return (0,)

    def noise_shape(self, pipe: Any, call: Mapping[str, Any]) -> tuple[int, ...]:
        """The shape of the latents that `pipe(**call)` draws.

        It is `[B, C, H, W]`, or `[B, C, T, H, W]` of a video, where the pipeline does not pack them.
        """
        size, config = latents.size(pipe, call), latents.config_of(pipe)
        channels = config.get("out_channels") or config["in_channels"]
        sides = (size[name] // latents.spatial(pipe) for name in ("height", "width"))
        video = "num_frames" in latents.defaults(pipe)
        frames = [(size["num_frames"] - 1) // latents.temporal(pipe) + 1] if video else []
        return (latents.rows(call), channels, *frames, *sides)

    def decode(self, pipe: Any, x: Tensor, call: Mapping[str, Any]) -> Tensor:
        """The pictures of the latents `x` at the end of `pipe(**call)`, from 0 to 1, with gradients.

        They are those of `output_type="pt"`: `[B, 3, H, W]`, or `[B, T, 3, H, W]` of a video. Watermarks and
        safety checkers are left out. Raises `UnsupportedError` for a pipeline without an autoencoder.
        """
        vae = self.autoencoder(pipe)
        pictures = latents.decoded(vae, self.to_autoencoder(pipe, x, call))
        if pictures.ndim == 5:
            return pipe.video_processor.postprocess_video(pictures, output_type="pt")
        return pipe.image_processor.postprocess(pictures, output_type="pt")

    def autoencoder(self, pipe: Any) -> nn.Module:
        """The autoencoder that `decode` runs, as the host runs it."""
        return latents.autoencoder(pipe)

    def to_autoencoder(self, pipe: Any, x: Tensor, call: Mapping[str, Any]) -> Tensor:
        """The latents `x` of a pipeline on the scale, and in the shape, that its autoencoder decodes."""
        config = pipe.vae.config
        return x / config.scaling_factor + (getattr(config, "shift_factor", None) or 0)


def with_prediction(out: Any, prediction: Tensor) -> Any:
    """The output of a denoiser, a tuple or an output object, with another tensor in the first place."""
    if isinstance(out, tuple):
        return (prediction, *out[1:])
    return type(out)(**{**out, next(iter(out)): prediction})


def take_rows(value: Any, batch: int, rows: slice, unbatched: frozenset[str] = frozenset()) -> Any:
    """`value` with every tensor of `batch` rows cut to `rows`; containers are copied, so the host's stay as
    they are.
    """
    if isinstance(value, Tensor):
        return value[rows] if value.ndim > 0 and value.shape[0] == batch else value
    if isinstance(value, Mapping):
        return {k: v if k in unbatched else take_rows(v, batch, rows, unbatched) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(take_rows(v, batch, rows, unbatched) for v in value)
    return value
