from diffusers_ext import SoftPAG
from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.runner import answer, key, results
from diffusers_ext.evaluate.store import Store
from diffusers_ext.evaluate.suite import questions

CALL = {"num_inference_steps": 1, "max_sequence_length": 16}
PLAIN = Variant("plain")


class Counter:
    """Count images through the real pipeline."""

    def __init__(self, pipe):
        self.images = 0
        self.handle = pipe.vae.decoder.register_forward_hook(self.count)

    def count(self, module, inputs, output):
        self.images += len(output)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_verdicts(pipe, tmp_path):
    asked = questions("held-out", 2)
    complete = answer(pipe, PLAIN, asked, CALL, Store(tmp_path, {}), batch=4)
    other = tmp_path / "other"
    other.mkdir()
    answer(pipe, PLAIN, asked[:3], CALL, Store(other, {}), batch=2)
    counter, ticks = Counter(pipe), []
    resumed = answer(pipe, PLAIN, asked, CALL, Store(other, {}), batch=4, tick=ticks.append)
    assert counter.images == len(asked) - 3
    assert ticks[0] == 3 and sum(ticks) == len(asked)
    assert [(j.prompt, j.seed, j.correct) for j in resumed] == [
        (j.prompt, j.seed, j.correct) for j in complete
    ]


def test_settings_keep_pictures_apart(pipe, tmp_path):
    asked, store = questions("tuning", 1), Store(tmp_path, {})
    for scale in (1.0, 2.0):
        counter = Counter(pipe)
        answer(pipe, Variant("softpag", (SoftPAG(scale=scale),)), asked, CALL, store, batch=5)
        assert counter.images == len(asked)
        counter.handle.remove()
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
