"""Batches and the servers that make them: a restart, a kill, and two servers on one folder."""

import shutil
from contextlib import suppress

import pytest

from diffusers_ext.app.batch_store import Batches

from .batches import job
from .pages import wait


def snapshot(batch, home):
    """What a server that is killed leaves of a batch that runs, whose files come and go meanwhile."""

    def copy(source, target):
        with suppress(FileNotFoundError):
            shutil.copy2(source, target)

    return shutil.copytree(batch.folder, home / batch.id, copy_function=copy)


def killed(batch, home, engine):
    """A batch as the next server finds it after the first step of a picture."""
    wait(lambda: "step" in batch.words())
    home.mkdir()
    snapshot(batch, home)
    batch.stop()
    batch.join(30)
    return Batches(engine, home).get(batch.id)


def test_a_restart_finds_a_stopped_batch_and_goes_on_with_the_same_pictures(batches, engine, tmp_path):
    data = job(prompts={"texts": ["a red circle"], "seeds": "0-9"})
    batch = batches.create(data, {}, "long")
    wait(lambda: batch.counts()[0] >= 2)
    batch.stop()
    batch.join(30)
    before = batch.counts()[0]
    assert not batch.running and 2 <= before < 10 and "stopped; it goes on where it ended" in batch.words()
    stamps = {path: path.stat().st_mtime_ns for path in batch.out.glob("*.png")}
    later = Batches(engine, tmp_path).get(f"https://example.org/?batch={batch.id}")
    assert later.counts()[0] == before and "it can go on" in later.words() and not later.running
    later.start()
    later.join(120)
    assert later.counts() == (10, 10, 0) and len(list(later.out.glob("*.png"))) == 10
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_a_server_goes_on_with_what_ran_when_the_last_one_was_killed(batches, engine, tmp_path):
    data = job(prompts={"texts": ["a red circle"], "seeds": "0-9"})
    batch, stopped = batches.create(data, {}, "runs"), batches.create(data, {}, "stopped")
    wait(lambda: batch.counts()[0] >= 2)
    stopped.stop()
    stopped.join(30)
    home = tmp_path / "copy"
    home.mkdir()
    snapshot(batch, home), snapshot(stopped, home)
    later = Batches(engine, home)
    later.resume()
    wait(lambda: later.get(batch.id).counts() == (10, 10, 0) and not later.get(batch.id).running)
    assert not later.get(stopped.id).running and later.get(stopped.id).counts()[0] < 10
    assert not list(home.glob("*/running"))


def test_a_server_that_is_stopped_leaves_its_batches_to_the_next(engine, tmp_path):
    first = Batches(engine, tmp_path)
    batch = first.create(job(prompts={"texts": ["a red circle"], "seeds": "0-9"}), {}, "runs")
    wait(lambda: batch.counts()[0] >= 1)
    first.close()
    assert not batch.running
    later = Batches(engine, tmp_path)
    later.resume()
    wait(lambda: later.get(batch.id).counts()[0] == 10)
    later.close()


def test_a_second_server_on_the_folder_leaves_alone_what_runs(engine, tmp_path):
    first, second = Batches(engine, tmp_path), Batches(engine, tmp_path)
    batch = first.create(job(prompts={"texts": ["a red circle"], "seeds": "0-99"}), {}, "runs")
    same = second.get(batch.id)
    assert not same.interrupted
    with pytest.raises(ValueError, match="another server makes this batch"):
        second.start(batch.id)
    batch.stop()
    batch.join(30)
    assert second.start(batch.id) is same and same.running
    second.close()


def test_what_a_visitor_stopped_stays_so_if_the_server_ends_meanwhile(engine, tmp_path):
    batches = Batches(engine, tmp_path)
    for stop in (batches.close, lambda: None):
        batch = batches.create(job(prompts={"texts": ["a red circle"], "seeds": "0-99"}), {}, "runs")
        batch.stop()
        stop()
        batch.join(30)
        assert not batch.running and not list(tmp_path.glob("*/running"))


def test_a_batch_that_ends_every_server_is_tried_again_once(batches, engine, tmp_path):
    slow = {"num_inference_steps": 200}
    data = {"model": {"name": "shapes-sd"}, "prompts": {"texts": ["a red circle"]}, "call": slow}
    first = batches.create(data, {}, "slow")
    second = killed(first, tmp_path / "one", engine)
    assert second.interrupted
    second.start(again=True)
    assert not killed(second, tmp_path / "two", engine).interrupted
