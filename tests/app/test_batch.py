"""Batches of the page: what may be handed in, turns with visitors, stops, and what is fetched."""

import csv
import hashlib
import io
import json
import os
import threading
import time
import zipfile
from pathlib import Path

import pytest

from diffusers_ext.app import batch_check, batch_files, batch_store
from diffusers_ext.app.batch_form import asked, seeds
from diffusers_ext.app.batch_store import Batches
from diffusers_ext.app.batch_uploads import read
from diffusers_ext.app.batch_view import known, view
from diffusers_ext.app.engine import Engine
from diffusers_ext.app.models import Models
from diffusers_ext.outputs.record import sources

from .batches import TURBO, finished, job
from .pages import wait


def test_a_batch_is_made_shown_and_fetched(batches, tmp_path):
    batch = finished(batches, job("a red circle", "<script>alert(1)</script>", output={"folder": "/etc"}))
    assert batch.counts() == (4, 2, 0) and "4 of 4 pictures are finished" in batch.words()
    assert [e.state for e in batch.entries(0, 10)] == ["finished"] * 4
    assert batch.notes == ("[output] folder is decided by the server; the zip has all files",)
    away = tmp_path / "away"
    away.mkdir()
    with zipfile.ZipFile(batch_files.archive(batch, away)) as archived:
        names = archived.namelist()
        rows = list(csv.reader(io.StringIO(archived.read("table.csv").decode())))
        page = archived.read("index.html").decode()
        for name in names:
            if name.endswith(".png"):
                archived.extract(name, away)
                assert sources(away / name)[0]["model"] == "shapes-sd-turbo"
                assert page.count(name) == 2
    assert sum(name.endswith(".png") for name in names) == 4 and "job.json" in names
    assert len(rows) == 5 and rows[1][1] == "a red circle" and rows[1][5].startswith("right")
    text = batch_files.report(batch, away).read_text()
    assert text.count("data:image/png;base64,") == 4 and "<script>" not in text and "&lt;script&gt;" in text
    assert str(batch.folder) not in text and str(batch.folder) not in page


def test_it_has_the_pictures_of_the_command_line(batches, tmp_path, cli):
    batch = finished(batches, job())
    file = tmp_path / "same.toml"
    file.write_text('[model]\nname="shapes-sd-turbo"\n[prompts]\ntexts=["a red circle"]\nseeds="0-1"\n')
    code, _, _ = cli("run", file, "--out", tmp_path / "cli")
    assert code == 0
    own, theirs = (sorted(f.glob("*.png")) for f in (batch.out, tmp_path / "cli"))
    assert [p.name for p in own] == [p.name for p in theirs] and len(own) == 2
    assert [p.read_bytes() for p in own] == [p.read_bytes() for p in theirs]


@pytest.mark.parametrize("text", ["", "[]", '{"title": "x", "data": [], "notes": []}'])
def test_a_damaged_batch_is_a_sentence(batches, text):
    folder = batches.home / ("a" * 32)
    folder.mkdir()
    (folder / "batch.json").write_text(text)
    with pytest.raises(ValueError, match="the files of this batch are damaged; delete it"):
        batches.get(folder.name)


def test_no_more_batches_run_than_may(batches, monkeypatch):
    monkeypatch.setattr(batch_store, "RUNNING", 1)
    long = job(prompts={"texts": ["a red circle"], "seeds": "0-99"})
    stopped = batches.create(long, {}, "stopped")
    stopped.stop()
    stopped.join(30)
    batch = batches.create(long, {}, "runs")
    for begin in (lambda: batches.create(long, {}, "more"), lambda: batches.start(stopped.id)):
        with pytest.raises(ValueError, match="1 batches run at this time, which is the most"):
            begin()
    assert batches.start(batch.id) is batch and len(list(batches.home.iterdir())) == 2


def test_a_stop_ends_within_one_step_and_the_picture_is_not_kept(batches):
    slow = {"num_inference_steps": 200}
    data = {"model": {"name": "shapes-sd"}, "prompts": {"texts": ["a red circle"]}, "call": slow}
    batch = batches.create(data, {}, "slow")
    wait(lambda: "step" in batch.words())
    batch.stop()
    batch.join(30)
    assert not batch.running and batch.counts() == (0, 0, 0) and not list(batch.out.glob("*.png"))


def test_visitors_get_turns_between_two_pictures(batches, engine):
    data = job(prompts={"texts": ["a red circle"], "seeds": "0-99"})
    batch = batches.create(data, {}, "long")
    wait(lambda: batch.counts()[0] >= 1)
    served = [list(engine.run(f"visitor {i}", lambda control, place: batch.counts()[0])) for i in range(3)]
    at = [events[-1].result for events in served]
    assert at == sorted(at) and at[-1] < 100 and batch.running
    batch.stop()


