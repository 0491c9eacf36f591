"""Let requests wait for a device: a bounded queue that serves visitors in turn, and that they can leave."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..outputs.stop import Interrupted

CANCELLED = "cancelled; nothing of this run is kept"
LOOK_S = 0.5  # between two looks at whether a visitor who waits has cancelled


class Refused(ValueError):
    """A request cannot be met; the text is one sentence for the visitor."""


class Control:
    """A control shows the visitor what a job does, and ends the job where the visitor has cancelled."""

    def __init__(self, show: Callable[[Any], None]) -> None:
        self.show = show
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        """True once the visitor has cancelled, or has left."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ask the job to end. It does so within one step."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise `Interrupted` if the visitor has cancelled."""
        if self.cancelled:
            raise Interrupted(CANCELLED)


@dataclass(frozen=True, slots=True)
class Waiting:
    """The request waits, with `before` others that come first."""

    before: int

    @property
    def words(self) -> str:
        """Say how many come first."""
        if not self.before:
            return "next in the queue"
        return f"waiting, {self.before} request{'s' if self.before > 1 else ''} before yours"


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A place in the queue."""

    visitor: str


class Line:
    """A queue for `devices` with room for `most` requests, `each` of one visitor.

    The next is the first request of the visitor who was served longest ago, so nobody waits behind all
    requests of another.
    """

    def __init__(self, devices: int, most: int, each: int) -> None:
        self._free, self._most, self._each = list(range(devices)), most, each
        self._tickets: list[Ticket] = []
        self._served: dict[str, int] = {}  # visitor -> number of the serving
        self._count = 0
        self._changed = threading.Condition()

    def enter(self, visitor: str, bounded: bool = True) -> Ticket:
        """Take a place. Raises `Refused` if the queue is full, unless the request is not `bounded` by it."""
        with self._changed:
            if bounded and len(self._tickets) >= self._most + len(self._free):
                raise Refused(f"the queue is full, {self._most} requests wait; try again in a minute")
            if bounded and sum(t.visitor == visitor for t in self._tickets) >= self._each:
                raise Refused(f"{self._each} requests of yours wait; let one of them end first")
            ticket = Ticket(visitor)
            self._tickets.append(ticket)
            return ticket

    def wait(self, ticket: Ticket, control: Control) -> int:
        """Return the number of a device once it is this request's turn.

        Raises `Interrupted` if its visitor cancels before.
        """
        said = None
        with self._changed:
            while True:
                control.check()
                order = self._order()
                if self._free and order[0] is ticket:
                    self._tickets.remove(ticket)
                    self._count += 1
                    self._served[ticket.visitor] = self._count
                    self._forget()
                    self._changed.notify_all()
                    return self._free.pop()
                if (place := order.index(ticket)) != said:
                    said = place
                    control.show(Waiting(place))
                self._changed.wait(LOOK_S)

    def leave(self, ticket: Ticket) -> None:
        """Give up a place."""
        with self._changed:
            if ticket in self._tickets:
                self._tickets.remove(ticket)
            self._changed.notify_all()

    def give_back(self, number: int) -> None:
        """Give a device back."""
        with self._changed:
            self._free.append(number)
            self._changed.notify_all()

    def _order(self) -> list[Ticket]:
        """Return the requests in the order of their turns: visitors in turn, then as they came."""
        turns: dict[str, int] = {}
        keys = []
        for place, ticket in enumerate(self._tickets):
            turn = turns.get(ticket.visitor, 0)
            turns[ticket.visitor] = turn + 1
            keys.append((turn, self._served.get(ticket.visitor, 0), place))
        return [
            ticket for _, ticket in sorted(zip(keys, self._tickets, strict=True), key=lambda pair: pair[0])
        ]

    def _forget(self) -> None:
        """Keep the memory of visitors bounded."""
        if len(self._served) > 1000:
            for visitor in sorted(self._served, key=self._served.__getitem__)[:500]:
                del self._served[visitor]
