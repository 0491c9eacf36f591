"""Build slices of real transformers: published widths, heads and text lengths, few blocks, random weights.

A slice has blocks of each kind in the proportions of the full model, so that shares of the time carry over.
Time does not depend on what weights have learned.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    FluxTransformer2DModel,
    HunyuanVideoTransformer3DModel,
    MochiTransformer3DModel,
    SD3Transformer2DModel,
    WanTransformer3DModel,
)
from torch import Tensor, nn

from diffusers_ext.models.sizes import Grid

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Slice:
    """A slice has a model class, its configuration, changes for a CPU, and the arguments of a call on a grid.

    `blocks` names the stacks of blocks for model classes that do not say which blocks repeat.
    """

    kind: type[nn.Module]
    config: Mapping[str, Any]
    tiny: Mapping[str, Any]
    inputs: Callable[[Any, Grid, Callable[..., Tensor]], Inputs]
    blocks: tuple[str, ...] = field(default=())

    def build(self, tiny: bool, device: str, dtype: torch.dtype) -> nn.Module:
        """Build the slice with seeded weights, for inference."""
        where = torch.device(device)
        with torch.random.fork_rng(devices=[] if where.type == "cpu" else None), where:
            torch.manual_seed(0)
            model = self.kind(**{**self.config, **(self.tiny if tiny else {})})
        return _cast(model.to(device), dtype).eval().requires_grad_(False)

    def call(self, model: nn.Module, grid: Grid, device: str, dtype: torch.dtype) -> Inputs:
        """Return seeded arguments of one denoiser call."""
        g = torch.Generator().manual_seed(0)

        def noise(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g).to(dtype)

        call = self.inputs(model.config, grid, noise) | {"return_dict": False}
        return {name: x.to(device) if isinstance(x, Tensor) else x for name, x in call.items()}

    def compile(self, model: nn.Module, backend: str) -> None:
        """Compile each block as a full graph, as `compile_repeated_blocks` does for models that have it."""
        if not self.blocks:
            model.compile_repeated_blocks(fullgraph=True, backend=backend)
        for stack in self.blocks:
            for block in getattr(model, stack):
                block.compile(fullgraph=True, backend=backend)


def sharing_weights(model: nn.Module) -> nn.Module:
    """Copy a model with the same weights, to compile the copy and put it under a session of its own."""
    shared = {id(x): x for x in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast a model as the loaders of diffusers do: some modules stay in fp32."""
    kept = set(model._keep_in_fp32_modules or ())
    for name, x in (*model.named_parameters(), *model.named_buffers()):
        if x.is_floating_point() and not kept & set(name.split(".")):
            x.data = x.data.to(dtype)
    return model


def _flux(config: Any, grid: Grid, noise: Callable[..., Tensor]) -> Inputs:
    rows, columns = torch.meshgrid(torch.arange(grid.h), torch.arange(grid.w), indexing="ij")
    return {
        "hidden_states": noise(1, grid.h * grid.w, config.in_channels),
        "encoder_hidden_states": noise(1, grid.text, config.joint_attention_dim),
        "pooled_projections": noise(1, config.pooled_projection_dim),
        "timestep": torch.full((1,), 0.5),
        "guidance": torch.full((1,), 3.5),
        "img_ids": torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).float(),
        "txt_ids": torch.zeros(grid.text, 3),
    }


def _sd3(config: Any, grid: Grid, noise: Callable[..., Tensor]) -> Inputs:
    return {
        "hidden_states": noise(1, config.in_channels, 2 * grid.h, 2 * grid.w),
        "encoder_hidden_states": noise(1, grid.text, config.joint_attention_dim),
        "pooled_projections": noise(1, config.pooled_projection_dim),
        "timestep": torch.full((1,), 500.0),
    }


def _wan(config: Any, grid: Grid, noise: Callable[..., Tensor]) -> Inputs:
    return {
        "hidden_states": noise(1, config.in_channels, grid.t, 2 * grid.h, 2 * grid.w),
        "encoder_hidden_states": noise(1, 512, config.text_dim),  # read by cross-attention
        "timestep": torch.full((1,), 500),
    }


def _hunyuan(config: Any, grid: Grid, noise: Callable[..., Tensor]) -> Inputs:
    return _clip(config, grid, noise) | {
        "encoder_attention_mask": _prompt(grid.text),
        "pooled_projections": noise(1, config.pooled_projection_dim),
        "guidance": torch.full((1,), 6000.0),
    }


def _mochi(config: Any, grid: Grid, noise: Callable[..., Tensor]) -> Inputs:
    return _clip(config, grid, noise) | {"encoder_attention_mask": _prompt(grid.text)}


def _clip(config: Any, grid: Grid, noise: Callable[..., Tensor]) -> Inputs:
    return {
        "hidden_states": noise(1, config.in_channels, grid.t, 2 * grid.h, 2 * grid.w),
        "encoder_hidden_states": noise(1, grid.text, config.text_embed_dim),
        "timestep": torch.full((1,), 500.0),
    }


def _prompt(text: int) -> Tensor:
    """Return the mask of a prompt half as long as the longest, bool `[1, text]`; the padding is hidden."""
    return (torch.arange(text) < (text + 1) // 2)[None]


SMALL = {"num_attention_heads": 2, "attention_head_dim": 16}
POOLED = {"pooled_projection_dim": 32}
# By name of the preset that knows the tokens and the settings.
SLICES = {
    "flux.1": Slice(
        FluxTransformer2DModel,
        {"guidance_embeds": True, "num_layers": 1, "num_single_layers": 2},  # of 19 and 38
        SMALL | POOLED | {"in_channels": 16, "joint_attention_dim": 32, "axes_dims_rope": (4, 6, 6)},
        _flux,
    ),
    "sd3.5": Slice(  # medium
        SD3Transformer2DModel,
        {
            "num_layers": 4,  # of 24
            "dual_attention_layers": (0, 1),  # of 13
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "qk_norm": "rms_norm",
            "pos_embed_max_size": 384,
        },
        SMALL | POOLED | {"caption_projection_dim": 32, "joint_attention_dim": 32, "pos_embed_max_size": 64},
        _sd3,
        ("transformer_blocks",),
    ),
    "wan2.1": Slice(  # 14 B
        WanTransformer3DModel,
        {"num_layers": 2},  # of 40
        SMALL | {"text_dim": 32, "ffn_dim": 64},
        _wan,
    ),
    "hunyuan-video": Slice(
        HunyuanVideoTransformer3DModel,
        {"num_layers": 1, "num_single_layers": 2},  # of 20 and 40
        SMALL | POOLED | {"text_embed_dim": 32, "rope_axes_dim": (4, 6, 6), "num_refiner_layers": 1},
        _hunyuan,
    ),
    "mochi": Slice(
        MochiTransformer3DModel,
        {"num_layers": 3},  # of 48; the last block drops the text
        SMALL | POOLED | {"text_embed_dim": 32, "time_embed_dim": 32},
        _mochi,
        ("transformer_blocks",),
    ),
}
