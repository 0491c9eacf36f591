"""Test what results say about a sparse method that ran, ran in part, or left attention dense."""

import json
from html import unescape

import pytest

from diffusers_ext import CLEAR, SoftPAG
from diffusers_ext.evaluate import density as sites
from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.compare import run
from diffusers_ext.evaluate.runner import answer, key, results
from diffusers_ext.evaluate.store import Store
from diffusers_ext.evaluate.suite import questions
from diffusers_ext.sampling.items import Item

CALL = {"num_inference_steps": 1, "max_sequence_length": 16}
CLEAR_CALL = ["--method", "clear", "--set", "radius=2", "--steps", 1]


def test_sites_survive_a_run_with_nothing_left_to_make(pipe, tmp_path):
    asked = questions("tuning", 1)
    variant = Variant("clear", (CLEAR(radius=2, backend="reference"),))
    judged = answer(pipe, variant, asked, CALL, Store(tmp_path, {}), batch=6)
    ran = sites.kept(tmp_path, key(variant))
    assert ran.keys() == {"clear"} and len(ran["clear"]) == 3
    for site in ran["clear"]:
        assert site["backend"] == "reference" and site["why"] == "asked for" and 0 < site["density"] < 1
    assert answer(None, variant, asked, CALL, Store(tmp_path, {}), batch=6) == judged, "all is on the disk"
    assert sites.kept(tmp_path, key(variant)) == ran
    assert results(variant, judged, ran=ran)["sites"] == ran


def test_methods_that_do_not_compute_attention_have_none(pipe, tmp_path):
    variant = Variant("softpag", (SoftPAG(),))
    judged = answer(pipe, variant, questions("tuning", 1)[:1], CALL, Store(tmp_path, {}))
    assert sites.kept(tmp_path, key(variant)) == {}
    assert "sites" not in results(variant, judged)


def test_a_comparison_tells_where_each_variant_ran(pipe):
    variants = [Variant("plain"), Variant("both", (SoftPAG(), CLEAR(radius=2)))]
    ran = run(pipe, variants, [Item("a red square", 0)], CALL).ran()
    assert ran.keys() == {"both"} and ran["both"].keys() == {"clear"}
    assert sites.idle(ran["both"]) == ["clear"]


def test_sentences_put_modules_of_one_kind_together():
    def site(backend, why, density=1.0):
        return {"backend": backend, "why": why, "density": density}

    ran = {
        "gna": [site("triton", "fastest", 0.25), site("triton", "fastest", 0.5), site("dense", "too few")],
        "clear": [site("dense", "no gain"), site("dense", "hides nothing")],
    }
    assert sites.sentences(ran) == [
        "gna: triton at 2 of 3 modules (fastest, density 0.25 to 0.50); dense at 1 of 3 modules (too few).",
        "clear: dense at 1 of 2 modules (no gain); dense at 1 of 2 modules (hides nothing).",
    ]
    (warning,) = sites.warnings(ran)
    assert warning.startswith("clear left attention dense") and "no gain" not in warning, "said above"


def test_variants_are_named_where_they_differ():
    dense, sparse = ({"backend": b, "why": "asked", "density": 0.5} for b in ("dense", "reference"))
    same = {"clear": {"clear": [dense]}, "softpag+clear": {"clear": [dense]}, "gna": {"gna": [sparse]}}
    assert sites.compared(sites.sentences, same) == [
        "clear: dense at 1 of 1 modules (asked).",
        "gna: reference at 1 of 1 modules (asked, density 0.50).",
    ]
    other = {"clear": {"clear": [dense]}, "softpag+clear": {"clear": [sparse]}}
    assert sites.compared(sites.sentences, other) == [
        "clear: clear: dense at 1 of 1 modules (asked).",
        "softpag+clear: clear: reference at 1 of 1 modules (asked, density 0.50).",
    ]
    (warning,) = sites.compared(sites.warnings, other)
    assert warning.startswith("clear: clear left attention dense")


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_eval_tells_where_the_method_ran_and_warns_where_it_did_not(
    cli, saved_model, tmp_path, caplog, backend
):
    words = ["eval", "-m", saved_model, *CLEAR_CALL, "--set", f"backend={backend}", "--n", 1]
    for _ in range(2):  # the second time no picture is left to make
        code, out, err = cli(*words, "--out", tmp_path)
        assert code == 0 and not caplog.records, "one fact is said once"
        if backend == "auto":
            assert err.startswith("warning: clear left attention dense in all modules")
            assert err.count("\n") == 1 and "no gain" not in err
            assert "clear: dense at 3 of 3 modules (no gain expected" in out
        else:
            assert err == "" and "clear: reference at 3 of 3 modules (asked for, density 0." in out
        found = json.loads((tmp_path / "results.json").read_text())
        assert {s["backend"] for s in found["sites"]["clear"]} == {"dense" if backend == "auto" else backend}
        for name in ("table.md", "gallery.html"):
            assert sites.sentences(found["sites"])[0] in unescape((tmp_path / name).read_text())


def test_compare_tells_it_too(cli, saved_model, tmp_path, caplog):
    words = ["compare", "a red square", "-m", saved_model, "--methods", "plain,clear,softpag+clear"]
    code, out, err = cli(*words, "--set", "radius=2", "--steps", 1, "--out", tmp_path)
    assert code == 0 and err.count("clear left attention dense in all modules") == 1 and not caplog.records
    assert "\nclear stayed dense in all 3 joint attention modules (no gain expected" in out
    assert "softpag+clear: clear stayed dense in all 3" in out
    assert "clear stayed dense in all 3 joint" in (tmp_path / "report.html").read_text()
