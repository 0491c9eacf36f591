"""Write what a visitor takes away of a batch: a zip of all files, and a report that is one page."""

from __future__ import annotations

import base64
import csv
import io
import json
import zipfile
from pathlib import Path

from ..jobs.manifest import DONE, FOLDER
from ..jobs.page import FILE, Page
from ..outputs.files import replacing, slug, write_text
from ..sampling.progress import Progress
from .batch_mark import MARK
from .batch_state import Batch
from .batch_store import FILE as FACTS

SIDE = 256  # px of a picture in the report
CLIP = 2**20  # bytes of a clip in the report; larger ones are left out
HEADS = ("number", "prompt", "seed", "grid", "state", "verdict", "seconds")


def archive(batch: Batch, folder: Path) -> Path:
    """Write a zip with the pictures, the table, the page, the manifest and the settings of a batch."""
    path = folder / f"{slug(Path(batch.title).stem)}-{batch.id[:8]}.zip"
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archived:
        for line in batch.lines():
            found = batch.out / line["file"] if line["status"] == DONE else None
            if found is not None and found.is_file():
                archived.write(found, line["file"])
        for found in sorted((batch.out / FOLDER).glob("*.jsonl")):
            archived.write(found, f"{FOLDER}/{found.name}")
        page = _page(batch, Page(batch.title, batch.out, writes=False))
        archived.writestr(FILE, page)
        archived.writestr("table.csv", table(batch))
        archived.writestr("job.json", json.dumps(batch.data, indent=2, ensure_ascii=False))
        for found in sorted(batch.folder.iterdir()):
            if found.is_file() and found.name not in (FACTS, MARK):
                archived.write(found, f"prompts/{found.name}")
    return path


def table(batch: Batch) -> str:
    """Return the table of a batch as CSV."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(HEADS)
    for entry in batch.entries(0, batch.total):
        row = (entry.number, entry.prompt, entry.seed, entry.point, entry.state, entry.verdict, entry.seconds)
        writer.writerow("" if cell is None else cell for cell in row)
    return text.getvalue()


def report(batch: Batch, folder: Path) -> Path:
    """Write the page of a batch as one file with small copies of its newest pictures."""
    path = folder / "report.html"
    text = _page(
        batch, Page(batch.title, batch.out, writes=False, source=lambda name: _data(batch.out / name))
    )
    write_text(path, text)
    return path


def _page(batch: Batch, page: Page) -> str:
    for line in batch.lines():
        page.add(line, False)
    progress = Progress(batch.total, "clip" if batch.points[0].kind.fps else "image")
    progress.finished = batch.counts()[0]
    return page.text(progress, end=True)


def _data(path: Path) -> str:
    """Return a small copy of a picture as an address; clips as they are, if they are small."""
    from PIL import Image

    try:
        if path.suffix in (".mp4", ".gif"):
            if path.stat().st_size > CLIP:
                return ""
            kind = "video/mp4" if path.suffix == ".mp4" else "image/gif"
            return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        with Image.open(path) as image:
            small = image.convert("RGB")
        small.thumbnail((SIDE, SIDE))
        data = io.BytesIO()
        small.save(data, "PNG" if max(small.size) < 128 else "JPEG")
    except OSError:
        return ""
    kind = "png" if max(small.size) < 128 else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
