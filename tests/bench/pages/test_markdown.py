import pytest

from bench.pages.markdown import has, insert, markdown, markers

BEGIN, END = markers("x")


def test_insert_replaces_only_what_lies_between():
    page = f"head\n{BEGIN}\nold\n{END}\ntail\n"
    once = insert(page, "new", "x")
    assert once == f"head\n{BEGIN}\nnew\n{END}\ntail\n"
    assert insert(once, "new", "x") == once
    assert has(page, "x") and not has(page, "y")


def test_blocks_of_other_names_are_left_alone():
    other = "\n".join(["", markers("y")[0], "kept", markers("y")[1], ""])
    assert other in insert(f"{BEGIN}\n{END}{other}", "new", "x")


@pytest.mark.parametrize("page", ["", BEGIN, END + BEGIN, BEGIN + END + END])
def test_a_page_without_the_markers_is_refused(page):
    with pytest.raises(ValueError, match="needs one"):
        insert(page, "new", "x")


def test_tables():
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
