"""Report on a run while it goes: a bar with steps and the estimated end, failures, and when to stop."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..outputs.stop import Interrupted, StopRequest

if TYPE_CHECKING:
    from .budget import State
    from .items import Failed

AGAIN = "run the same command again to make the rest, which skips what is finished"
_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, about {remaining} left"


def _stderr(text: str) -> None:
    with suppress(OSError):  # the terminal may be gone, which is what SIGHUP says
        print(text, file=sys.stderr)


class Progress:
    """Follow a run of `total` items, with a bar if `show` is set: `with Progress(12, "image") as progress:`.

    `tick` counts items that are finished, `fail` those that cannot be made. `begin`, between two batches,
    honours a request to stop (Ctrl-C, SIGTERM, SIGHUP).
    """

    def __init__(
        self,
        total: int,
        unit: str = "image",
        *,
        show: bool = False,
        debug: bool = False,
        say: Callable[[str], None] = _stderr,
    ) -> None:
        self.total, self.unit, self.debug = total, unit, debug
        self.failures: list[Failed] = []
        self.finished = 0
        self._show, self._say, self._size = show, say, 0
        self._stop = StopRequest(unit)
        self._bar: Any = None

    def __enter__(self) -> Progress:
        from tqdm import tqdm

        self._bar = tqdm(total=self.total, disable=not self._show, bar_format=_BAR, leave=False)
        self._stop.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.__exit__()
        with suppress(OSError):
            self._bar.close()

    @property
    def asked(self) -> bool:
        """Return whether someone asked to stop."""
        return self._stop.asked

    def begin(self, size: int) -> None:
        """Announce a batch of `size` items. Raises `Interrupted` if someone asked to stop."""
        if self._stop.asked:
            done = f"{self.finished} of {self.total} {self.unit}s are finished and complete"
            raise Interrupted(f"stopped; {done}; {AGAIN}", self._stop.number)
        self._size = size
        self._move(0.0, "")

    def hooks(self, pipe: Any) -> dict[str, Any]:
        """Return arguments of a call that report its steps, if there is a bar and the pipeline takes them."""
        if not self._show or "callback_on_step_end" not in inspect.signature(type(pipe).__call__).parameters:
            return {}
        return {"callback_on_step_end": self._step}

    def _step(self, pipe: Any, step: int, timestep: Any, state: Mapping[str, Any]) -> Mapping[str, Any]:
        steps = max(getattr(pipe, "num_timesteps", 0) or 0, step + 1)
        self._move((step + 1) / steps, f", step {step + 1} of {steps}")
        return state

    def searching(self, state: State) -> None:
        """Show the share of a batch that a sampler has done, in evaluations or steps of the current call."""
        share = state.evaluations / state.planned if state.planned else state.step / max(state.steps, 1)
        found = [score for score in state.best if score is not None]
        best = f", best {max(found):.3f}" if found else ""
        self._move(min(share, 1.0), f", {state.evaluations} evaluations{best}")

    def tick(self, count: int) -> None:
        """Count items that are finished, whether made in this run or before."""
        self.finished += count
        self._size = 0
        self._move(0.0, "")

    def skip(self, count: int) -> None:
        """Count items that an earlier run finished, and say so."""
        self.tick(count)
        if count:
            verb = "was" if count == 1 else "were"
            self.line(f"{count} of {self.total} {self.unit}s {verb} finished before, nothing to do for them")

    def fail(self, failed: Failed) -> None:
        """Record a failure and say so at once."""
        self.failures.append(failed)
        self.say(f"failed: {failed.reason}")

    def trace(self, error: BaseException) -> None:
        """Show where an error came from, if `debug` is set."""
        if self.debug:
            self.say("".join(traceback.format_exception(error)).rstrip())

    def say(self, text: str) -> None:
        """Print one line on stderr, above the bar."""
        with self._above():
            self._say(text)

    def line(self, text: str) -> None:
        """Print one line on stdout, above the bar."""
        with self._above():
            print(text, flush=True)

    def _move(self, share: float, step: str) -> None:
        """Move the bar. `share` is how much of the current batch is done, 0..1."""
        if not self._show:
            return
        past = self.finished + len(self.failures)
        first, last = min(past + 1, self.total), min(past + max(self._size, 1), self.total)
        place = f"{self.unit} {first}" if first == last else f"{self.unit}s {first} to {last}"
        self._bar.set_description_str(f"{place} of {self.total}{step}", refresh=False)
        self._bar.n = past + share * self._size
        with suppress(OSError):
            self._bar.refresh()

    @contextmanager
    def _above(self) -> Iterator[None]:
        """Remove the bar while a line is written."""
        with suppress(OSError):
            self._bar.clear()
        yield
        with suppress(OSError):
            self._bar.refresh()
