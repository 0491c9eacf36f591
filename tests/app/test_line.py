import threading
import time

import pytest

from diffusers_ext.app.line import Control, Line, Refused, Waiting
from diffusers_ext.outputs.stop import Interrupted


def control(seen=None):
    return Control((seen if seen is not None else []).append)


def turns(line: Line, tickets: dict) -> list[str]:
    """Let all requests wait in threads, and return the order in which they get the one device."""
    order, lock = [], threading.Lock()

    def go(name, ticket):
        number = line.wait(ticket, control())
        with lock:
            order.append(name)
        line.give_back(number)

    threads = [threading.Thread(target=go, args=pair) for pair in tickets.items()]
    for thread in threads:
        thread.start()
    return order, threads


def test_visitors_take_turns():
    line = Line(1, most=10, each=5)
    held = line.wait(line.enter("first"), control())
    tickets = {f"a{i}": line.enter("a") for i in range(3)} | {"b0": line.enter("b")}
    order, threads = turns(line, tickets)
    line.give_back(held)
    for thread in threads:
        thread.join(10)
    assert order.index("b0") == 1  # behind the first of a, before the others of a
    assert [name for name in order if name[0] == "a"] == ["a0", "a1", "a2"]


def test_a_full_queue_refuses_with_a_sentence():
    line = Line(1, most=2, each=9)
    line.wait(line.enter("x"), control())
    line.enter("a"), line.enter("b")
    with pytest.raises(Refused, match="the queue is full, 2 requests wait; try again in a minute"):
        line.enter("c")


def test_one_visitor_cannot_fill_the_queue():
    line = Line(1, most=20, each=2)
    line.enter("a"), line.enter("a")
    with pytest.raises(Refused, match="2 requests of yours wait"):
        line.enter("a")
    line.enter("b")


def test_a_visitor_who_waits_may_cancel():
    line, seen = Line(1, most=5, each=5), []
    line.wait(line.enter("x"), control())
    mine = control(seen)
    failed = []

    def go(ticket):
        try:
            line.wait(ticket, mine)
        except Interrupted as error:
            line.leave(ticket)
            failed.append(error)

    thread = threading.Thread(target=go, args=(line.enter("a"),))
    thread.start()
    while not seen:
        time.sleep(0.01)
    assert seen == [Waiting(0)]
    mine.cancel()
    thread.join(10)
    assert failed and not line._tickets


def test_places_in_words():
    assert [Waiting(n).words for n in (0, 1, 3)] == [
        "next in the queue",
        "waiting, 1 request before yours",
        "waiting, 3 requests before yours",
    ]


def test_the_memory_of_visitors_is_bounded():
    line = Line(1, most=5, each=5)
    for i in range(1500):
        line.give_back(line.wait(line.enter(f"v{i}"), control()))
    assert len(line._served) <= 1000
