"""Test that the fit finds the constants that made up times, and says what it cannot find."""

import json

import numpy as np
import pytest

from bench import gpu
from bench.gpu_fit import RULES, fits, gathers, predicted_ms, report
from diffusers_ext.kernels.block_sparse.gains import COSTS, Costs

FULL = 1.4  # a FULL block over its pairs in dense attention
PARTIAL = dict(zip(RULES, (1.1, 1.8, 2.25, 2.2), strict=True))
ROWS, TOKENS, DENSE_MS = 256, 32768, 20.0


def rows(noise=0.0, form="as shipped", head_dim=128, counts=(1, 4, 16, 64), full=FULL, start=1.5):
    """Return what `bench.timing.rates` would write on a GPU with these constants."""
    draw = np.random.default_rng(0)
    found = [{"case": "ceiling: dense", "kind": "dense", "head_dim": head_dim, "tokens": TOKENS}]
    found[0] |= {"ms": DENSE_MS, "ok": True}
    block_ms = full * DENSE_MS / ROWS
    for rule, ratio in PARTIAL.items():
        for kind, each in (("full", 1.0), ("partial", ratio)):
            for blocks in counts:
                ms = block_ms * (start + blocks * each) * (1 + noise * draw.standard_normal())
                facts = {"case": f"blocks: {blocks} {kind} {rule}", "kind": kind, "rule": rule, "form": form}
                facts |= {"head_dim": head_dim, "blocks": blocks, "rows": ROWS, "columns": ROWS}
                found.append(facts | {"tokens": TOKENS, "ms": ms, "ok": True})
    tokens = 118800
    moved = {"case": "gather: q, k, v and out", "tokens": tokens, "ok": True}
    return [*found, moved | {"ms": 900 * tokens * DENSE_MS / TOKENS**2}]


def written(folder, found, name="rates-gpu"):
    (folder / f"{name}.json").write_text(json.dumps({"rows": found, "device": "gpu", "class": "9.0"}))
    return folder


def test_constants_without_noise_are_found_exactly():
    (fit,) = fits(rows())
    for rule, ratio in PARTIAL.items():
        assert fit.partial[rule].value == pytest.approx(ratio) and fit.full[rule].value == pytest.approx(FULL)
        assert fit.start[rule] == pytest.approx(1.5) and fit.partial[rule].n == 8
    assert gathers(rows()) == pytest.approx(900)


def test_noise_of_two_percent_stays_inside_the_intervals():
    (fit,) = fits(rows(noise=0.02))
    for rule, ratio in PARTIAL.items():
        found = fit.partial[rule]
        assert found.low < ratio < found.high and found.high - found.low < 0.5
        assert fit.full[rule].low < FULL < fit.full[rule].high
        assert found.value == pytest.approx(ratio, rel=0.06)


def test_forms_and_sizes_of_heads_are_fitted_apart():
    found = fits([*rows(), *rows(form="another", full=1.2), *rows(head_dim=64, full=2.0)])
    assert {(fit.form, fit.head_dim): round(fit.full["disk"].value, 6) for fit in found} == {
        ("as shipped", 128): 1.4, ("another", 128): 1.2, ("as shipped", 64): 2.0,
    }  # fmt: skip


def test_rows_that_failed_their_check_count_for_nothing():
    found = rows()
    for row in found:
        if row.get("rule") == "disk" and row.get("blocks") == 64:
            row |= {"ms": 1e3, "ok": False}
    (fit,) = fits(found)
    assert fit.partial["disk"].value == pytest.approx(PARTIAL["disk"]) and fit.partial["disk"].n == 6
    assert not fits([row for row in rows() if row.get("kind") != "dense"])
    assert not fits(rows(counts=(4,)))


def session(full_share, cost, rule="box", slower=1.0):
    """Return a row of `bench.timing.sparse_kernels`; text is a tenth of the sequence."""
    share = FULL * (full_share + (1 - full_share) * PARTIAL[rule])
    return {
        "rule": rule, "form": "as shipped", "full_share": full_share, "cost": cost, "ok": True,
        "queries": 900, "tokens": 1000, "dense_ms": 10.0, "kernel_ms": 9.0 * cost * share * slower,
        "choice_ms": 0,
    }  # fmt: skip


def test_kernels_of_sessions_are_predicted(tmp_path):
    (fit,) = fits(rows())
    row = session(0.7, 0.2)
    assert predicted_ms(row, fit) == pytest.approx(row["kernel_ms"])
    assert predicted_ms(row | {"rule": "lut"}, fit) is None
    plans = [session(0.7, 0.2), session(0.2, 0.4, "disk", 1.1), session(0, 0.1, "band", 1.5)]
    written(tmp_path, plans, "sparse_kernels-gpu")
    text = report(written(tmp_path, rows()))
    assert "1.10 times as long as predicted in the median of 3 cases (1.00 to 1.50)" in text


def test_the_command_prints_and_writes_them(tmp_path, capsys):
    written(tmp_path, rows(noise=0.01))
    assert gpu.main(["--fit", str(tmp_path)]) == []
    assert "| as shipped | 128 | disk | 1.79 (1.7" in capsys.readouterr().out
    (fit,) = json.loads((tmp_path / "fit.json").read_text())["fits"]
    assert fit["partial"]["band"]["value"] == pytest.approx(2.2, rel=0.05)


def read_line(text):
    """Read the line as `gains.py` would: a key and its costs."""
    (line,) = [line for line in text.splitlines() if "Costs(" in line]
    return next(iter(eval("{" + line.partition("#")[0] + "}", {"Costs": Costs}).items())), line


def test_the_line_is_one_of_the_table_and_keeps_what_was_not_measured(tmp_path):
    (key, found), line = read_line(report(written(tmp_path, rows())))
    assert key == ("triton", "9.0") and key in COSTS
    assert found == Costs(FULL, *PARTIAL.values(), 900, "as timed on gpu") and "as before" not in line
    some = [row for row in rows() if row.get("rule") != "band" and not row["case"].startswith("gather")]
    (_, found), line = read_line(report(written(tmp_path, some)))
    before = COSTS["triton", "9.0"]
    assert (found.band, found.gathers, found.disk) == (before.band, before.gathers, PARTIAL["disk"])
    assert line.endswith("# as before: band, gathers")


def test_constants_that_are_hardly_known_do_not_replace_others(tmp_path):
    (_, found), line = read_line(report(written(tmp_path, rows(noise=0.6))))
    (fit,) = fits(rows(noise=0.6))
    wide = [rule for rule in RULES if fit.partial[rule].high > 1.2 * fit.partial[rule].value]
    assert wide and all(getattr(found, rule) == getattr(COSTS["triton", "9.0"], rule) for rule in wide)
    assert all(rule in line.partition("# as before:")[2] for rule in wide)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"a fit needs rates-MACHINE.json, and .* has none; measure it with .*--quick"),
        ("not json", r"rates-gpu.json is no record of a bench \(JSONDecodeError\); measure it again"),
        ("[]", r"rates-gpu.json is no record of a bench \(TypeError\); measure it again"),
        (
            '{"rows": [], "device": "gpu", "class": "9.0"}',
            r"too few for a fit, which takes two sizes of FULL",
        ),
    ],
)
def test_folders_without_rows_are_one_sentence(tmp_path, content, said):
    if content is not None:
        (tmp_path / "rates-gpu.json").write_text(content)
    with pytest.raises(SystemExit, match=f"^error: .*{said}"):
        gpu.main(["--fit", str(tmp_path)])
    assert not (tmp_path / "fit.json").exists()
