"""Show a job as a page that grows: index.html in the output folder, with its newest pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from ..evaluate.report.page import Figure, render
from ..evaluate.statistics import accuracy
from ..evaluate.words import percent
from ..outputs import claim
from ..outputs.files import remove_partials, write_text
from ..sampling.progress import Progress
from .manifest import DONE, FOLDER, Line
from .watch import Watch

FILE = "index.html"
MOST = 200  # pictures on the page; browsers open more of them slowly
FAILURES = 50
EVERY = 10.0  # s between two versions of the page
LAST = 5.0  # s that the last version waits for another process, which writes one in milliseconds


@dataclass(slots=True)
class _Point:
    """Count the pictures of a point of the grid."""

    made: int = 0
    judged: int = 0
    right: int = 0
    seconds: float = 0.0


class Page:
    """Collect lines of the manifests, and write the page now and then.

    The size of the page does not grow with the job. Memory grows by the ids of what failed alone. One process
    at a time writes it, and none that has `writes` off. `source` gives the address of a file, by default its
    path below `out`.
    """

    def __init__(
        self, title: str, out: Path, writes: bool = True, source: Callable[[str], str] = quote
    ) -> None:
        self._title, self.path, self._writes, self._source = title, out / FILE, writes, source
        self._newest: dict[str, Line] = {}
        self._failed: set[str] = set()
        self._reasons: dict[str, str] = {}  # of the last failures
        self._points: dict[str, _Point] = {}
        self._lock: Path = out / FOLDER / ".page"
        self._written = time.monotonic()

    def add(self, line: Line, again: bool) -> None:
        """Take a line of a manifest; `again` says that its task was finished before."""
        if line["status"] != DONE:
            self._failed.add(line["id"])
            self._reasons.pop(line["id"], None)  # what failed again comes last
            self._reasons[line["id"]] = line["reason"]
            if len(self._reasons) > FAILURES:
                del self._reasons[next(iter(self._reasons))]
            return
        self._failed.discard(line["id"])
        self._reasons.pop(line["id"], None)
        self._newest[line["id"]] = line
        if len(self._newest) > MOST:
            del self._newest[next(iter(self._newest))]
        if again:
            return
        point = self._points.setdefault(line["point"], _Point())
        point.made += 1
        point.seconds += line["seconds"]
        if "verdict" in line:
            point.judged += 1
            point.right += line["verdict"]["correct"]

    def grow(self, watch: Watch, end: bool = False) -> None:
        """Write the page if the last version is old, or at the `end`."""
        if not self._writes or (not end and time.monotonic() - self._written < EVERY):
            return
        self._written = time.monotonic()
        left = self._lock.exists()
        while (file := claim.locked(self._lock)) is None:
            if not end or time.monotonic() - self._written > LAST:
                return
            time.sleep(0.02)
        try:
            if left:  # by a process that was killed
                remove_partials(self.path)
            write_text(self.path, self.text(watch, end))
        finally:
            claim.release(self._lock, file)

    def text(self, watch: Progress, end: bool) -> str:
        """Return the page; `watch` counts what is finished."""
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        failed = len(self._failed)
        state = f"{watch.finished} of {watch.total} {watch.unit}s are finished, {failed} could not be made"
        shown = len(self._newest)
        return render(
            "job.html",
            self._title,
            notes=[f"{state}. Written {now}{'' if end else ', and again while the job runs'}."],
            seconds=0 if end else round(EVERY),
            heads=["", f"{watch.unit}s", "right", "seconds each"],
            table=[self._row(label, point) for label, point in self._points.items()],
            failed=failed,
            failures=list(self._reasons.values()),
            heading=f"The newest {shown}" if shown < sum(p.made for p in self._points.values()) else "All",
            pictures=[(n, _figure(n, self._source)) for n in reversed(self._newest.values())],
        )

    def _row(self, label: str, point: _Point) -> list[str]:
        verdicts = [True] * point.right + [False] * (point.judged - point.right)
        right = percent(asdict(accuracy(verdicts))) if verdicts else ""
        return [label or "all", str(point.made), right, f"{point.seconds / point.made:.2f}"]


def _figure(line: Line, source: Callable[[str], str]) -> Figure:
    texts = [f"looks wrong: {', '.join(line['flags'])}"] if line["flags"] else []
    kind = "bad" if line["flags"] else ""
    if "verdict" in line:
        right = line["verdict"]["correct"]
        kind = "good" if right and not kind else "bad"
        texts.append(f"{'right' if right else 'wrong'}: {line['verdict']['reason']}")
    if line.get("score") is not None:
        texts.append(f"score {line['score']:.3f}")
    small = "small" if line["size"][0] < 192 else ""
    alt = f"{line['prompt']}, seed {line['seed']}"
    return Figure("; ".join(texts), source(line["file"]), alt, kind, small)