def test_two_batches_and_their_settings_do_not_mix(batches):
    first = batches.create(job(method=[{"name": "softpag", "scale": 4.0}]), {}, "one")
    second = batches.create(job(), {}, "two")
    first.join(120), second.join(120)
    methods = [
        [sources(path)[0]["methods"] for path in sorted(batch.out.glob("*.png"))] for batch in (first, second)
    ]
    assert [m[0]["scale"] for m in methods[0]] == [4.0, 4.0] and methods[1] == [[], []]


def test_uploaded_files_are_read_and_named_harmlessly(batches, tmp_path):
    rows, table = tmp_path / "my rows.jsonl", tmp_path / "t.csv"
    rows.write_text('{"prompt": "a red circle", "seed": 3}\n')
    table.write_text("prompt,seed\na blue square,4\n")
    data, files, title = read([rows, table])
    assert title == "my rows.jsonl"
    batch = finished(batches, {**TURBO, **data}, files, title)
    assert [(e.prompt, e.seed) for e in batch.entries(0, 9)] == [("a red circle", 3), ("a blue square", 4)]
    assert batch.counts()[0] == 2 and (batch.folder / "my-rows.jsonl").is_file()


def test_an_upload_may_have_the_name_of_a_file_of_ours(batches, tmp_path):
    own, prompts = tmp_path / "job.toml", tmp_path / "batch.json"
    own.write_text('[model]\nname="shapes-sd-turbo"\n[prompts]\nfile="batch.json"\n')
    prompts.write_text('["a red circle"]')
    batch = finished(batches, *read([own, prompts]))
    assert [entry.prompt for entry in batch.entries(0, 9)] == ["a red circle"] and batch.counts()[0] == 1


def test_a_job_file_brings_the_prompt_files_that_it_names(batches, tmp_path):
    own, prompts = tmp_path / "job.toml", tmp_path / "p.txt"
    own.write_text('[model]\nname="shapes-sd-turbo"\n[prompts]\nfile="p.txt"\n[sampler]\nname="best-of-2"\n')
    prompts.write_text("a red circle\n")
    batch = finished(batches, *read([own, prompts]))
    (path,) = batch.out.glob("*.png")
    (sampler,) = sources(path)[0]["methods"]
    assert sampler["name"] == "best-of-n" and sampler["n"] == 2


