"""Each model family has a file, and a line here with the class of the denoiser; it is imported on use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError

if TYPE_CHECKING:
    from .base import Family

FAMILIES: dict[str, str] = {
    "UNet2DConditionModel": "diffusers_ext.families.unet:FAMILY",
    "SD3Transformer2DModel": "diffusers_ext.families.sd3:FAMILY",
    "FluxTransformer2DModel": "diffusers_ext.families.flux:FAMILY",
    "WanTransformer3DModel": "diffusers_ext.families.wan:FAMILY",
    "HunyuanVideoTransformer3DModel": "diffusers_ext.families.hunyuan_video:FAMILY",
    "MochiTransformer3DModel": "diffusers_ext.families.mochi:FAMILY",
}


def family_of(model: Any) -> "Family":
    """Return the family of a denoiser, by its class or a base class.

    Raises `UnsupportedError` naming the known classes.
    """
    for cls in type(model).__mro__:
        if target := FAMILIES.get(cls.__name__):
            return _load(target)
    raise UnsupportedError(
        f"No family knows the denoiser class {type(model).__name__}; known are {', '.join(FAMILIES)}: "
        "pass a pipeline or a denoiser of one of them."
    )


def every_family() -> "list[Family]":
    """Import and return all families."""
    return [_load(target) for target in dict.fromkeys(FAMILIES.values())]


def _load(target: str) -> "Family":
    module, name = target.split(":")
    return getattr(import_module(module), name)
