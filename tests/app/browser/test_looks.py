"""Every tab with its results in four looks: it fits, its text can be read, and all it has is named."""

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

SHOTS = Path(os.environ.get("SCREENSHOTS", "out/screenshots"))  # kept by CI

# Returns each text that is too pale: what it says, and its contrast. WCAG 2 asks for 4.5 at least.
PALE = """() => {
  const rgb = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1]; };
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor);
    if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n = walk.nextNode(); n; n = walk.nextNode()) {
    const e = n.parentElement, text = n.textContent.trim(), style = getComputedStyle(e);
    if (!/[\\p{L}\\p{N}]/u.test(text)) continue;
    if (!e.checkVisibility() || e.getBoundingClientRect().width < 2) continue;
    if (e.closest('button:disabled, footer, script, style')) continue;
    const a = light(rgb(style.color)), b = light(behind(e));
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push(`${text.slice(0, 40)}: ${contrast.toFixed(1)}`);
  }
  return [...new Set(found)];
}"""
# Returns the controls and the pictures of which a screen reader could not say what they are.
UNNAMED = """() => [...document.querySelectorAll('input, textarea, button, select, img')]
  .filter((e) => e.checkVisibility() && e.type !== 'hidden' && !e.closest('footer'))
  .filter((e) => !(e.labels?.length || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby')
    || e.textContent.trim() || e.querySelector('img[alt]:not([alt=""])')
    || e.alt || e.title || e.placeholder))
  .map((e) => e.outerHTML.slice(0, 120))"""
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def choose(page, place, value):
    """Choose an entry of a list."""
    page.locator(f"#{place} input").fill(value)
    page.get_by_role("option", name=value, exact=True).click()


def opened(look, tab, section=None):
    page, _ = look
    page.get_by_role("tab", name=tab, exact=True).click()
    if section is not None:
        page.get_by_role("tab", name=section, exact=True).click()
    return page


def looks_right(look, name):
    """Keep a picture of the page, and check it."""
    page, where = look
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.mouse.move(0, 0)
    page.wait_for_timeout(300)  # for what fades in
    page.screenshot(path=SHOTS / f"{name}-{where}.png", full_page=True)
    assert page.evaluate(PALE) == []
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate(WIDER) <= 0


def test_compare(look):
    page = opened(look, "Compare")
    choose(page, "model", "shapes-sd-turbo")
    page.locator("#generate").click()
    expect(page.locator("#status")).to_contain_text("done in")
    expect(page.locator("#verdict table")).to_be_visible()
    looks_right(look, "compare")


@pytest.mark.parametrize("section", ["Words", "Heads"])
def test_maps_and_heads(section, look):
    page = opened(look, "Explore", section)
    place = {"Words": "maps", "Heads": "heads"}[section]
    progress = page.locator(f"#{place}-status textarea, #{place}-status input").first
    if section == "Heads":
        expect(progress).to_have_value(re.compile("ready|done"))
    page.locator(f"#{place}-steps :is(textarea, input)").fill("2")
    page.locator(f"#{place}-go").click()
    expect(progress).to_have_value("done")
    looks_right(look, f"explore-{section.lower()}")


def test_masks(look):
    page = opened(look, "Explore", "Sparse masks")
    expect(page.locator("#masks-picture img")).to_be_visible()
    expect(page.locator("#masks-facts")).to_contain_text("expected on")
    looks_right(look, "explore-masks")


def test_search(look):
    page = opened(look, "Search")
    choose(page, "search-model", "shapes-sd-turbo")
    page.locator("#search-budget input[type=number]").fill("20")
    page.locator("#search-budget input[type=number]").press("Tab")
    page.locator("#search-go").click()
    expect(page.locator("#search-state")).to_contain_text("Done: ")
    expect(page.locator("#search-best img")).to_be_visible()
    looks_right(look, "search")


def test_batch(look):
    page = opened(look, "Batch")
    choose(page, "batch-model", "shapes-sd-turbo")
    page.locator("#batch-start").click()
    expect(page.locator("#batch-state")).to_contain_text("8 of 8 pictures are finished")
    page.locator("#batch-show").click()
    frame = page.frame_locator("iframe[title='Report of the batch']")
    expect(frame.locator("img")).to_have_count(8)
    looks_right(look, "batch")
