"""Open pictures that others made, with one sentence for those that cannot be used."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

MOST = 50_000_000  # pixels; 8K pictures have 33 million


def opened(path: str | os.PathLike[str]) -> Image:
    """Return a picture as RGB, upright.

    Of an animation it is the first frame. Transparency becomes white.

    Raises `ValueError` for what is no picture, is damaged, or has more than `MOST` pixels.
    """
    from PIL import Image, ImageOps

    name = os.fspath(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MOST:
                    raise ValueError(_large(name))
                return _rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise ValueError(_large(name)) from None
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError) as error:  # Pillow raises both for damaged files
        empty = os.path.isfile(path) and not os.path.getsize(path)
        what = "is empty" if empty else "is no picture, or is damaged"
        raise ValueError(f"{name!r} {what}; make or copy it again") from error


def _large(name: str) -> str:
    return f"{name!r} has more than {MOST // 10**6} million pixels, which are not read; make it smaller"


def _rgb(image: Image) -> Image:
    from PIL import Image as images

    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = images.new("RGBA", image.size, "white")
        return images.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
