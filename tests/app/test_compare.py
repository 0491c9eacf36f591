"""The tab Compare: what its form reads and shows, and what a run puts on the page."""

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from diffusers_ext.app import compare
from diffusers_ext.app.asked import Asked
from diffusers_ext.app.engine import Engine, Refused
from diffusers_ext.app.folder import Folder
from diffusers_ext.app.form import Form
from diffusers_ext.app.models import Models
from diffusers_ext.app.results import Results
from diffusers_ext.app.server import Server
from diffusers_ext.outputs.record import read

TURBO = "shapes-sd-turbo"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    return Server(Engine(Models()), Folder.of(tmp_path_factory.mktemp("app")))


@pytest.fixture(scope="module")
def form(server):
    with gr.Blocks(analytics_enabled=False):
        form = Form(server.models)
        form.build()
    return form


@pytest.fixture(scope="module")
def results(server):
    with gr.Blocks(analytics_enabled=False):
        results = Results(server.models)
        results.build()
    return results


def value(update, usual=None):
    """The value that an update gives a component."""
    return update.get("value", usual) if isinstance(update, dict) and "__type__" in update else update


def held(form, updates):
    """The values of the inputs after updates."""
    return [value(updates[c], c.value) if c in updates else c.value for c in form.inputs]


def test_the_first_request_is_the_preset_of_the_first_model(form):
    asked = form.read([c.value for c in form.inputs])
    assert asked == Asked("a red circle and a blue square", "shapes-sd", ({"name": "softpag"},), {}, 0)


REQUESTS = [
    Asked(
        "two green stars", "shapes-sd", ({"name": "astar", "step_size": 3.0},), {"num_inference_steps": 4}, 7
    ),
    Asked("a <i>red</i> circle", "shapes-sd3", ({"name": "softpag", "strength": None},), {}, 2**63 - 1),
    Asked(
        "x", "shapes-sd-turbo", ({"name": "nag", "negative_prompt": '"7"'}, {"name": "structured"}), {}, None
    ),
    Asked("a red circle moves left", "shapes-wan", (), {"num_frames": 5, "negative_prompt": "blue"}, 1),
]


@pytest.mark.parametrize("asked", REQUESTS, ids=lambda asked: asked.model)
def test_a_request_goes_through_the_form_unchanged(form, asked):
    assert form.read(held(form, form.fill(asked))) == asked


def test_another_model_brings_its_settings_and_leaves_what_it_cannot_take(form):
    updates = form.suit("shapes-sd3", form.prompt.value, ["softpag", "astar"])
    assert updates[form.methods]["value"] == ["softpag"]
    assert "astar" not in updates[form.methods]["choices"]
    assert "astar" in updates[form.refused]
    scale = next(f.control for f in form.fields["softpag"] if f.name == "scale")
    assert updates[scale]["value"] == 0.75
    assert updates[form.groups["softpag"]]["visible"] and not updates[form.groups["astar"]]["visible"]
    assert form.suit("shapes-wan", form.prompt.value, [])[form.prompt] == "a red circle moves left"
    assert form.suit("shapes-wan", "my own words", [])[form.prompt] != "a red circle moves left"


def test_a_click_before_the_controls_follow_the_model_takes_the_settings_of_the_model(form):
    values = dict(zip(form.inputs, (c.value for c in form.inputs), strict=True))
    asked = form.read([*(values | {form.model: "shapes-sd3"}).values()])
    assert (asked.model, asked.methods) == ("shapes-sd3", ({"name": "softpag"},))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"methods": [{"name": "softpag", "scale": 1e9}]}, "SoftPAG scale must lie in"),
        ({"methods": ["astar"], "model": "shapes-sd3"}, "astar"),
        ({"methods": ["ir-diffusion"]}, "several prompts"),
        ({"model": "nobody"}, "unknown model"),
    ],
)
def test_settings_that_cannot_be_shown_are_one_sentence(form, data, sentence):
    with pytest.raises(ValueError, match=sentence):
        form.fill(Asked.of({"prompt": "a red circle", "model": TURBO} | data))


