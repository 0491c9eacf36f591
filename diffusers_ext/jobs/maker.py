"""Make the pictures of tasks: load the model of a point, apply its methods, write files, report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluate.score import judge
from ..models.prompts import misread
from ..outputs.files import write_json
from ..outputs.record import comment, write_image
from ..outputs.video import write_video
from ..sampling import identity
from ..sampling.call import arguments
from ..sampling.clip import Clip
from ..sampling.failures import free_memory, hits_all
from ..sampling.generate import applied, generate
from . import grid
from .job import Job
from .keeper import stamp
from .manifest import DONE, FAILED, Line
from .tasks import Point, Task, changed
from .watch import Attempts

if TYPE_CHECKING:
    from ..evaluate.scorers import Scorers
    from ..sampling.items import Failed, Picture

TILED = "decoded in tiles, since memory ran out"


class Refused(ValueError):
    """A point of the grid cannot be made at all, whatever the prompt and the seed."""


class _PromptRefused(ValueError):
    """The call was refused, perhaps for its prompt alone."""


class DeviceLost(ValueError):
    """The device of this process does not work any more, so the process must end."""


class Maker:
    """Make pictures of one job on one device. One model is in memory at a time.

    With `embed` of the job, each file holds its settings. What differs between two runs of a task, such as
    seconds, is in the line only. So equal tasks are equal bytes.
    """

    def __init__(self, job: Job, device: str | None = None) -> None:
        self.job, self.device = job, device or job.model.device
        self._point: Point | None = None
        self._stack = ExitStack()
        self._model: Any = None
        self._pipe: Any = None
        self._where = ""  # the device; pipelines take milliseconds to say it
        self._session: Any = None
        self._sampler: Any = None
        self._reported = False
        self._call: tuple[Any, Any, Any] | None = None  # of the last row: its key, arguments and record

    def make(self, tasks: Sequence[Task], places: Sequence[Path], watch: Attempts) -> list[Line]:
        """Make tasks that are alike in one call, write their files, and return a line for each.

        Raises `Refused` for what no task of the point can be made with, and `OSError` where files cannot be
        written.
        """
        self._open(tasks[0].point)
        try:
            call, common = self._arguments(tasks[0])
        except ValueError as error:  # of the row's own arguments: other rows may be fine
            if not tasks[0].row.call:
                raise Refused(str(error)) from error
            return [self._failed(t, f"{error} ({t.row.source})") for t in tasks]
        try:
            made, lost = self._generate(tasks, call, watch)
        except _PromptRefused as error:  # such as a prompt without what a method looks for
            if len(tasks) > 1:
                return [self.make([t], [p], watch)[0] for t, p in zip(tasks, places, strict=True)]
            return [self._failed(tasks[0], str(error))]
        lines = []
        for task, place in zip(tasks, places, strict=True):
            if task.item in made:
                lines.append(self._write(task, place, made[task.item], common, ()))
            elif lost[task.item].memory and self._tile():
                lines.append(self._again(task, place, call, common, watch))
            else:
                lines.append(self._failed(task, lost[task.item].reason))
        return lines

    def load(self, point: Point) -> Any:
        """Read the pipeline of a point. Raises `ValueError` or `OSError` if that cannot be done."""
        table = self.job.model
        return point.model.load(self.device, table.dtype, table.threads)

    def scorers(self, point: Point) -> Scorers | None:
        """Load the rewards of the sampler. Raises as `load` does."""
        found = self.job.sampler.scorers(point.model, self.device)
        if found is not None:
            found.load()
        return found

    def close(self) -> None:
        """End the session, and free the model."""
        self._stack.close()
        self._point = self._pipe = self._model = self._session = self._sampler = None

    def _open(self, point: Point) -> None:
        """Load the model of a point and apply its methods, if that is not done."""
        if self._point is point:
            return
        self._stack.close()
        self._stack, self._point, self._call, self._reported = ExitStack(), None, None, False
        if self._model is not point.model:
            if self._model is not None:
                self._pipe = self._model = None
                free_memory()
            try:
                self._pipe = self.load(point)
            except (OSError, ValueError) as error:
                raise Refused(str(error)) from error
            self._model, self._where = point.model, str(self._pipe.device)
        try:
            self._session = self._stack.enter_context(applied(self._pipe, point.methods))
        except ValueError as error:
            raise Refused(str(error)) from error
        self._sampler = None
        if self.job.sampler is not None:
            scorers = self.scorers(point)
            rewards = None if scorers is None else scorers.rewards
            self._sampler = self.job.sampler.build(changed(point.changes, grid.SAMPLER), rewards)
        self._point = point

    def _arguments(self, task: Task) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return the arguments of a call, and the record that its pictures share."""
        asked = {**task.point.call, **task.row.call}
        key = json.dumps(asked, sort_keys=True, default=str)
        if self._call is None or self._call[0] != key:
            call = arguments(self._pipe, task.point.model.call, **asked)
            common = identity.shared(self._pipe, task.point.model, (), call)
            common |= {"methods": task.point.common["methods"]}
            if task.point.kind.fps:
                common |= {"fps": task.point.kind.fps}
            self._call = key, call, common
        return self._call[1], self._call[2]

    def _generate(
        self, tasks: Sequence[Task], call: Mapping[str, Any], watch: Attempts
    ) -> tuple[dict[Any, Picture], dict[Any, Failed]]:
        before = len(watch.caught)
        items = [task.item for task in tasks]
        try:
            batches = generate(self._pipe, items, call, len(items), watch, self._sampler)
            made = {picture.item: picture for pictures in batches for picture in pictures}
        except (TypeError, ValueError) as error:
            if not hits_all(error):
                raise
            raise _PromptRefused(str(error)) from error
        except RuntimeError as error:
            if not hits_all(error):
                raise
            first = str(error).splitlines()[0]
            raise DeviceLost(
                f"the device {self._pipe.device} failed ({first}); finished pictures are complete, so run "
                "the same command again"
            ) from error
        return made, {failed.item: failed for failed in watch.caught[before:]}

    def _tile(self) -> bool:
        """Return whether the autoencoder can decode in tiles, which takes less memory."""
        return hasattr(getattr(self._pipe, "vae", None), "enable_tiling")

    def _again(
        self, task: Task, place: Path, call: Mapping[str, Any], common: Mapping[str, Any], watch: Attempts
    ) -> Line:
        """Make one picture with less memory, once."""
        vae = self._pipe.vae
        before = getattr(vae, "use_tiling", False)
        vae.enable_tiling()
        try:
            made, lost = self._generate([task], call, watch)
        finally:
            vae.enable_tiling() if before else vae.disable_tiling()
        if task.item in made:
            return self._write(task, place, made[task.item], common, (TILED,))
        return self._failed(task, lost[task.item].reason)

    def _write(
        self, task: Task, place: Path, picture: Picture, common: Mapping[str, Any], changes: tuple[str, ...]
    ) -> Line:
        """Write the file of a picture, and return its line."""
        image, flags = picture.image, [*picture.flags, *changes]
        record = identity.of(task.item, common) | {"size": list(image.size), "flags": flags}
        if isinstance(image, Clip):
            text = comment(record) if self.job.output.embed else None
            if text is not None and place.suffix == ".gif":  # which holds no text
                write_json(place.with_suffix(".json"), record)
            write_video(place, image.frames, task.point.kind.fps, text)
        else:
            write_image(place, image, record if self.job.output.embed else None)
        judged = judge(image, task.row.prompt, task.seed)
        line = self._facts(task, DONE) | {"file": str(task.path), **stamp(place)}
        line |= {"size": record["size"], "seconds": round(picture.seconds, 4), "flags": flags}
        if texts := misread(task.point.model, self._pipe, [task.row.prompt], common["call"]):
            line["warnings"] = texts
        if judged.correct is not None:
            line["verdict"] = {"correct": judged.correct, "reason": judged.reason}
        if picture.cost is not None:
            line |= {"score": picture.reward, "evaluations": picture.cost}
        if self._session is not None and not self._reported:
            line["report"] = self._session.report().to_dict()  # what ran where is the same for the point
            self._reported = True
        return json.loads(json.dumps(line, default=str))

    def _failed(self, task: Task, reason: str) -> Line:
        return self._facts(task, FAILED) | {"reason": reason}

    def _facts(self, task: Task, status: str) -> Line:
        return facts(self.job, task, status) | {"device": self._where}


def facts(job: Job, task: Task, status: str) -> Line:
    """Return what every line of a task holds."""
    row, point = task.row, task.point
    found = {"id": task.id, "status": status, "job": job.mark, "task": task.number}
    found |= {"prompt": row.prompt, "seed": task.seed}
    found |= {"model": point.model.name, "point": point.label, "versions": point.common["versions"]}
    return found
