"""Define what every model family provides, and the processor that families share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from ..core import Core, Layout, Rotary, RunContext, Site
from ..errors import UnsupportedError
from . import latents, texts

Kind = Literal["self", "joint", "cross"]
Select = Callable[[Sequence[Site]], list[Site]]  # returns the sites that a method picks


class OfSession:
    """A part of a session, which is neither copied nor pickled with the model that it is on."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise UnsupportedError(
            "A model under a session cannot be copied or pickled, since its methods belong to the session; "
            "close the session first, share the model by copy.copy(pipe), or write save_pretrained()."
        )


class FamilyProcessor(OfSession):
    """A diffusers attention processor that stops at the attention call and hands over to a core.

    Subclasses define `__call__` and `dense`. `__call__` has the arithmetic of diffusers in the same order. It
    spells all keyword names out, because diffusers filters by signature. `dense` is the attention call of
    diffusers. They are plain classes and own no tensors, so that offloading, `state_dict` and device moves
    never see them.
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
        self.timer: AbstractContextManager[None] = nullcontext()
        self.core: Core = self.dense
        # Whether a method here looks at the layout. To derive a site's own from the joint one ties a compiled
        # graph to one size of image.
        self.reads_layout = False
        self.reads_cross_text = False  # whether `run.cross_text` is for this site

    @property
    def _parallel_config(self) -> None:
        return None

    @_parallel_config.setter
    def _parallel_config(self, config: Any) -> None:
        if config is not None:
            raise UnsupportedError(
                "Context parallelism shards the sequence before our attention core sees it, which would "
                "attend to the local shard only; close the session before enable_parallelism()."
            )

    def dense(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        """Compute the attention of diffusers on `q, k, v [B, N, H, D]`."""
        raise NotImplementedError(f"{type(self).__name__} must define dense()")

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        """Run the core, and count and time the call if that costs no compiled graph."""
        if torch.compiler.is_compiling():
            return self.core(q, k, v, mask, layout)
        self.calls += 1
        with self.timer:
            return self.core(q, k, v, mask, layout)


class SDPAProcessor(FamilyProcessor):
    """A processor for models that call scaled_dot_product_attention and know no attention back-ends."""

    def dense(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        """Attend from `q [B, N, H, D]` to `k, v [B, L, H, D]`.

        The transposes are views, so the result has the same bits as that of diffusers.
        """
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=0.0, is_causal=False)
        return out.transpose(1, 2)


class DispatchProcessor(FamilyProcessor):
    """A processor for models that call `dispatch_attention_fn`; it uses the back-end that the user chose."""

    def dense(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
        """Attend from `q [B, N, H, D]` to `k, v [B, L, H, D]`."""
        return dispatch_attention_fn(q, k, v, attn_mask=mask, backend=self._attention_backend)


def normed(norm: nn.Module | None, x: Tensor) -> Tensor:
    """Apply a norm that a model may lack."""
    return x if norm is None else norm(x)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split heads, `[B, N, C]` -> `[B, H, N, D]`, the order in which models with SDPA norm and join."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class FusableSite(Site):
    """A site where diffusers may run a processor for fused projections; `fused` says that it does.

    It is read off the processor, since the flag `fused_projections` of the module stays set after unfusing.
    """

    fused: bool = False

    __hash__ = Site.__hash__  # a dataclass makes its own otherwise


def numbered(
    found: Iterable[tuple[str, nn.Module, Kind]], component: str, rotary: Rotary | None = None
) -> list[FusableSite]:
    """Make sites of attention modules, each `(name, module, kind)`, in the order in which they run."""
    return [
        FusableSite(
            name=name,
            index=index,
            heads=attn.heads,
            head_dim=attn.inner_dim // attn.heads,
            kind=kind,
            component=component,
            rotary=None if kind == "cross" else rotary,
            fused=type(attn.processor).__name__.startswith("Fused"),
        )
        for index, (name, attn, kind) in enumerate(found)
    ]


def double_then_single(model: nn.Module, component: str, rotary: Rotary) -> list[FusableSite]:
    """Return the joint attention of double blocks, then of single blocks: the order in which they run."""
    stacks = "transformer_blocks", "single_transformer_blocks"
    found = ((f"{stack}.{i}.attn", b.attn) for stack in stacks for i, b in enumerate(getattr(model, stack)))
    return numbered(((name, attn, "joint") for name, attn in found), component, rotary)


def vision_first(grid: tuple[int, int, int], call: Mapping[str, Any], masked_text: bool = False) -> Layout:
    """Return the layout of a grid with all rows of `encoder_hidden_states` behind it."""
    tokens = math.prod(grid)
    text = slice(tokens, tokens + call["encoder_hidden_states"].shape[1])
    return Layout(grid, text, slice(0, tokens), masked_text)


class Family(ABC):
    """Facts and arithmetic of one denoiser class, without state; each family inherits from it in one file.

    If positions travel with the tokens, a denoiser takes its tokens in any order. Then `token_axes` maps the
    forward arguments that have an entry for each grid token to their token axes. `order_free` names the
    arguments without such an entry; for a dictionary it names the entries.
    """

    name: ClassVar[str]
    denoisers: ClassVar[tuple[str, ...]]  # class names of the denoisers it knows
    stock: ClassVar[frozenset[str]]  # class names of the diffusers processors it reproduces bit for bit
    cfg: ClassVar[Literal["batch", "two_calls"]]  # how pipelines of diffusers run classifier-free guidance
    unbatched: ClassVar[frozenset[str]] = frozenset()  # forward arguments without a batch axis
    rotary: ClassVar[str | None] = None  # path of the module that reads `theta` in each call, if any
    token_axes: ClassVar[Mapping[str, int] | None] = None
    order_free: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def sites(self, model: nn.Module, component: str) -> list[Site]:
        """Return every attention module of the denoiser, in model order."""

    def hides_prompt(self, model: nn.Module) -> str | None:
        """Return why cross-attention does not see the tokens of a prompt as `encode_prompt` gives them.

        It is `None` if it sees them, and if processors of cross-attention read `RunContext.cross_text`.
        """
        return "have no cross-attention to the prompt as the text encoder gives it"

    @abstractmethod
    def processor(self, site: Site, run: RunContext) -> FamilyProcessor:
        """Return our processor for one site, with the dense core."""

    @abstractmethod
    def layout(self, model: nn.Module, call: Mapping[str, Any]) -> Layout:
        """Return the joint layout of a denoiser call, from its arguments by name."""

    def layout_values(self, call: Mapping[str, Any]) -> Tensor | None:
        """Return the tensor whose values `layout` reads; `None` if it reads shapes alone."""
        return None

    def timestep(self, call: Mapping[str, Any]) -> Tensor | float:
        """Return the timestep of a denoiser call, `[B]` or a scalar, in units of `scheduler.timesteps`."""
        return call["timestep"]

    def batch(self, call: Mapping[str, Any]) -> int:
        """Return the number of rows of a denoiser call."""
        return call["hidden_states"].shape[0]

    def text_tokens(self, pipe: Any) -> int:
        """Return the number of text tokens in the attention sequence of a pipeline, padding included."""
        return latents.defaults(pipe)["max_sequence_length"]

    def text_parts(self, pipe: Any, prompt: str, call: Mapping[str, Any]) -> tuple[texts.TextPart, ...]:
        """Return where the tokens of a prompt are among the text keys of `pipe(prompt, **call)`.

        There is a part for each list of tokens. Without any, the text keys are not the tokens of a prompt.
        """
        return ()

    def one_text(self, model: nn.Module) -> str | None:
        """Return why tokens of a second text cannot stand beside those of the prompt; `None` if they can.

        All but attention must be token-wise in the text, before the blocks and in them.
        """
        return f"models of the family {self.name} mix all tokens of a text before their blocks"

    def encode_text(self, pipe: Any, text: str, tokens: int) -> Tensor:
        """Encode a text as `pipe` encodes its prompts: `[1, tokens, C]`, if its prompts have as many tokens.

        Raises `UnsupportedError` for a pipeline that cannot encode.
        """
        return texts.encoded(pipe, text, tokens)

    def with_second_text(self, call: Mapping[str, Any], text: Tensor) -> dict[str, Any]:
        """Return a denoiser call with `text [1, L, C]` behind the text of each of its rows."""
        return {**call, "encoder_hidden_states": texts.joined(call["encoder_hidden_states"], text)}

    def levels(self, model: nn.Module, component: str, select: Select | None = None) -> tuple[int, ...]:
        """Return how often the grid of latents is halved at the sites that `select` picks, finest first."""
        return (0,)

    def noise_shape(self, pipe: Any, call: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the shape of the latents that `pipe(**call)` draws.

        It is `[B, C, H, W]`, or `[B, C, T, H, W]` for a video, unless the pipeline packs latents.
        """
        size = latents.size(pipe, call)
        sides = (size[name] // latents.spatial(pipe) for name in ("height", "width"))
        video = "num_frames" in latents.defaults(pipe)
        frames = [(size["num_frames"] - 1) // latents.temporal(pipe) + 1] if video else []
        return (latents.rows(call), latents.channels(pipe), *frames, *sides)

    def draw_noise(self, pipe: Any, call: Mapping[str, Any], generators: Sequence[torch.Generator]) -> Tensor:
        """Draw the latents `[B, ...]` that `pipe(**call)` would draw with these generators, a row each.

        They have unit variance, as the argument `latents` of the pipeline takes them.
        """
        shape = 1, *self.drawn_shape(pipe, call)[1:]
        device, dtype = pipe._execution_device, self.noise_dtype(pipe)
        rows = [randn_tensor(shape, generator=g, device=device, dtype=dtype) for g in generators]
        return torch.cat([self.as_latents(row) for row in rows])

    def noise_dtype(self, pipe: Any) -> torch.dtype:
        """Return the dtype in which a pipeline draws and keeps its latents."""
        return latents.denoiser_of(pipe).dtype

    def drawn_shape(self, pipe: Any, call: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the shape in which a pipeline draws its noise, before it packs it."""
        return self.noise_shape(pipe, call)

    def as_latents(self, drawn: Tensor) -> Tensor:
        """Bring noise from the shape in which it is drawn to that of the latents."""
        return drawn

    def decode(self, pipe: Any, x: Tensor, call: Mapping[str, Any]) -> Tensor:
        """Decode the latents `x` at the end of `pipe(**call)` to pictures from 0 to 1, with gradients.

        They are those of `output_type="pt"`: `[B, 3, H, W]`, or `[B, T, 3, H, W]` for a video. Watermarks and
        safety checkers are left out. Raises `UnsupportedError` for a pipeline without an autoencoder.
        """
        vae = self.autoencoder(pipe)
        pictures = latents.decoded(vae, self.to_autoencoder(pipe, x, call))
        if pictures.ndim == 5:
            return pipe.video_processor.postprocess_video(pictures, output_type="pt")
        return pipe.image_processor.postprocess(pictures, output_type="pt")

    def autoencoder(self, pipe: Any) -> nn.Module:
        """Return the autoencoder that `decode` runs, in the dtype in which the pipeline runs it."""
        return latents.autoencoder(pipe)

    def to_autoencoder(self, pipe: Any, x: Tensor, call: Mapping[str, Any]) -> Tensor:
        """Bring the latents `x` of a pipeline to the scale and the shape that its autoencoder decodes."""
        config = pipe.vae.config
        return x / config.scaling_factor + (getattr(config, "shift_factor", None) or 0)


def with_prediction(out: Any, prediction: Tensor) -> Any:
    """Replace the first tensor in the output of a denoiser, which is a tuple or an output object."""
    if isinstance(out, tuple):
        return (prediction, *out[1:])
    return type(out)(**{**out, next(iter(out)): prediction})


def take_rows(value: Any, batch: int, rows: slice | Tensor, unbatched: frozenset[str] = frozenset()) -> Any:
    """Cut every tensor of `batch` rows in `value` to `rows`, a slice or an index.

    Containers are copied, so the pipeline's stay as they are.
    """
    if isinstance(value, Tensor):
        return value[rows] if value.ndim > 0 and value.shape[0] == batch else value
    if isinstance(value, Mapping):
        return {k: v if k in unbatched else take_rows(v, batch, rows, unbatched) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(take_rows(v, batch, rows, unbatched) for v in value)
    return value
