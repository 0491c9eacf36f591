import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from diffusers_ext.training.export import export, thin
from diffusers_ext.training.fit import FULL_LOG, Run, fit
from diffusers_ext.training.objectives.sd3 import SD3Objective
from diffusers_ext.training.recipes import SD3Config
from diffusers_ext.training.runs import run
from diffusers_ext.zoo import cards, catalogue
from tests.processes import Forked
from tests.training import reproduce
from tests.training.conftest import shrink, untrained_vae

pytestmark = pytest.mark.usefixtures("small_shards")
ANOTHER_PROCESS = 1e-4  # may round otherwise, by some 1e-6 in the end; other draws differ by more than 5e-3
TINY = SD3Config(samples=16, batch=4, warmup=8, first=1, log_every=1, evaluate_every=10**9)


def train(out, vae, recipe=TINY, start=None, **how):
    objective = SD3Objective(vae, out / "cache", recipe, start=start, compile=False)
    return fit(objective, out, Run(**how))


def losses(out):
    return reproduce.losses(out / "log.jsonl")


@pytest.fixture(scope="module")
def complete(tmp_path_factory, vae, small_shards):
    """Make an uninterrupted run of 4 steps."""
    out = tmp_path_factory.mktemp("complete")
    assert train(out, vae)
    return out


def _killed(out):
    """Train in a process of its own, which dies before its fourth step."""
    inputs = SD3Objective.inputs

    def dying(self, step, progress):
        if step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return inputs(self, step, progress)

    SD3Objective.inputs = dying
    shrink(pytest.MonkeyPatch())
    train(out, untrained_vae(), checkpoint_minutes=0)


def test_a_killed_run_goes_on_to_the_same_losses(complete, tmp_path, vae):
    """After kill -9 in the middle and a resume, every loss equals the uninterrupted run."""
    killed = Forked(_killed, tmp_path)
    _, err = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, err
    step = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"]
    assert 1 <= step < 4
    assert train(tmp_path, vae)
    assert losses(tmp_path) == pytest.approx(losses(complete), rel=ANOTHER_PROCESS)


def test_a_stop_request_writes_a_checkpoint_and_the_rest_follows(complete, tmp_path, vae):
    assert not train(tmp_path, vae, minutes=0)
    assert losses(tmp_path).keys() == {1}
    assert train(tmp_path, vae)
    assert losses(tmp_path) == losses(complete)


def test_a_stop_request_is_heard_while_data_are_drawn(complete, tmp_path, vae):
    """After SIGTERM in the first shard no step is done, nothing is half written, and the run goes on."""
    objective = SD3Objective(vae, tmp_path / "cache", TINY, compile=False)
    make = objective.stream.shards.make

    def interrupted(*key):
        os.kill(os.getpid(), signal.SIGTERM)
        return make(*key)

    objective.stream.shards.make = interrupted
    assert not fit(objective, tmp_path, Run())
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 0
    assert not list(tmp_path.glob("cache/*"))
    export(objective, tmp_path, tmp_path / "model", "shapes-sd3")
    assert (tmp_path / "model" / "training_log.jsonl").read_text() == ""
    assert train(tmp_path, vae)
    assert losses(tmp_path) == losses(complete)


def test_decay_can_begin_on_resume(tmp_path, vae):
    assert not train(tmp_path, vae, minutes=0)
    assert train(tmp_path, vae, samples=16, decay_now=True)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert (state["step"], state["schedule"]) == (4, [0, 4, 16])
    rates = [json.loads(line)["lr"] for line in (tmp_path / "log.jsonl").read_text().splitlines()][1:]
    assert rates == pytest.approx([TINY.lr, TINY.lr * 2 / 3, TINY.lr / 3], abs=1e-6)


def test_the_export_is_a_stock_pipeline_and_a_new_run_may_start_from_it(complete, tmp_path, vae):
    objective = SD3Objective(vae, tmp_path / "cache", TINY, compile=False)
    objective.pipe.tokenizer("a red circle", padding="max_length")
    export(objective, complete, tmp_path / "model", "shapes-sd3", autoencoder="as given")
    cards.verify_weights(tmp_path / "model")
    card = json.loads((tmp_path / "model" / cards.CARD).read_text())
    assert (card["steps"], card["samples"]) == (4, 16)
    assert card["call"] == dict(catalogue.MODELS["shapes-sd3"].call)
    assert card["autoencoder"] == "as given" and card["config"]["samples"] == 16
    StableDiffusion3Pipeline.from_pretrained(tmp_path / "model")
    tokenizer = json.loads((tmp_path / "model" / "tokenizer" / "tokenizer.json").read_text())
    assert tokenizer["padding"] is None
    assert not train(tmp_path / "again", vae, start=tmp_path / "model", minutes=0)
    first, scratch = losses(tmp_path / "again")[1], losses(complete)
    assert first < scratch[1]


def test_muon_takes_the_hidden_matrices_of_the_transformer(tmp_path, vae):
    assert train(tmp_path, vae, recipe=replace(TINY, samples=8, muon_lr=1e-3))
    adamw, muon = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["optimizers"]
    assert len(muon["state"]) > 60 and len(adamw["state"]) > 60


def test_the_log_is_thinned_but_keeps_evaluations():
    lines = [{"step": i, "loss": 1.0} for i in range(1, 5000)]
    evaluations = [{"step": i, "exact": {}} for i in (50, 777)]
    lines = sorted([*lines, *evaluations], key=lambda line: line["step"])
    kept = list(thin(lines, 400))
    assert len(kept) <= 400 and evaluations[1] in kept and kept[-1] == lines[-1]
    assert [line for line in kept if line["step"] <= FULL_LOG] == lines[: FULL_LOG + 1]
    assert list(thin(lines[:50], 100)) == lines[:50]


def test_unknown_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"train one of shapes-vae, .*shapes-sd3"):
        run("dog", out=tmp_path)
