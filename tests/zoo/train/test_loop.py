import json
import os
import signal

import pytest
import torch

from diffusers_ext.zoo.train.config import Schedule
from diffusers_ext.zoo.train.loop import (
    Average,
    Log,
    Stopped,
    StopRequest,
    generator,
    load_checkpoint,
    save_atomically,
)


def test_a_failed_save_leaves_the_old_checkpoint_and_nothing_else(tmp_path):
    path = tmp_path / "run" / "checkpoint.pt"
    save_atomically({"step": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        save_atomically({"step": 2, "bad": lambda: None}, path)
    assert load_checkpoint(path) == {"step": 1} and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, share):
    path = tmp_path / "checkpoint.pt"
    save_atomically({"weights": torch.zeros(1000)}, path)
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(ValueError, match=r"checkpoint\.pt' cannot be read .*begin anew with --restart"):
        load_checkpoint(path)


def test_schedule_warms_up_stays_and_decays():
    plan = Schedule(100, 600, 1000)
    assert plan.factor(0) < 0.02 and plan.factor(100) == plan.factor(600) == 1
    assert plan.factor(800) == pytest.approx(0.5) and plan.factor(1000) == 0
    assert Schedule.plan(1000, 100, 0.4) == plan


def test_an_empty_schedule_is_refused():
    with pytest.raises(ValueError, match="raise the total"):
        Schedule(0, 10, 10)


def test_average_follows_and_swaps_back_exactly():
    live = torch.zeros(3)
    average = Average([live], 0.9)
    live += 1
    for step in range(200):
        average.update(step)
    torch.testing.assert_close(average.mean[0], torch.ones(3))
    average.mean[0].fill_(5)
    average.swap()
    assert live.tolist() == [5, 5, 5]
    average.swap()
    assert live.tolist() == [1, 1, 1]


def test_numbers_of_a_step_depend_on_seed_and_step_only():
    draw = lambda *key: torch.randn(4, generator=generator(*key)).tolist()  # noqa: E731
    assert draw(0, 5) == draw(0, 5)
    assert len({tuple(draw(s, t)) for s in range(3) for t in range(3)}) == 9


def test_log_lines_are_json(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.write(step=1, loss=0.123456789)
    log.write(step=2, exact={"counting": 0.5})
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert (lines[0]["loss"], lines[1]["exact"], lines[1]["step"]) == (0.123457, {"counting": 0.5}, 2)


def test_a_log_goes_back_to_a_step(tmp_path):
    """A crash leaves lines past the checkpoint, half a line, and with older code one glued to the next."""
    log = Log(tmp_path / "log.jsonl")
    assert log.read() == []
    for step in range(1, 6):
        log.write(step=step, loss=0.5)
    text = log.path.read_text()
    log.path.write_text(text + '{"step": 4, "exa' + '{"step": 4, "exact": {}}\n' + '{"step": 6, "lo')
    log.rewind(4)
    assert log.path.read_text() == "".join(text.splitlines(keepends=True)[:4])
    log.write(step=5, loss=0.25)
    assert [line["step"] for line in log.read()] == [1, 2, 3, 4, 5]
    log.rewind(0)
    assert log.path.read_text() == "" and len(list(tmp_path.iterdir())) == 1


def test_sigterm_asks_and_the_handler_goes_away():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stop_request_raises_where_it_is_heard_at_once():
    reached = []
    with StopRequest() as stop:
        with pytest.raises(Stopped), stop.at_once():
            reached.append("before")
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("after")
        assert stop.asked and reached == ["before"]
        os.kill(os.getpid(), signal.SIGTERM)  # elsewhere it is noted, and the next such place raises
        with pytest.raises(Stopped), stop.at_once():
            reached.append("after")
    assert reached == ["before"]