def test_pictures_can_be_prompts(batches, tmp_path):
    first = finished(batches, job())
    paths = sorted(first.out.glob("*.png"))
    data, files, title = read(paths)
    second = finished(batches, {**TURBO, **data}, files, title)
    again = [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(second.out.glob("*.png"))]
    assert again == [hashlib.sha256(p.read_bytes()).hexdigest() for p in paths]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (job(model={"name": "/etc"}), "unknown model '/etc'"),
        (job(model={"name": "../../x"}), "unknown model"),
        (job(model={"name": "a/b"}), "loads no models of the Hub"),
        (job(grid={"model": ["shapes-sd", "/root"]}), "unknown model '/root'"),
        ({**TURBO, "prompts": {"file": "/etc/passwd"}}, "was not uploaded"),
        ({**TURBO, "prompts": {"file": ["../x.txt"]}}, "was not uploaded"),
        (job(prompts={"texts": ["x"], "wildcards": "/etc", "expand": True}), "wildcards is a folder"),
        (job(prompts={"texts": ["a __secret__"], "expand": True}), "has no file"),
        (job(prompts={"texts": ["x"], "seeds": "0-99999999999"}), "seeds are up to 10000"),
        (job(grid={"seeds": "0-99999999999"}), "seeds are up to 10000"),
        (job(prompts={"texts": ["{a|b}" * 500], "expand": True}), "2000 characters"),
        (job(prompts={"texts": ["{" * 999 + "a" + "}" * 999], "expand": True}), "recursion"),
        (job(prompts={"texts": ["x"] * 101, "seeds": "0-99"}), "up to 10000 pictures"),
        (job(prompts={"texts": ["x" * 5000]}), "2000 characters"),
        (job(method=[{"name": "softpag", "heads": "/etc/passwd"}]), "may name a file on the command line"),
        (job(method=[{"name": "softpag"}], grid={"softpag.heads": ["/etc/x"]}), "may name a file on the"),
        (job(sampler={"name": "npnet", "model": "/etc/x"}), "is one of shapes-sd-npnet"),
        (job(sampler={"name": "best-of-2", "rewards": ["/etc"]}), "unknown reward '/etc'"),
        (job(sampler={"name": "best-of-2", "budget": 10**9}), "budget is up to 5000"),
        (job(sampler={"name": "ttsnap"}, grid={"sampler.n": [10**7]}), "n is above 0 and up to 1000"),
        (job(sampler={"name": "best-of-2"}, grid={"sampler.micro_batch": [999]}), "decided by the server"),
        (job(call={"height": 100000, "width": 100000}), "2048 x 2048 px"),
        (job(call={"num_frames": 10**6}), "up to 257 frames"),
        (job(call={"num_inference_steps": 10**6}), "up to 200 steps"),
        (job(call={"output_type": "latent"}), "a call has no 'output_type' here"),
        (job(call={"ip_adapter_image": "/etc/passwd"}), "a call has no 'ip_adapter_image' here"),
        (job(grid={"call.guidance_scale": [float(i) for i in range(200)]}), "up to 100 points"),
        (job(grid={"call.eta": [0.5]}), "a call has no 'eta' here"),
        (job(output={"name": "../../{prompt}"}), "outside|below|name"),
        (job(output={"name": "/tmp/x"}), "outside|below|name"),
        (job(output={"layout": "drawbench"}), "needs the category"),
        (job(output={"format": "exe"}), "png"),
        (job(wishes={}), "has no table 'wishes'"),
        (job(call={"guidance_scale": float("inf")}), "not finite"),
        ({"prompts": {}}, "needs texts or file"),
        (TURBO, "needs texts or file"),
        (job(prompts={"texts": ["a\0b"]}), "NUL"),
        (job(method="softpag"), "is a list of tables"),
    ],
)
def test_a_hostile_job_is_refused_in_one_sentence_and_leaves_nothing(batches, data, says):
    with pytest.raises(ValueError, match=says) as caught:
        batches.create(data, {}, "job.toml")
    said = str(caught.value)
    assert "\n" not in said and len(said) < 600 and str(batches.home) not in said
    assert not list(batches.home.iterdir())


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.toml", "[prompts\n", "is not TOML"),
        ("a.toml", "x = " + "[" * 5000 + "]" * 5000, "is not TOML"),
        ("a.toml", '[prompts]\ntexts=["x"]\n[call]\nguidance_scale=2020-01-01\n', "a date"),
        ("a.toml", "#" * (2**20 + 1), "larger than 1 MiB"),
        ("a.txt", "", "has no prompts"),
        ("a.exe", "x", "is no prompt file"),
        ("a.jsonl", "[" * 100000, "a.jsonl, line 1"),
        ("a.csv", "name\nx\n", "no column of prompts"),
        ("a.png", "no picture", "a.png"),
        ("a.jsonl", '{"prompt": "x", "steps": 100000}\n', "a.jsonl, line 1: a picture takes up to 200 steps"),
    ],
)
def test_a_bad_file_is_one_sentence(batches, tmp_path, name, text, says):
    away = tmp_path / "up"
    away.mkdir()
    (away / name).write_text(text)
    batches.home = tmp_path / "own"
    batches.home.mkdir()
    with pytest.raises((ValueError, OSError), match=says) as caught:
        batches.create(*read([away / name]))
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)
    assert not list(batches.home.iterdir())


def test_a_picture_that_fails_is_said_and_the_others_are_made(batches):
    data = job(prompts={"texts": ["a red circle"]}, grid={"call.height": [64, 63]})
    batch = finished(batches, data)
    states = [entry.state for entry in batch.entries(0, 2)]
    assert states == ["finished", "failed"] and "1 could not be made" in batch.words()
    assert "63" in batch.entries(1, 1)[0].verdict


def test_a_job_that_cannot_be_made_says_why(batches):
    for more, says in (({"call": {"height": 63}}, "63"), ({"output": {"layout": "geneval"}}, "metadata")):
        batch = finished(batches, job(**more))
        assert (
            batch.counts() == (0, 0, 0) and says in batch.words() and str(batch.folder) not in batch.words()
        )


def test_no_one_finds_a_batch_without_its_id(batches):
    batch = finished(batches, job())
    for text in ("", "x" * 32, "..", "../../etc", batch.id[:-1], f"{batch.id[:-1]}g", None):
        with pytest.raises(ValueError, match="there is no such batch"):
            batches.get(text)
    (batch.folder / "batch.json").write_text("{")
    batches._known.clear()
    with pytest.raises(ValueError, match="damaged"):
        batches.get(batch.id)


def test_few_idle_batches_stay_in_memory_and_many_do_not(batches, monkeypatch):
    monkeypatch.setattr(batch_store, "READ", 3)
    made = [finished(batches, job(prompts={"texts": ["a red circle"]})) for _ in range(3)]
    assert all(batches.get(batch.id) is batch for batch in made)
    finished(batches, job(prompts={"texts": ["a red circle"]}))
    assert batches.get(made[2].id) is made[2] and batches.get(made[0].id) is not made[0]


