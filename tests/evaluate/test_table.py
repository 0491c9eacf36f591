import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffusers_ext.evaluate.compare import Variant
from diffusers_ext.evaluate.run import results
from diffusers_ext.evaluate.score import Judged
from diffusers_ext.evaluate.table import BEGIN, END, insert, load, render, result_files
from diffusers_ext.evaluate.weights import fingerprint
from diffusers_ext.processors.softpag import SoftPAG

README = Path(__file__).parents[2] / "README.md"


def measured(with_method):
    def judged(right):
        return [Judged("a red square", i, "single_object", i < right, "") for i in range(10)]

    head = {"model": "shapes-x", "suite": "held-out", "n": 10, "seed": 0, "call": {"guidance_scale": 4.0}}
    if with_method:
        return head | results(Variant("softpag", (SoftPAG(),)), judged(8), judged(6))
    return head | results(Variant("plain"), judged(6))


def test_rows_and_figures():
    lines = render([measured(False), measured(True)]).splitlines()
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert rows[0][:5] == ["model", "prompts", "CFG", "method", "single object"]
    assert {len(r) for r in rows} == {len(rows[0])}
    assert {r[2] for r in rows[2:]} == {"4"} and [r[3] for r in rows[2:]] == ["plain", "plain", "softpag"]
    assert rows[2][4] == rows[2][-2] == "60 % (31 to 83)" and rows[4][4] == "80 % (49 to 94)"
    assert lines[-1].startswith("- shapes-x, held-out, CFG 4, softpag minus plain: +20 points (")


def test_insert_replaces_only_what_lies_between():
    page = f"head\n{BEGIN}\nold\n{END}\ntail\n"
    once = insert(page, "new")
    assert once == f"head\n{BEGIN}\nnew\n{END}\ntail\n"
    assert insert(once, "new") == once


@pytest.mark.parametrize("page", ["", BEGIN, END + BEGIN, BEGIN + END + END])
def test_a_page_without_the_markers_is_refused(page):
    with pytest.raises(ValueError, match="needs one"):
        insert(page, "new")


def test_command(tmp_path):
    page, file = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text(f"{BEGIN}\n{END}\n")
    file.write_text(json.dumps(measured(True)))
    command = [sys.executable, "-m", "diffusers_ext.evaluate.table", str(file), "--readme", str(page)]
    subprocess.run(command, check=True, capture_output=True)
    assert page.read_text() == f"{BEGIN}\n{render([measured(True)])}\n{END}\n"


def test_readme_shows_the_committed_results():
    assert result_files(), "no result file lies beside the weights"
    assert insert(README.read_text(), render(load(result_files()))) == README.read_text()


def test_committed_results_describe_the_committed_weights():
    assert result_files(), "no result file lies beside the weights"
    for file in result_files():
        assert json.loads(file.read_text())["weights"] == fingerprint(file.parents[1]), file
