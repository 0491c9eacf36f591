import gc
import threading
from pathlib import Path

import pytest
import torch

from diffusers_ext.app.engine import Done, Engine
from diffusers_ext.app.line import Refused, Waiting
from diffusers_ext.app.models import Models
from diffusers_ext.sampling.generate import applied
from diffusers_ext.settings.methods import build

TURBO = "shapes-sd-turbo"


@pytest.fixture(scope="module")
def engine():
    return Engine(Models())


def result(events):
    *_, last = events
    assert isinstance(last, Done)
    return last.result


def test_a_job_shows_and_ends(engine):
    events = list(engine.run("a", lambda control, place: control.show("half") or "all"))
    assert [e for e in events if not isinstance(e, Waiting)] == ["half", Done("all")]


def test_a_fault_is_one_sentence_and_the_next_job_runs(engine, caplog):
    def broken(control, place):
        raise RuntimeError("secret /path\nof the server")

    with pytest.raises(
        Refused, match="the job failed with RuntimeError, which is a fault of the server"
    ) as e:
        list(engine.run("a", broken))
    assert "secret" not in str(e.value) and "secret" in caplog.text
    assert result(engine.run("a", lambda control, place: 1)) == 1


def test_an_error_of_the_system_does_not_show_its_path(engine):
    with pytest.raises(Refused, match="could not use a file of its own") as caught:
        list(engine.run("a", lambda control, place: Path("/secret/of/the/server").read_text()))
    assert "secret" not in str(caught.value)


def test_a_request_without_a_thread_leaves_the_queue(engine, monkeypatch):
    def fails(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fails)
        with pytest.raises(Refused, match="the server is too busy"):
            list(engine.run("a", lambda control, place: 1))
    assert result(engine.run("b", lambda control, place: 2)) == 2 and not engine._jobs


def test_out_of_memory_is_one_sentence(engine):
    def large(control, place):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    with pytest.raises(Refused, match="out of memory; ask for a smaller size"):
        list(engine.run("a", large))


def test_cancelling_ends_the_job_of_one_visitor(engine):
    started, seen = threading.Event(), []

    def endless(control, place):
        started.set()
        while True:
            control.check()

    def go():
        try:
            list(engine.run("a", endless))
        except Refused as error:
            seen.append(str(error))

    thread = threading.Thread(target=go)
    thread.start()
    started.wait(10)
    assert engine.cancel("b") == 0
    assert engine.cancel("a") == 1
    thread.join(10)
    assert seen == ["cancelled; nothing of this run is kept"]
    assert result(engine.run("b", lambda control, place: 2)) == 2


def test_a_closed_iterator_ends_its_job(engine):
    over = threading.Event()

    def endless(control, place):
        try:
            control.show("began")
            while True:
                control.check()
        finally:
            over.set()

    events = engine.run("a", endless)
    while next(events) != "began":
        pass
    events.close()
    assert over.wait(10)
    assert engine._jobs == {}


def test_jobs_have_a_scheduler_of_their_own_and_share_weights(engine):
    def both(control, place):
        with place.pipeline(TURBO) as (_, one), place.pipeline(TURBO) as (_, two):
            return one.scheduler is two.scheduler, one.unet is two.unet

    assert result(engine.run("a", both)) == (False, True)


def test_a_failing_job_leaves_the_model_as_it_was(engine):
    def processors(control, place):
        with place.pipeline(TURBO) as (_, pipe):
            return dict(pipe.unet.attn_processors)

    before = result(engine.run("a", processors))

    def fails(control, place):
        with place.pipeline(TURBO) as (_, pipe), applied(pipe, build(["softpag"])):
            raise ValueError("in the middle")

    with pytest.raises(Refused, match="in the middle"):
        list(engine.run("a", fails))
    after = result(engine.run("a", processors))
    assert all(after[name] is before[name] for name in before)


def test_another_model_replaces_the_first_in_memory(engine):
    def load(name):
        return lambda control, place: place.load(name)[1]

    import weakref

    held = weakref.ref(result(engine.run("a", load(TURBO))))
    result(engine.run("a", load("shapes-sd")))
    gc.collect()
    assert held() is None


def test_two_devices_work_at_a_time():
    engine = Engine(Models(), ("cpu", "cpu"))
    both = threading.Barrier(2, timeout=10)
    found = []

    def job(control, place):
        both.wait()
        return place.number

    threads = [threading.Thread(target=lambda v=v: found.append(result(engine.run(v, job)))) for v in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(found) == [0, 1]


@pytest.mark.parametrize(
    "name, said",
    [
        ("/etc", "unknown model '/etc'; nearest is"),
        ("../secret", "unknown model '../secret'"),
        ("~/models", "unknown model '~/models'"),
        ("", "unknown model ''"),
        ("shapes-sdd", "nearest is 'shapes-sd'"),
        ("a/b", "this server loads no models of the Hub, got 'a/b'"),
        ("shapes-clip", "unknown model 'shapes-clip'"),
    ],
)
def test_visitors_name_only_what_is_offered(name, said):
    with pytest.raises(ValueError, match=r"nearest|Hub") as error:
        Models().resolve(name)
    assert said in str(error.value)


def test_folders_of_the_operator_are_offered_without_their_path(tmp_path):
    from diffusers_ext.zoo.catalogue import path

    folder = tmp_path / "mine"
    folder.symlink_to(path(TURBO))
    models = Models((str(folder),))
    assert models.names()[-1] == "mine"
    assert models.resolve("mine").folder == folder
    with pytest.raises(ValueError, match="unknown model"):
        models.resolve(str(folder))


def test_the_hub_is_open_only_where_the_operator_says_so(tmp_path, monkeypatch):
    (tmp_path / "tests" / "app").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert Models(hub=True).resolve("a/b").folder is None
    for name in ("../b", "/b", "a/../b", "a/b.toml", "a/b c", "tests/app"):
        with pytest.raises(ValueError, match="unknown model"):
            Models(hub=True).resolve(name)
