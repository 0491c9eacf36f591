"""Draw the maps of `docs/headhunter.png`: the score of each head, from the committed results.

python -m bench.studies.headhunter_picture
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from diffusers_ext.evaluate.report.head_map import head_map
from diffusers_ext.outputs.record import write_image

from ..ledger import committed
from ..pages.pages import ROOT

MODELS = ("shapes-sd3",)


def maps(results: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Draw the maps of several models beside each other."""
    drawn = []
    for found in results:
        search = found["search"]
        title = [found["model"], f"mean reward of {search['pairs']} tuning pairs, one head perturbed"]
        chosen = [(path, head) for path, head, _ in search["picks"]]
        drawn.append(head_map(search["alone"], chosen, search["plain"], title))
    canvas = Image.new("RGB", (sum(d.width for d in drawn), max(d.height for d in drawn)), "white")
    for i, one in enumerate(drawn):
        canvas.paste(one, (sum(d.width for d in drawn[:i]), 0))
    return canvas


def main() -> None:
    write_image(ROOT / "docs" / "headhunter.png", maps([committed(f"headhunter-{m}") for m in MODELS]))


if __name__ == "__main__":
    main()
