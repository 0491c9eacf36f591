"""Find the denoisers of a pipeline."""

from typing import Any

from torch import nn

from ..errors import UnsupportedError
from . import FAMILIES

COMPONENTS = ("unet", "transformer", "transformer_2")


def denoisers(target: Any) -> dict[str, nn.Module]:
    """Find the denoisers of a pipeline by component name; a bare denoiser gives `{"": denoiser}`.

    Raises `UnsupportedError` if there is none.
    """
    if isinstance(target, nn.Module):
        return {"": target}
    found = {
        name: model for name in COMPONENTS if isinstance(model := getattr(target, name, None), nn.Module)
    }
    if not found:
        if hasattr(inner := getattr(target, "pipe", None), "components"):  # ImageExtPipeline and its kin
            raise UnsupportedError(
                f"{type(target).__name__} holds a {type(inner).__name__} and is none itself; pass its "
                "attribute pipe."
            )
        raise UnsupportedError(
            f"{type(target).__name__} has none of the components {', '.join(COMPONENTS)}; known denoisers "
            f"are {', '.join(FAMILIES)}: pass a pipeline that holds one, or the denoiser itself."
        )
    return found
