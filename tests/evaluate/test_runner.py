import pytest

from diffusers_ext import SoftPAG
from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.runner import answer, key, results
from diffusers_ext.evaluate.store import Store
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.sampling.progress import Progress

CALL = {"num_inference_steps": 1, "max_sequence_length": 16}
PLAIN = Variant("plain")


@pytest.fixture
def made(pipe):
    """Collect the images that the pipeline decodes."""
    found = []
    pipe.vae.decoder.register_forward_hook(lambda module, inputs, output: found.extend(output))
    return found


def test_an_interrupted_run_goes_on_and_ends_with_the_same_verdicts(pipe, made, tmp_path, capsys):
    asked = questions("held-out", 2)
    complete = answer(pipe, PLAIN, asked, CALL, Store(tmp_path, {}), batch=4)
    other = tmp_path / "other"
    other.mkdir()
    answer(pipe, PLAIN, asked[:3], CALL, Store(other, {}), batch=2)
    made.clear()
    with Progress(len(asked)) as progress:
        resumed = answer(pipe, PLAIN, asked, CALL, Store(other, {}), batch=4, progress=progress)
    assert len(made) == len(asked) - 3 and progress.finished == len(asked)
    assert "3 of 12 images were finished before" in capsys.readouterr().out
    verdicts = [[(j.prompt, j.seed, j.correct) for j in judged] for judged in (resumed, complete)]
    assert verdicts[0] == verdicts[1]


def test_settings_keep_pictures_apart(pipe, made, tmp_path):
    asked, store = questions("tuning", 1), Store(tmp_path, {})
    for scale in (1.0, 2.0):
        made.clear()
        answer(pipe, Variant("softpag", (SoftPAG(scale=scale),)), asked, CALL, store, batch=5)
        assert len(made) == len(asked)
    assert len(store.done) == 2 * len(asked)
    assert key(PLAIN) == "[]"


def test_results_with_a_method_hold_plain_and_the_pairs(pipe, tmp_path):
    asked, store = questions("tuning", 2), Store(tmp_path, {})
    variant = Variant("softpag", (SoftPAG(),))
    plain = answer(pipe, PLAIN, asked, CALL, store, batch=5)
    judged = answer(pipe, variant, asked, CALL, store, batch=5)
    found = results(variant, judged, plain)
    assert set(found["tasks"]["counting"]) == {"accuracy", "low", "high", "n"}
    assert found["overall"]["n"] == found["plain"]["overall"]["n"] == found["paired"]["overall"]["n"] == 12
    assert found["methods"][0]["name"] == "softpag" and found["methods"][0]["scale"] == 1.0
    alone = results(PLAIN, plain)
    assert alone["methods"] == [] and "paired" not in alone
