"""Send a page what no browser sends: events of its own with made-up values, addresses, and names of files."""

import json
import os
import secrets
import time

import httpx
import pytest
from gradio_client.exceptions import AppError

from diffusers_ext.app import folder as folders
from diffusers_ext.app.folder import Folder

from .pages import client, served


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with served(tmp_path_factory.mktemp("page")) as address:
        yield address


@pytest.fixture(scope="module")
def events(url):
    """Number and number of inputs of the events of the page, by the id of what begins them."""
    config = httpx.get(f"{url}/config").json()
    names = {each["id"]: each["props"].get("elem_id") for each in config["components"]}
    return {
        names.get(target): (event["id"], len(event["inputs"]))
        for event in config["dependencies"]
        if event["backend_fn"]
        for target, _ in event["targets"]
    }


def refused(url, number, data):
    """Send an event, and return the sentence that it is refused with."""
    visitor = secrets.token_hex(5)
    body = {"data": data, "fn_index": number, "session_hash": visitor}
    with httpx.Client(timeout=60, verify=False) as program:
        assert program.post(f"{url}/gradio_api/queue/join", json=body).status_code == 200
        with program.stream("GET", f"{url}/gradio_api/queue/data?session_hash={visitor}") as answer:
            for line in answer.iter_lines():
                found = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if found.get("msg") == "process_completed":
                    assert not found["success"]
                    return found["output"]["error"]
    raise AssertionError("no answer came")


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/x", "https://example.org/x.png"])
@pytest.mark.parametrize("name", ["drop", "batch-start"])
def test_no_address_is_fetched(url, events, name, address):
    number, count = events[name]
    file = {"path": address, "meta": {"_type": "gradio.FileData"}}
    assert refused(url, number, [[file]] * count).startswith("the server fetches no addresses")


@pytest.mark.parametrize("name", ["drop", "batch-start"])
@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd"])
def test_no_file_of_the_server_is_taken_for_an_upload(url, events, name, path):
    number, count = events[name]
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    said = refused(url, number, [file] * count)
    assert said == "the server cannot answer this request; reload the page and try again"


@pytest.mark.parametrize("name", ["generate", "maps-go", "heads-go", "search-sampler", "masks-device"])
def test_events_without_values_show_nothing_of_the_inside(url, events, name):
    number, count = events[name]
    said = refused(url, number, [None] * count)
    assert said == "the server cannot answer this request; reload the page and try again"


def test_plans_read_no_file_and_are_bounded(url, tmp_path):
    secret = tmp_path / "secret.toml"
    secret.write_text("password = 1")
    ask = client(url, tmp_path)
    for model in (str(secret), str(tmp_path), "/etc/passwd"):
        with pytest.raises(AppError, match="there is no preset") as caught:
            ask.predict(model, "gna", api_name="/plan")
        assert "password" not in str(caught.value)
    with pytest.raises(AppError, match="up to 200,000 tokens here"):
        ask.predict("flux.1", "gna", height=65536, width=65536, api_name="/plan")
    with pytest.raises(AppError, match="model takes text"):
        ask.predict([], "gna", api_name="/plan")


def test_files_of_a_batch_have_one_folder_and_others_are_swept(tmp_path):
    folder = Folder.of(tmp_path)
    assert folder.of_batch("a") == folder.of_batch("a") != folder.of_batch("b")
    assert folder.fresh() != folder.fresh()
    time.sleep(0.01)
    folder.sweep(0)
    assert not list(folder.made.iterdir())


def test_the_oldest_files_make_room_and_young_ones_stay(tmp_path, monkeypatch):
    folder = Folder.of(tmp_path)
    jobs = [folder.fresh() for _ in range(3)]
    upload = folder.cache / "upload"
    upload.mkdir()
    for age, path in zip((300, 3 * 3600, 2 * 3600, 3600), (*jobs, upload), strict=True):
        (path / "x.png").write_bytes(bytes(10**6))
        for each in (path / "x.png", path):
            os.utime(each, (time.time() - age, time.time() - age))
    assert folder.sweep(most=5 * 10**6) > 4 * 10**6 and all(path.exists() for path in (*jobs, upload))
    folder.sweep(most=2_500_000)
    assert [path.exists() for path in (*jobs, upload)] == [True, False, False, True]
    assert folder.sweep(most=100) > 10**6
    assert [path.exists() for path in (*jobs, upload)] == [True, False, False, False]
    folder.fresh()
    monkeypatch.setattr(folders, "MOST", 100)
    monkeypatch.setattr(folders, "EVERY_S", 0)
    with pytest.raises(OSError, match="the files of the last 10 minutes fill the server; try again later"):
        folder.fresh()


def test_a_folder_of_a_batch_that_is_used_again_is_not_deleted(tmp_path):
    folder = Folder.of(tmp_path)
    again = folder.of_batch("a")
    os.utime(again, (0, 0))
    assert folder.of_batch("a") == again and again.is_dir()


def test_a_folder_that_cannot_be_written_is_a_sentence_without_its_path(tmp_path):
    folder = Folder.of(tmp_path)
    folder.made.rmdir()
    folder.made.write_text("in the way")
    with pytest.raises(OSError, match="the server cannot write its files") as caught:
        folder.fresh()
    assert str(tmp_path) not in str(caught.value)
