"""Write the first picture of README: what `diffusers-ext demo` draws, in fewer colours.

    python -m bench.pages.demo_picture --demo out/demo

Pictures that the folder has are not made again.
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path

from PIL import Image

from diffusers_ext.commands.demo import made
from diffusers_ext.outputs.files import write_bytes

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "demo.png"
KEPT = 0b11111100  # bits of a value; the others are noise that takes room
MOST = 200_000  # bytes


def reduced(path: Path) -> bytes:
    """Return a picture as a smaller PNG whose values differ by 3 at most.

    Raises `ValueError` if it is still larger than `MOST`.
    """
    buffer = BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").point(lambda value: value if value == 255 else value & KEPT).save(
            buffer, format="PNG", optimize=True
        )
    size = len(buffer.getvalue())
    if size > MOST:
        raise ValueError(f"a picture of README has at most {MOST} bytes, got {size}; show fewer prompts")
    return buffer.getvalue()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", default="out/demo", help="folder of the demo")
    parser.add_argument("--out", type=Path, default=OUT, help="picture to write")
    args = parser.parse_args(argv)
    made(args.demo)
    write_bytes(args.out, reduced(Path(args.demo) / "compare.png"))


if __name__ == "__main__":
    main()
