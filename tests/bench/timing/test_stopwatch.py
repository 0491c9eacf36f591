"""Test that the time of a call is that of the GPU alone, on a clock that runs as a stream of a GPU does."""

import pytest
import torch

from bench.timing import stopwatch

LAUNCH, CYCLES = 0.05, 2e6  # ms of the host for a launch, and clock cycles of the GPU in a ms


class Stream:
    """The host enqueues work and goes on; the GPU does it in order, and idles where nothing is enqueued."""

    def __init__(self):
        self.host = self.gpu = 0.0

    def launch(self, ms):
        self.host += LAUNCH
        self.gpu = max(self.gpu, self.host) + ms
        return self.gpu

    def wait(self):
        self.host = max(self.host, self.gpu)

    def event(self, enable_timing):
        return Event(self)


class Event:
    def __init__(self, stream):
        self.stream = stream

    def record(self):
        self.time = self.stream.launch(0.0)

    def query(self):
        return self.time <= self.stream.host

    def elapsed_time(self, other):
        return other.time - self.time


class Dirt:
    def __init__(self, stream):
        self.stream = stream

    def zero_(self):
        self.stream.launch(0.07)


@pytest.fixture
def stream(monkeypatch):
    stream = Stream()
    monkeypatch.setattr(torch.cuda, "Event", stream.event)
    monkeypatch.setattr(torch.cuda, "synchronize", stream.wait)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: stream.launch(cycles / CYCLES))
    return stream


def watch(stream):
    found = stopwatch.Stopwatch("cpu")
    found.cuda, found.dirt = True, Dirt(stream)
    return found


@pytest.mark.parametrize("launches", [1, 3, 40, 200])
def test_launches_of_the_host_are_not_in_the_time(stream, launches):
    found = watch(stream)
    call = lambda: [stream.launch(0.01) for _ in range(launches)]  # noqa: E731
    assert found(call) == pytest.approx(0.01 * launches) and found.late == 0
    assert found(call) == pytest.approx(0.01 * launches), "the pause is kept"


def test_a_call_that_waits_for_the_gpu_is_timed_and_counted(stream):
    found = watch(stream)

    def call():
        stream.launch(0.01)
        stream.wait()
        stream.launch(0.01)

    assert found(call) > 0.02 and found.late == 1 and found.idle == stopwatch.LONGEST_IDLE
    assert found(call) > 0.02 and found.late == 2


def test_calls_take_turns_and_keep_their_numbers(stream):
    first, second = (lambda ms=ms: stream.launch(ms) for ms in (0.5, 0.25))
    times = stopwatch.in_turns(watch(stream), first, second, repeats=4)
    assert times == [pytest.approx((0.5,) * 4), pytest.approx((0.25,) * 4)]
