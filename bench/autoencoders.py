"""The autoencoder of a model, for checks that look at reconstructions."""

from __future__ import annotations

from typing import Any

from diffusers_ext.evaluate.weights import fingerprint
from diffusers_ext.loading import locate


def load_vae(model: str, kind: str) -> tuple[Any, dict[str, Any]]:
    """The autoencoder of a zoo model or folder, as the diffusers class `kind`, and which weights it has."""
    import diffusers

    folder = locate(model)
    if folder is None or not (folder / "vae").is_dir():
        raise SystemExit(f"error: --model needs a zoo model or a folder with a vae, got {model!r}")
    vae = getattr(diffusers, kind).from_pretrained(folder / "vae").eval()
    return vae, {"model": model, "vae": fingerprint(folder / "vae")}
