"""Pooled tokens have one key and one value for each cell of the grid; their learned weights are in files.

Paper: Liu et al., "CLEAR: Conv-Like Linearization Revs Pre-Trained Diffusion Transformers Up" (arXiv
2412.16112), down-sampled variant. A cell is `edge x edge` tokens. Its key is the weighted sum of their keys,
after norms and rotation. Its value is the sum of their values with the same weights, one `[edge, edge]` a
layer. Messages to users call pooled tokens `far tokens`.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ...core import Site, nearest_names
from ...errors import MethodError
from ...kernels.geometry import Grid


class Weighted(Protocol):
    """A core with pooled tokens; `None` stands for uniform weights."""

    spatial_weight: Tensor | None


def pool(x: Tensor, grid: Grid, edge: int, weight: Tensor | None = None) -> Tensor:
    """Pool `x [B, N, H, D]` of one image in raster order to `[B, N / edge^2, H, D]`, cells in raster order.

    `weight [edge, edge]` may have any dtype and device; without it cells are averaged. The result is
    differentiable in both.
    """
    _, h, w = grid
    cells = x.unflatten(1, (h // edge, edge, w // edge, edge))
    if weight is None:
        return cells.mean((2, 4)).flatten(1, 2)
    return torch.einsum("biujvhd,uv->bijhd", cells, weight.to(x.device, x.dtype)).flatten(1, 2)


def uniform(edge: int) -> Tensor:
    """Make the weights `[edge, edge]` of the mean, from which training starts."""
    return torch.full((edge, edge), edge**-2)


def read(path: str | os.PathLike[str], sites: Iterable[Site], edge: int) -> dict[Site, Tensor]:
    """Read the weights of some sites from a safetensors file that names them by path or by name.

    Raises `MethodError` for a file that cannot be read, lacks a site or holds another shape.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(path).expanduser()
    if not file.is_file():
        raise MethodError(
            f"The weights of far tokens are read from a safetensors file, got {str(path)!r}, which is none; "
            "check the path, or leave weights out for uniform ones."
        )
    try:
        with safe_open(file, "pt") as tensors:
            names = set(tensors.keys())
            keys = {site: _key(site, names, file) for site in sites}
            found = {site: tensors.get_tensor(key) for site, key in keys.items()}
    except (OSError, SafetensorError) as error:
        raise MethodError(
            f"The weights of far tokens in {file} cannot be read ({error}); save them with "
            "diffusers_ext.processors.sparse.pooled.write."
        ) from error
    for site, weight in found.items():
        if weight.shape != (edge, edge) or not weight.is_floating_point():
            raise MethodError(
                f"Far tokens with downsample={edge} need weights [{edge}, {edge}] in floating point, got "
                f"{list(weight.shape)} {weight.dtype} for {site.path} in {file}; set downsample as it was in "
                "training."
            )
    return found


def write(path: str | os.PathLike[str], cores: Mapping[Site, Weighted], edge: int) -> None:
    """Save the weights of cores (`session.cores(method)`) for `read`, uniform ones as well."""
    from safetensors.torch import save_file

    weights = {site.path: core.spatial_weight for site, core in cores.items()}
    tensors = {
        name: uniform(edge) if weight is None else weight.detach().cpu().contiguous()
        for name, weight in weights.items()
    }
    save_file(tensors, Path(path).expanduser())


def _key(site: Site, names: set[str], file: Path) -> str:
    for key in (site.path, site.name):
        if key in names:
            return key
    closest = ", ".join(nearest_names(site.path, sorted(names), 1)) or "nothing at all"
    raise MethodError(
        f"Far tokens need weights for every module, got {file} with none for {site.path}, the nearest there "
        f"is {closest}; use the file that was trained for this model and these layers."
    )
