"""Score pictures as people do, by HPSv2, and turn weights of OpenCLIP into a CLIPModel."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from .clip import LAION, CLIPReward
from .weights import locate, read_weights

if TYPE_CHECKING:
    from transformers import CLIPModel

FILE = "HPS_v2.1_compressed.pt"
HEADS = 16, 16  # of ViT-H/14: text, pictures
_PARTS = {  # names of OpenCLIP and of transformers, in a block
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "attn.out_proj.": "self_attn.out_proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
_OUTER = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


class HPSv2(CLIPReward):
    """Score by the cosine of picture and prompt in a CLIPModel that was trained on human preferences.

    Wu et al. 2023 (2306.09341), version 2.1. Good pictures have about 0.3. `model` is the published file of
    OpenCLIP weights, on this machine or on the Hub, or the folder of a CLIPModel. As published, the longest
    side is resized, and black bars make the picture square.
    """

    name, source, beside = "hpsv2", "xswu/HPSv2", LAION

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        processor: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        checkpoint: bool = False,
    ):
        folder = model is not None and (Path(model) / "config.json").is_file()
        usual = processor or (model if folder else LAION)
        super().__init__(model, processor=usual, device=device, dtype=dtype, checkpoint=checkpoint)

    def _load(self) -> CLIPModel:
        if (Path(self.place) / "config.json").is_file():
            return super()._load()
        return from_open_clip(read_weights(locate(self.place, FILE))).to(self.dtype)

    def pixels(self, images: Tensor) -> Tensor:
        """Return what the model sees of images [B, 3, H, W] in 0..1, with bars where they are not square."""
        processor = self.processor.image_processor
        side, (height, width) = processor.crop_size["height"], images.shape[-2:]
        factor = side / max(height, width)
        target = [round(height * factor), round(width * factor)]
        if target != [height, width]:
            images = interpolate(images, target, mode="bicubic", antialias=True)
        down, across = side - target[0], side - target[1]
        images = pad(images, (across // 2, across - across // 2, down // 2, down - down // 2))
        mean, std = (
            torch.tensor(v, device=images.device, dtype=images.dtype)[:, None, None]
            for v in (processor.image_mean, processor.image_std)
        )
        return (images - mean) / std


def from_open_clip(tensors: dict[str, Tensor], heads: tuple[int, int] = HEADS) -> CLIPModel:
    """Make a CLIPModel of OpenCLIP weights with transformers in both halves and GELU.

    `heads` are those of text and pictures, which no shape shows. Raises `ValueError` if tensors are missing.
    """
    from transformers import CLIPConfig, CLIPModel

    tensors = {key.removeprefix("model."): value for key, value in tensors.items()}
    if missing := sorted({*_OUTER, *_PROJECTIONS} - tensors.keys()):
        raise ValueError(
            f"weights of OpenCLIP must have {missing[0]!r}, and these have not; pass a file of HPSv2, or a "
            "folder with a CLIPModel"
        )
    patch, joint = tensors["visual.conv1.weight"], tensors["visual.proj"].shape[1]
    patches = tensors["visual.positional_embedding"].shape[0] - 1
    config = CLIPConfig(
        text_config=_tower(tensors, "transformer.", heads[0])
        | {
            "vocab_size": tensors["token_embedding.weight"].shape[0],
            "max_position_embeddings": tensors["positional_embedding"].shape[0],
            "eos_token_id": tensors["token_embedding.weight"].shape[0] - 1,
            "projection_dim": joint,
        },
        vision_config=_tower(tensors, "visual.transformer.", heads[1])
        | {
            "image_size": round(patches**0.5) * patch.shape[-1],
            "patch_size": patch.shape[-1],
            "projection_dim": joint,
        },
        projection_dim=joint,
    )
    with torch.device("meta"):
        model = CLIPModel(config)
    for half in (model.text_model, model.vision_model):
        half.embeddings.position_ids = torch.arange(half.embeddings.position_embedding.num_embeddings)[None]
    model.load_state_dict(_renamed(tensors), assign=True)
    return model


def _tower(tensors: dict[str, Tensor], prefix: str, heads: int) -> dict[str, int | str]:
    """Read the sizes of one half from the shapes of its blocks."""
    first = tensors[f"{prefix}resblocks.0.mlp.c_fc.weight"]
    numbers = {m[1] for key in tensors if (m := re.match(rf"{re.escape(prefix)}resblocks\.(\d+)\.", key))}
    return {
        "hidden_size": first.shape[1],
        "intermediate_size": first.shape[0],
        "num_hidden_layers": len(numbers),
        "num_attention_heads": heads,
        "hidden_act": "gelu",
    }


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors the names and shapes that a CLIPModel has them in."""
    found = {new: tensors[old] for old, new in _OUTER.items()}
    found |= {new: tensors[old].T.contiguous() for old, new in _PROJECTIONS.items()}
    for key, value in tensors.items():
        block = re.match(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", key)
        if block is None:
            continue
        home = f"{'vision' if block[1] else 'text'}_model.encoder.layers.{block[2]}."
        if joint := re.fullmatch(r"attn\.in_proj_(weight|bias)", block[3]):
            for one, part in zip("qkv", value.chunk(3), strict=True):
                found[f"{home}self_attn.{one}_proj.{joint[1]}"] = part.clone()
        else:
            (old,) = [part for part in _PARTS if block[3].startswith(part)]
            found[home + block[3].replace(old, _PARTS[old])] = value
    return found