def run(server, results, asked, visitor="a"):
    """All updates of a run, merged: what the page shows at its end."""
    page = {}
    for updates in compare._run(server, results, visitor, asked):
        page |= updates
    return page


def test_a_run_shows_both_pictures_and_all_that_is_known(server, results):
    asked = Asked("a red circle and a <b>x</b>", TURBO, ({"name": "softpag"},), {}, 5)
    seen = list(compare._run(server, results, "a", asked))
    first = next(updates for updates in seen if updates.get(results.facts))
    assert "with methods" not in first[results.facts], "the plain picture is shown before the other"
    page = {k: v for updates in seen for k, v in updates.items()}
    plain, changed = (np.asarray(Image.open(path)) for path in value(page[results.slider]))
    assert plain.shape == changed.shape == (64, 64, 3) and (plain != changed).any()
    table = page[results.facts]
    assert "<b>" not in table and "evaluations" in table
    assert "softpag ran in 1 of 7 self-attention modules" in table
    assert page[results.seed] == "5" and "--seeds 5" in page[results.command]
    assert ">done in " in page[results.status]
    assert [read(path)["methods"] != [] for path, _ in value(page[results.gallery])] == [False, True]


def test_evaluations_are_rows_of_the_denoiser(server, results):
    asked = Asked("a red circle", "shapes-sd", ({"name": "softpag"},), {"num_inference_steps": 2}, 5)
    page = run(server, results, asked)
    assert "<td>4</td><td>6</td>" in page[results.facts]


def test_without_a_method_there_is_one_picture(server, results):
    page = run(server, results, Asked("a red circle", TURBO, (), {}, None))
    assert value(page[results.slider]) is None
    assert Image.open(value(page[results.one])).size == (64, 64)
    assert page[results.seed].isdecimal(), "the seed that was drawn is known"
    assert "generate" in page[results.command]


def test_clips_are_shown_side_by_side(server, results):
    call = {"num_inference_steps": 1, "num_frames": 5}
    page = run(server, results, Asked("a red circle moves left", "shapes-wan", ({"name": "nag"},), call, 1))
    paths = [value(page[video]) for video in results.videos]
    assert [path.rpartition(".")[2] for path in paths] == ["mp4", "mp4"] and paths[0] != paths[1]
    assert page[results.clips]["visible"] and not page[results.one]["visible"]
    assert "export_to_gif" in page[results.python]


def test_cancel_stops_within_one_step_and_the_next_run_is_clean(server, results):
    asked = Asked("a red circle", "shapes-sd", ({"name": "nag"},), {"num_inference_steps": 6}, 5)
    steps = []
    with pytest.raises(Refused, match="cancelled"):
        for updates in compare._run(server, results, "b", asked):
            if ": step " in (words := str(updates.get(results.status, ""))):
                steps.append(words)
                if len(steps) == 2:
                    server.engine.cancel("b")
    assert len(steps) <= 3, steps
    page = run(server, results, Asked("a red circle", TURBO, (), {}, 5), "b")
    assert ">done in " in page[results.status]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (Asked(" ", TURBO), "write a prompt"),
        (Asked("a", TURBO, call={"height": 63}), "multiple of 8"),
        (Asked("a", TURBO, call={"height": 10**6}), "up to 2048"),
        (Asked("a", TURBO, call={"num_inference_steps": 0}), "number of steps"),
        (Asked("a", TURBO, call={"negative_prompt": "b"}), "reads no negative prompt"),
        (Asked("a", TURBO, ({"name": "gna"},)), "GNA needs a window"),
        (Asked("a", TURBO, ({"name": "softpag", "scale": 99.0},)), "SoftPAG scale must lie in"),
        (Asked("a", TURBO, ({"name": "softpag", "heads": {"nowhere": None}},)), "nowhere"),
        (Asked("a", "shapes-sd3", ({"name": "structured"},)), "structured"),
        (Asked("a", "other/model"), "loads no models of the Hub"),
    ],
)
def test_bad_input_is_one_sentence(server, results, asked, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        run(server, results, asked)
    assert "\n" not in str(caught.value)
    assert results.failed(str(caught.value))[results.slider]["value"] is None
