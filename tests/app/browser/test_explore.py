"""The tab Explore in a browser: words over a picture, heads that are clicked, and masks of sparse methods."""

import json
import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from diffusers_ext.explore.mask_pictures import QUERY, SEEN, Drawing
from diffusers_ext.outputs import record


@pytest.fixture
def explore(tab):
    tab.get_by_role("tab", name="Explore").click()
    return tab


def opened(page, section):
    page.get_by_role("tab", name=section, exact=True).click()
    return page


def field(page, name):
    return page.locator(f"#{name} textarea, #{name} input").first


def command(page):
    return field(page, "masks-command")


def ended(page, section, words="done"):
    expect(field(page, f"{section}-status")).to_have_value(re.compile(words))


def picture(page, name, at=0):
    """The pixels that the page shows, and the bytes of the file."""
    shown = page.locator(f"#{name} img").nth(at)
    expect(shown).to_be_visible()
    data = page.request.get(shown.get_attribute("src")).body()
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int), data


def test_words_steps_and_layers_change_the_map_without_a_run(explore, tmp_path):
    page = opened(explore, "Words")
    field(page, "maps-steps").fill("3")
    page.click("#maps-go")
    ended(page, "maps")
    plain, _ = picture(page, "maps-plain")
    seen = [picture(page, "maps-picture")[0]]
    assert plain.shape == seen[0].shape == (640, 640, 3)
    shown = page.locator("#maps-picture img")

    def moved(move, words):
        before = shown.get_attribute("src")
        move()
        expect(page.locator("#maps-about")).to_contain_text(words)
        expect(shown).not_to_have_attribute("src", before)
        seen.append(picture(page, "maps-picture")[0])
        assert all(not np.array_equal(seen[-1], other) for other in seen[:-1])

    def choose_layer():
        page.locator("#maps-layer input").click()
        page.get_by_role("option", name="unet.mid_block").first.click()

    moved(page.get_by_role("radio", name="blue square").check, "blue square: at most")
    page.locator("#maps-step input[type=range]").focus()
    moved(lambda: page.keyboard.press("ArrowRight"), "step 1 of 3")
    moved(choose_layer, "mid_block")
    assert field(page, "maps-status").input_value() == "done"
    page.get_by_role("button", name="Files").click()
    with page.expect_download() as download:
        page.locator("#maps-files a").first.click()
    download.value.save_as(tmp_path / "picture.png")
    assert record.read(tmp_path / "picture.png")["call"]["num_inference_steps"] == 3


def test_a_head_that_is_clicked_is_perturbed_beside_the_plain_picture(explore):
    page = opened(explore, "Heads")
    ended(page, "heads", "ready")
    field(page, "heads-steps").fill("2")
    page.click("#heads-go")
    ended(page, "heads")
    pictures = page.locator("#heads-grid .thumbnail-item")
    expect(pictures.nth(6)).to_be_visible()
    pictures.last.click()
    chosen = field(page, "heads-json")
    expect(chosen).to_have_value(re.compile("unet"))
    (numbers,) = json.loads(chosen.input_value()).values()
    assert len(numbers) == 1
    plain = page.locator("#heads-pair img").first.get_attribute("src")
    expect(page.locator("#heads-pair img").last).not_to_have_attribute("src", plain)
    before = page.locator("#heads-pair img").last.get_attribute("src")
    page.locator("#heads-scale input[type=number]").fill("15")
    page.keyboard.press("Tab")
    expect(page.locator("#heads-pair img").last).not_to_have_attribute("src", before)
    shown = {page.locator("#heads-pair img").nth(i).get_attribute("src") for i in range(2)}
    files = [page.request.get(address).body() for address in shown]
    first, last = (np.asarray(Image.open(BytesIO(each)).convert("RGB")).astype(int) for each in files)
    assert first.shape == last.shape and abs(first - last).max() > 2


def test_a_sheet_that_is_cancelled_ends_soon_and_the_next_is_made(explore):
    page = opened(explore, "Heads")
    ended(page, "heads", "ready")
    field(page, "heads-steps").fill("150")
    page.click("#heads-go")
    ended(page, "heads", "step")
    page.click("#heads-cancel")
    ended(page, "heads", "cancelled; nothing of this run is kept")
    expect(page.locator("#heads-grid")).to_be_hidden()
    field(page, "heads-steps").fill("1")
    page.click("#heads-go")
    ended(page, "heads")


def test_bad_input_is_one_sentence_on_the_page(explore):
    page = opened(explore, "Words")
    for control, text, sentence in (
        ("maps-prompt", "", "write a prompt"),
        ("maps-seed", "abc", "a seed must be a whole number"),
        ("maps-steps", "0", "the number of steps must lie between 1 and 1000"),
        ("maps-words", "<img src=x onerror=alert(1)>", "<img src=x onerror=alert"),
    ):
        before = field(page, control).input_value()
        field(page, control).fill(text)
        page.click("#maps-go")
        ended(page, "maps", re.escape(sentence))
        expect(page.locator(".toast-body").filter(has_text=sentence)).to_be_visible()
        assert page.locator("img[src=x]").count() == 0
        field(page, control).fill(before)


def test_a_click_on_a_token_shows_the_keys_that_it_sees(explore):
    page = opened(explore, "Sparse masks")
    picture(page, "masks-picture")
    page.locator("#masks-model input").click()
    page.get_by_role("option", name="flux.1").click()
    expect(command(page)).to_have_value(re.compile("flux.1 --method clear"))
    drawing = Drawing.of((1, 64, 64))
    box = page.locator("#masks-picture img").bounding_box()
    edge = drawing.edge * box["width"] / drawing.size[0]
    page.locator("#masks-picture img").click(position={"x": 10.5 * edge, "y": 20.5 * edge})
    expect(page.locator("#masks-row input[type=number]")).to_have_value("20")
    expect(page.locator("#masks-column input[type=number]")).to_have_value("10")
    pixels, _ = picture(page, "masks-picture")
    cells = pixels[drawing.edge // 2 :: drawing.edge, drawing.edge // 2 :: drawing.edge]
    assert tuple(cells[20, 10]) == QUERY
    seen = (cells == SEEN).all(-1)
    rows, columns = np.mgrid[:64, :64]
    disk = (rows - 20) ** 2 + (columns - 10) ** 2 < 16**2
    disk[20, 10] = False
    assert np.array_equal(seen, disk)  # radius 16 is that of the preset


def test_a_slider_changes_density_and_speed_up(explore):
    page = opened(explore, "Sparse masks")
    facts = page.locator("#masks-facts")
    expect(facts).to_contain_text("expected on H100")
    before = facts.inner_text()
    page.locator("#masks-gna-window-rows input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    expect(command(page)).to_have_value(re.compile(re.escape("window=[14, 25, 24]")))
    assert facts.inner_text() != before
    field(page, "masks-height").fill("721")
    page.keyboard.press("Tab")
    expect(page.get_by_role("alert")).to_contain_text("got 721; the nearest are 720 and 736")
    field(page, "masks-height").fill("736")
    page.keyboard.press("Tab")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(command(page)).to_have_value(re.compile("--height 736"))