def test_an_old_batch_makes_room_and_a_young_one_does_not(batches, monkeypatch):
    monkeypatch.setattr(batch_store, "KEPT", 2)
    old, young = finished(batches, job()), finished(batches, job())
    with pytest.raises(ValueError, match="holds 2 batches, which is the most; try again later"):
        batches.create(job(), {}, "job")
    ago = time.time() - batch_store.OLD_S - 60
    os.utime(old.folder, (ago, ago))
    finished(batches, job())
    assert not batches.has(old.id) and batches.has(young.id)


def test_a_page_that_is_no_number_is_one_sentence(batches):
    batch = finished(batches, job(prompts={"texts": ["a red circle"]}))
    for page in ("inf", "nan", "9" * 400, "x"):
        with pytest.raises(ValueError, match="the page is a number"):
            view(batch, page)


def test_a_batch_is_deleted_with_its_files(batches):
    batch = batches.create(job(prompts={"texts": ["a red circle"], "seeds": "0-999"}), {}, "x")
    wait(lambda: batch.counts()[0] >= 1)
    batches.delete(batch.id)
    assert not batch.folder.exists() and not batch.running and not list(batches.home.iterdir())


def test_batches_take_no_room_in_the_queue_of_visitors(tmp_path):
    engine = Engine(Models(), waiting=1)
    batches = Batches(engine, tmp_path)
    held, go = threading.Event(), threading.Event()

    def hold(control, place):
        held.set()
        go.wait(60)

    visitor = threading.Thread(target=lambda: list(engine.run("me", hold)))
    visitor.start()
    held.wait(60)
    made = [batches.create(job(), {}, str(i)) for i in range(3)]
    wait(lambda: all("waits" in batch.words() for batch in made))
    other = threading.Thread(target=lambda: list(engine.run("you", lambda control, place: None)))
    other.start()
    go.set()
    for thread in (visitor, other):
        thread.join(60)
    for batch in made:
        batch.join(120)
    assert all(batch.counts()[0] == 2 for batch in made)


@pytest.mark.parametrize(
    ("text", "found"), [("7", 7), ("0-3", "0-3"), ("1, 5", [1, 5]), ("x", "x"), ("1,,2", [1, 2])]
)
def test_seeds_are_read(text, found):
    assert seeds(text) == found


def test_the_form_makes_the_tables_of_a_job():
    own = {"files": None, "prompts": " a red circle \n\n", "model": "shapes-sd", "seeds": "0-3"}
    own |= {"methods": ["softpag"], "sampler": "best-of-n", "budget": 60, "negative_prompt": ""}
    own |= {"num_inference_steps": 5, "guidance_scale": None, "height": None, "width": None}
    data, files, title = asked(own)
    assert data == {
        "prompts": {"texts": ["a red circle"], "seeds": "0-3"},
        "model": {"name": "shapes-sd"},
        "method": [{"name": "softpag"}],
        "call": {"num_inference_steps": 5},
        "sampler": {"name": "best-of-n", "budget": 60},
    }
    assert not files and title == "a red circle"
    with pytest.raises(ValueError, match="a batch needs prompts"):
        asked({**own, "prompts": " "})


def test_names_of_uploads_are_harmless():
    names: list[str] = []
    for name in ("../../x.txt", "~root.txt", "con\n.csv", "..", "ü" * 300 + ".jsonl", "x.txt", ".hidden"):
        names.append(batch_check.safe_name(name, names))
    assert len(set(names)) == len(names)
    assert all("/" not in n and not n.startswith((".", "~")) and len(n) < 100 for n in names)


def test_what_a_browser_says_is_not_believed(batches):
    batch = finished(batches, job())
    mine = [[batch.id, "t" * 500], ["../../etc", "x"], [1, 2], "x", None, ["a", "b", "c"]]
    assert known(batches, json.dumps(mine)) == [[batch.id, "t" * 80]]
    assert known(batches, '{"a": 1}') == known(batches, "[" * 10**5) == known(batches, None) == []


def test_the_table_shows_prompts_as_text(batches):
    shown = view(finished(batches, job("<img src=x onerror=alert(1)>")))[1]
    assert "<img" not in shown and "&lt;img" in shown and shown.count("<tr>") == 3


def test_the_facts_of_a_batch_are_data_without_paths(batches):
    batch = finished(batches, job())
    text = (batch.folder / "batch.json").read_text()
    assert str(Path(batches.home)) not in text and json.loads(text)["data"]["model"] == TURBO["model"]
