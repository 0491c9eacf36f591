"""Define the network of NPNet, which predicts better noise from noise and the text of a prompt.

Paper: Zhou et al., "Golden Noise for Diffusion Models" (arXiv 2411.09502). Its released code leaves a layout
of features in place that this network repeats, since the published weights were trained with it.
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaGroupNorm
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .svd import SingularValues
from .swin import Swin

LAYOUTS = ("published", "spatial")


class NPNetModel(ModelMixin, ConfigMixin):
    """Predict noise `[B, C, h, w]` from noise and embeddings of the prompt `[B, tokens, width]`.

    The result is `S(x) + (2 sigmoid(alpha) - 1) T(x) + beta R(x + T(x))`. S changes singular values, T scales
    and shifts the channels of normalised noise by the text, and R is a Swin transformer. A new network
    returns its input. The defaults are those of the weights for SDXL. `sample_size` is a side or `(h, w)` in
    latent pixels. Raises `ValueError` for another shape than that of the configuration.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 128,
        in_channels: int = 4,
        fold: tuple[int, int] = (2, 2),
        text_tokens: int = 77,
        text_width: int = 2048,
        svd_hidden: int = 64,
        svd_last_hidden: int = 1024,
        svd_heads: int = 8,
        svd_attention: bool = True,
        svd_sign: str = "raw",
        swin_size: int = 224,
        swin_patch: int = 4,
        swin_window: int = 7,
        swin_width: int = 96,
        swin_depths: tuple[int, ...] = (2, 2, 6, 2),
        swin_heads: tuple[int, ...] = (3, 6, 12, 24),
        swin_layout: str = "published",
    ):
        super().__init__()
        size = (sample_size,) * 2 if isinstance(sample_size, int) else tuple(sample_size)
        self.shape = (in_channels, *size)
        self.svd = SingularValues(
            self.shape, tuple(fold), svd_hidden, svd_last_hidden, svd_heads, svd_attention, svd_sign
        )
        self.text = AdaGroupNorm(text_tokens * text_width, in_channels, 1, eps=1e-6)
        swin = Swin(swin_size, swin_patch, swin_window, swin_width, swin_depths, swin_heads)
        self.residual = Residual(in_channels, size, swin_size, swin, swin_layout)
        self.alpha = nn.Parameter(torch.zeros(1))
        self.beta = nn.Parameter(torch.zeros(1))

    def forward(self, noise: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Return the predicted noise `[B, C, h, w]`, in float32."""
        self.check(noise.shape, prompt_embeds.shape)
        dtype = self.alpha.dtype
        x, text = noise.to(dtype), prompt_embeds.to(dtype).flatten(1)
        injected = self.text(x, text)
        made = self.svd(noise) + (2 * self.alpha.sigmoid() - 1) * injected
        return (made + self.beta * self.residual(x + injected)).float()

    def check(self, noise: tuple[int, ...], text: tuple[int, ...]) -> None:
        """Raise `ValueError` unless shapes of noise and text are those that the network was built for."""
        if tuple(noise[1:]) != self.shape:
            raise ValueError(
                f"this NPNet was built for noise {_words(self.shape)} (channels, height, width in latent "
                f"pixels), got {_words(noise[1:])}; make pictures of its size, or train one for yours"
            )
        wanted = self.config.text_tokens, self.config.text_width
        if tuple(text[1:]) != wanted:
            raise ValueError(
                f"this NPNet was built for text of {wanted[0]} tokens of width {wanted[1]}, got {text[1]} "
                f"tokens of width {text[2]}; use it with the model that it was trained for"
            )
        if noise[0] != text[0]:
            raise ValueError(
                f"an NPNet takes one text for each noise, got {text[0]} texts for {noise[0]}; repeat the "
                "embeddings"
            )


class Residual(nn.Module):
    """Run a Swin transformer on noise, resized to its pictures and back.

    The features come channels last, `[B, side, side, width]`. The layout "published" reads them as if
    channels came first: the rows of the map are channels, and a channel has `side x width` pixels. Published
    weights need this. The layout "spatial" keeps features at their places, for networks trained here.
    """

    def __init__(self, channels: int, size: tuple[int, int], picture: int, swin: Swin, layout: str):
        super().__init__()
        if layout not in LAYOUTS:
            raise ValueError(
                f"swin_layout is one of {', '.join(LAYOUTS)}, got {layout!r}; choose one of them"
            )
        self.size, self.picture, self.spatial = size, picture, layout == "spatial"
        self.downconv = nn.Conv2d(channels, 3, 1)
        self.swin = swin
        self.upconv = nn.Conv2d(swin.norm.weight.numel() if self.spatial else swin.side, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[B, C, h, w]` of the same shape."""
        features = self.swin(self.downconv(interpolate(x, (self.picture, self.picture))))
        if self.spatial:
            features = features.permute(0, 3, 1, 2)
        return self.upconv(interpolate(features, self.size))


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
