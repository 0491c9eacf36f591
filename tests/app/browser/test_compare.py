"""The tab Compare in a browser: draw, compare, cancel, share, and take the settings of a picture."""

import re
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from diffusers_ext.outputs.record import read


def says(page, words):
    expect(page.locator("#status")).to_contain_text(re.compile(words))


def choose(page, model):
    page.locator("#model input").fill(model)
    page.get_by_role("option", name=model, exact=True).click()


def unfold(page, place):
    page.locator(f"#{place} > button").click()


def fetched(page, place, folder, number=0):
    """The file behind a picture on the page."""
    source = page.locator(f"#{place} img").nth(number).get_attribute("src")
    path = folder / f"{place}-{number}.png"
    path.write_bytes(urlopen(source).read())
    return path


def draw(page, model="shapes-sd-turbo"):
    choose(page, model)
    page.keyboard.press("Control+Enter")
    says(page, "done in")


def test_ctrl_enter_draws_both_pictures_with_their_records(tab, tmp_path):
    tab.locator("#seed input").fill("11")
    draw(tab)
    expect(tab.locator("#verdict")).to_contain_text("evaluations")
    expect(tab.locator("#verdict")).to_contain_text("softpag ran in")
    first, second = (fetched(tab, "slider", tmp_path, number) for number in (0, 1))
    assert [read(path)["seed"] for path in (first, second)] == [11, 11]
    assert [bool(read(path)["methods"]) for path in (first, second)] == [False, True]
    assert (np.asarray(Image.open(first)) != np.asarray(Image.open(second))).any()


def test_a_slider_changes_the_picture(tab, tmp_path):
    draw(tab)
    before = read(fetched(tab, "slider", tmp_path, 1))["methods"][0]["scale"]
    unfold(tab, "settings-softpag")
    tab.locator("#compare-softpag-scale input[type=number]").fill("8")
    tab.locator("#compare-softpag-scale input[type=number]").press("Tab")
    unfold(tab, "again")
    tab.locator("#generate").click()
    expect(tab.locator("#command textarea")).to_have_value(re.compile("softpag.scale=8"))
    after = read(fetched(tab, "slider", tmp_path, 1))["methods"][0]["scale"]
    assert (before, after) == (0.5, 8.0)


def test_cancel_stops_and_the_next_run_is_clean(tab):
    unfold(tab, "advanced")
    tab.locator("#num-inference-steps input").fill("150")
    tab.locator("#generate").click()
    says(tab, r"step \d+ of 150")
    tab.locator("#cancel").click()
    says(tab, "cancelled")
    expect(tab.locator("#slider")).to_be_hidden()
    tab.locator("#num-inference-steps input").fill("2")
    tab.locator("#generate").click()
    says(tab, "done in")


def test_a_link_restores_the_settings_and_a_reload_keeps_them(tab, url):
    tab.locator("#prompt textarea").fill('two "green" stars & <b>more</b>')
    tab.locator("#seed input").fill("9007199254740993")  # no double
    draw(tab)
    unfold(tab, "again")
    link = tab.locator("#link textarea").input_value()
    assert link.startswith(f"{url}/?compare=")
    for _ in range(2):
        tab.goto(link)
        expect(tab.locator("#seed input")).to_have_value("9007199254740993")
        expect(tab.locator("#prompt textarea")).to_have_value('two "green" stars & <b>more</b>')
        expect(tab.locator("#model input")).to_have_value("shapes-sd-turbo")


def test_a_broken_link_is_a_sentence_and_the_page_works(tab, url):
    tab.goto(f'{url}/?compare={{"prompt":"<script>alert(1)</script>","call":{{"evil":1}}}}')
    says(tab, "The link was not used: a call has no 'evil' here")
    expect(tab.locator("#prompt textarea")).to_have_value("a red circle and a blue square")
    draw(tab)


def test_a_dropped_picture_restores_the_settings(tab, tmp_path):
    tab.locator("#seed input").fill("5")
    draw(tab)
    path = fetched(tab, "slider", tmp_path, 1)
    tab.reload()
    tab.wait_for_selector("#generate")
    unfold(tab, "restore")
    tab.locator("#drop input[type=file]").set_input_files(path)
    says(tab, "The settings of the file are in the form")
    expect(tab.locator("#seed input")).to_have_value("5")
    expect(tab.locator("#model input")).to_have_value("shapes-sd-turbo")
    Image.new("RGB", (8, 8)).save(tmp_path / "empty.png")
    tab.locator("#drop button[aria-label=Clear]").click()
    tab.locator("#drop input[type=file]").set_input_files(tmp_path / "empty.png")
    says(tab, "The file was not used: 'empty.png' holds no settings")


def test_another_model_offers_other_methods(tab):
    choose(tab, "shapes-sd3")
    expect(tab.locator("#refused")).to_contain_text("astar")
    expect(tab.get_by_label("astar", exact=True)).to_have_count(0)
    unfold(tab, "settings-softpag")
    expect(tab.locator("#compare-softpag-scale input[type=number]")).to_have_value("0.75")


def test_bad_input_is_a_sentence_that_stays(tab):
    tab.locator("#seed input").fill("abc")
    tab.locator("#generate").click()
    says(tab, "a seed must be a whole number .* got 'abc'")
    tab.locator("#seed input").fill("1")
    tab.locator("#prompt textarea").fill("")
    tab.locator("#generate").click()
    says(tab, "write a prompt")


def test_clips_play_side_by_side(tab):
    choose(tab, "shapes-wan")
    expect(tab.locator("#prompt textarea")).to_have_value("a red circle moves left")
    unfold(tab, "advanced")
    tab.locator("#num-inference-steps input").fill("2")
    tab.locator("#generate").click()
    says(tab, "done in")
    for place in ("clip-0", "clip-1"):
        expect(tab.locator(f"#{place} video")).to_be_visible()


@pytest.mark.parametrize("size", ["wide", "narrow"])
def test_every_control_is_reached_by_the_keyboard(tab, size):
    if size == "narrow":
        tab.set_viewport_size({"width": 400, "height": 800})
    reached = set()
    for _ in range(60):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.closest('[id]:not(input)')?.id"))
    missing = {"prompt", "generate", "cancel", "model", "seed", "draw-seed", "last-seed"} - reached
    assert not missing, (missing, reached)
