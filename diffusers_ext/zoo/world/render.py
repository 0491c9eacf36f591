"""Render scenes in numpy: signed distances, anti-aliased over one pixel, drawn patch by patch."""

from __future__ import annotations

import numpy as np

from .captions import Object, Spec
from .scenes import EXTENT, SIZE, Background, Mix, Scene, sample_scene, sample_spec

# 0..1 RGB; hues are at least 27 degrees apart, so that mixing with grey never changes the nearest one
PALETTE = {
    "red": (0.90, 0.13, 0.13),
    "orange": (0.98, 0.54, 0.06),
    "yellow": (0.95, 0.90, 0.12),
    "green": (0.15, 0.72, 0.25),
    "cyan": (0.12, 0.82, 0.86),
    "blue": (0.15, 0.27, 0.90),
    "purple": (0.55, 0.18, 0.82),
    "pink": (1.00, 0.40, 0.70),
}


def distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Return the signed distance in px from points (x right, y down, centre 0) to an outline.

    It is negative inside.
    """
    if shape == "circle":
        return np.hypot(x, y) - 0.95 * radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.78 * radius
    if shape == "cross":
        ax, ay, long, short = np.abs(x), np.abs(y), 1.02 * radius, 0.36 * radius
        return np.maximum(np.maximum(ax, ay) - long, np.minimum(ax, ay) - short)
    if shape == "triangle":  # upward; the inradius of an equilateral triangle is half its circumradius
        sides = np.maximum(0.8660254 * np.abs(x) - 0.5 * y, y)
        return sides - 0.5 * EXTENT * radius
    if shape == "star":  # fold the plane into one tenth, in which the outline is a single segment
        tip, dent, tenth = EXTENT * radius, 0.46 * EXTENT * radius, np.pi / 5
        theta = np.abs((np.arctan2(x, -y) + tenth) % (2 * tenth) - tenth)
        r = np.hypot(x, y)
        px, py = r * np.cos(theta) - tip, r * np.sin(theta)
        ex, ey = dent * np.cos(tenth) - tip, dent * np.sin(tenth)
        return (px * -ey + py * ex) / -np.hypot(ex, ey)
    raise ValueError(
        f"the renderer draws circle, square, triangle, star and cross, got {shape!r}; see captions.SHAPES"
    )


def render(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Render a scene: the image uint8 [64, 64, 3] and its object coverage float32 [64, 64] in 0..1."""
    image, mask = backdrop(scene.background), np.zeros((SIZE, SIZE), np.float32)
    for thing, place, shade in zip(scene.spec.objects, scene.places, scene.shades, strict=True):
        paint(image, mask, thing, place, shade)
    return to_pixels(image), mask


def paint(
    image: np.ndarray, mask: np.ndarray, thing: Object, place: tuple[float, float, float], shade: float
) -> None:
    """Draw one object over an image [H, W, 3] in 0..1 and into the coverage [H, W], in place.

    `place` is its (x, y, radius) in px.
    """
    (cx, cy, radius), (height, width) = place, mask.shape
    reach = EXTENT * radius + 1.5
    x0, x1 = max(int(cx - reach), 0), min(int(cx + reach) + 1, width)
    y0, y1 = max(int(cy - reach), 0), min(int(cy + reach) + 1, height)
    x = np.arange(x0, x1, dtype=np.float32)[None] + np.float32(0.5 - cx)
    y = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - cy)
    cover = np.clip(0.5 - distance(thing.shape, x, y, radius), 0.0, 1.0).astype(np.float32)
    patch, colour = image[y0:y1, x0:x1], np.float32(PALETTE[thing.colour]) * np.float32(shade)
    patch += cover[..., None] * (colour - patch)
    np.maximum(mask[y0:y1, x0:x1], cover, out=mask[y0:y1, x0:x1])


def to_pixels(image: np.ndarray) -> np.ndarray:
    """Convert floats of any shape in 0..1 to uint8."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def draw(spec: Spec, seed: int) -> np.ndarray:
    """Draw one random picture uint8 [64, 64, 3] of a spec."""
    return render(sample_scene(spec, np.random.default_rng(seed)))[0]


def training_sample(seed: int, index: int, mix: Mix | None = None) -> tuple[Spec, np.ndarray, np.ndarray]:
    """Sample `index` of the endless training stream `seed`: its spec, image and object coverage."""
    rng = np.random.default_rng((seed, index))
    scene = sample_scene(sample_spec(rng, mix), rng)
    return scene.spec, *render(scene)


def backdrop(background: Background, size: int = SIZE) -> np.ndarray:
    """Draw float32 [size, size, 3]: a flat colour plus one light pattern in -1..1 times the contrast."""
    flat = np.float32(background.rgb)
    if background.texture == "plain":
        return np.broadcast_to(flat, (size, size, 3)).copy()
    if (
        background.texture == "noise"
    ):  # 8 px cells, one per token: finer noise would use up the capacity of a tiny model
        cells = (
            np.random.default_rng(background.seed).uniform(-1, 1, (size // 8, size // 8)).astype(np.float32)
        )
        pattern = cells.repeat(8, 0).repeat(8, 1)
    else:
        x = np.arange(size, dtype=np.float32)[None] - size / 2
        y = np.arange(size, dtype=np.float32)[:, None] - size / 2
        c, s, k = np.cos(background.angle), np.sin(background.angle), 2 * np.pi / background.period
        u, v = c * x + s * y, c * y - s * x
        if background.texture == "gradient":
            pattern = u / (size / 2)
        elif background.texture == "stripes":
            pattern = np.sin(k * u)
        else:
            pattern = np.clip(4 * (np.sin(k * u) * np.sin(k * v) - 0.5), -1, 1)
    return flat + np.float32(background.contrast) * pattern.astype(np.float32)[..., None]
