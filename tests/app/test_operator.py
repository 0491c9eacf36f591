"""What the operator's own settings for a model have of the server, and what of it visitors get."""

import json
import shutil

import pytest

import diffusers_ext as dx
from diffusers_ext.app import batch_files, pictures
from diffusers_ext.app.asked import Asked
from diffusers_ext.app.batch_store import Batches
from diffusers_ext.app.engine import Engine
from diffusers_ext.app.models import Models
from diffusers_ext.app.search_asked import SearchAsked
from diffusers_ext.app.search_run import search
from diffusers_ext.outputs.record import sources
from diffusers_ext.processors.sparse import pooled
from diffusers_ext.zoo import catalogue

WEIGHTS = "far.safetensors"
SECRET = "home-of-the-operator"
CLEAR = {"radius": 2, "downsample": 2, "backend": "reference"}
ASKED = {"prompt": "a red circle", "model": "mine", "methods": ["clear"], "seed": 0}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A server with a model whose settings name a file of weights, as a distilled one has it."""
    folder = tmp_path_factory.mktemp(SECRET) / "mine"
    shutil.copytree(catalogue.path("shapes-sd-turbo"), folder)
    method = dx.CLEAR(**CLEAR)
    with dx.apply(dx.load(folder), method) as session:
        pooled.write(folder / WEIGHTS, session.cores(method), 2)
    (folder / "clear.json").write_text(json.dumps({"settings": CLEAR | {"weights": WEIGHTS}}))
    return Engine(Models((str(folder),)))


def ran(engine, work):
    return list(engine.run("me", work))[-1].result


def check(picture, *texts):
    record, *_ = sources(picture)
    (method,) = [m for m in record["methods"] if m["name"] == "clear"]
    assert method["weights"] == WEIGHTS
    assert SECRET not in json.dumps(record) + "".join(texts)


def test_a_picture_names_no_folder(engine, tmp_path):
    made = ran(engine, lambda c, p: pictures.make(c, p, Asked.of(ASKED), tmp_path))
    check(made.path, str(made.record), str(made.engagement))


def test_a_search_names_no_folder(engine, tmp_path):
    found = ran(engine, lambda c, p: search(c, p, SearchAsked.of(ASKED | {"budget": 2}), tmp_path))
    check(found.path, str(found.record), found.data.read_text())


def test_a_batch_names_no_folder(engine, tmp_path):
    batches = Batches(engine, tmp_path / "batches")
    batches.home.mkdir()
    job = {"model": {"name": "mine"}, "prompts": {"texts": ["a red circle"]}, "method": [{"name": "clear"}]}
    batch = batches.create(job, {}, "job")
    batch.join(120)
    with_report = [path.read_text() for path in batch.out.rglob("*.jsonl")]
    (picture,) = batch.out.glob("*.png")
    assert '"report"' in "".join(with_report)
    check(picture, *with_report, batch_files.report(batch, tmp_path).read_text())
