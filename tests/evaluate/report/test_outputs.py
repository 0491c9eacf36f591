import pytest

from diffusers_ext.evaluate.report.outputs import markdown, rows
from tests.bench.pages.test_results_table import measured


def test_a_single_variant_has_one_column_of_figures():
    assert rows(measured(False), "plain") == [
        ["task", "prompts", "plain"],
        ["single_object", "10", "60 % (31 to 83)"],
        ["overall", "10", "60 % (31 to 83)"],
    ]


def test_a_method_is_told_beside_plain():
    heads, single, _ = rows(measured(True), "softpag")
    assert heads == ["task", "prompts", "plain", "softpag", "difference"]
    assert single[2:4] == ["60 % (31 to 83)", "80 % (49 to 94)"]
    assert single[4].startswith("+20 points (") and "2 wins, 0 losses" in single[4]


def test_swapped_colours_are_told():
    found = measured(False)
    found["tasks"]["color_attr"] = found["tasks"]["single_object"] | {"swapped": 0.3}
    assert rows(found, "plain")[2][2] == "60 % (31 to 83), swapped 30 %"


@pytest.mark.parametrize("with_method", [False, True])
def test_markdown_is_a_table_with_its_conditions(with_method):
    lines = markdown(measured(with_method), "softpag").splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count(" | ") for line in table}) == 1 and "single object" in table[2]
    assert lines[len(table)] == "" and "held-out prompts, 10 a task, seed 0; guidance_scale 4.0." in lines
    assert ("plain 0.00 s" in lines[-1]) == with_method
