from bench.pages.results_table import render
from diffusers_ext.evaluate.cells import Variant
from diffusers_ext.evaluate.runner import results
from diffusers_ext.evaluate.score import Judged
from diffusers_ext.processors.softpag import SoftPAG


def measured(with_method):
    def judged(right):
        return [Judged("a red square", i, "single_object", i < right, "") for i in range(10)]

    head = {"model": "shapes-x", "suite": "held-out", "n": 10, "seed": 0, "call": {"guidance_scale": 4.0}}
    if with_method:
        return head | results(Variant("softpag", (SoftPAG(),)), judged(8), judged(6))
    return head | results(Variant("plain"), judged(6))


def cells(text):
    """Return the rows of each table of a Markdown text."""
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    return [[[c.strip() for c in line.split("|")[1:-1]] for line in table] for table in tables]


def test_models_stand_apart_from_methods():
    models, methods = cells(render([measured(False), measured(True)]))
    assert models[0] == ["model", "steps, CFG", "prompts", "one", "all", "MiB"]
    assert models[2:] == [["shapes-x", "?, 4", "held-out, 10 each", "60 (31-83)", "60 (31-83)", ""]], (
        "the plain figures of both runs are the same"
    )
    assert methods[2][3:6] == ["softpag", "60 (31-83)", "80 (49-94)"]
    assert methods[2][6].startswith("+20 (") and methods[2][7] == "0.5"
    for table in (models, methods):
        assert {len(row) for row in table} == {len(table[0])}


def test_plain_models_alone_need_no_second_table():
    assert len(cells(render([measured(False)]))) == 1


def test_clips_have_a_table_of_their_own():
    picture, clip = measured(False), measured(False) | {"model": "shapes-y"}
    clip["tasks"] = {"single_object": clip["overall"], "motion": clip["overall"]}
    pictures, clips = cells(render([clip, picture]))
    assert "motion" not in pictures[0] and "motion" in clips[0]
    assert [t[2][0] for t in (pictures, clips)] == ["shapes-x", "shapes-y"]


def test_swapped_colours_are_told():
    found = measured(False)
    found["tasks"]["color_attr"] = found["tasks"]["single_object"] | {"swapped": 0.25}
    assert "exchange the two colours: shapes-x (?, 4) held-out 25 %." in render([found])


def test_a_method_that_never_ran_is_marked():
    ran = {"clear": [{"backend": "dense"}], "gna": [{"backend": "dense"}, {"backend": "triton"}]}
    found = measured(True) | {"methods": [{"name": "clear"}, {"name": "gna"}], "sites": ran}
    assert cells(render([found]))[1][2][3] == "clear (stayed dense)+gna"


def test_shipped_models_show_their_size():
    (table,) = cells(render([measured(False) | {"model": "shapes-sd3"}]))
    assert 1 < float(table[2][-1]) <= 10
