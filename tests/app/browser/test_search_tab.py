"""The tab Search in a browser: the curve, the candidates, the best picture, a cancel, and the files."""

import json

from playwright.sync_api import expect

from diffusers_ext.outputs.record import sources


def choose(tab, place, value):
    tab.locator(f"#{place} input").fill(value)
    tab.get_by_role("option", name=value, exact=True).click()


def opened(tab, model="shapes-sd-turbo", budget=10):
    tab.get_by_role("tab", name="Search").click()
    choose(tab, "search-model", model)
    tab.locator("#search-budget input[type=number]").fill(str(budget))
    tab.locator("#search-budget input[type=number]").press("Tab")
    return tab.locator("#search-state")


def test_the_best_picture_its_curve_and_its_candidates_are_shown_and_fetched(tab, tmp_path):
    state = opened(tab)
    tab.locator("#search-prompt textarea").press("Control+Enter")
    expect(state).to_contain_text("Done: ")
    expect(state).to_contain_text("best-of-n by shapes-clip: 10 candidates, 10 evaluations")
    expect(tab.locator("#search-curve path.curve")).to_have_count(1)
    expect(tab.locator("#search-curve circle.dot")).to_have_count(10)
    expect(tab.locator("#search-lanes li")).to_have_count(10)
    expect(tab.locator("#search-lanes div.best")).to_have_count(1)
    expect(tab.locator("#search-best img")).to_be_visible()
    for name in ("picture", "candidates", "data"):
        with tab.expect_download() as found:
            tab.locator(f"#search-{name}").click()
        found.value.save_as(tmp_path / found.value.suggested_filename)
    (picture,) = tmp_path.glob("a-red-circle*.png")
    record = sources(picture)[0]
    assert record["methods"][-1]["name"] == "best-of-n" and record["model"] == "shapes-sd-turbo"
    data = json.loads((tmp_path / "search.json").read_text())
    assert data["evaluations"] == 10 and (tmp_path / "candidates.png").stat().st_size > 5000


def test_a_cancel_keeps_the_best_picture_and_the_next_search_is_clean(tab):
    state = opened(tab, "shapes-sd", 1000)
    tab.locator("#search-go").click()
    expect(tab.locator("#search-curve svg")).to_be_visible()
    tab.locator("#search-cancel").click()
    expect(state).to_contain_text("Cancelled; the best finished picture is kept")
    expect(tab.locator("#search-best img")).to_be_visible()
    opened(tab)
    tab.locator("#search-go").click()
    expect(state).to_contain_text("10 candidates, 10 evaluations")


def test_a_sampler_brings_its_settings_and_shows_what_it_dropped(tab):
    state = opened(tab, "shapes-sd", 60)
    choose(tab, "search-sampler", "ttsnap")
    expect(tab.locator("#search-about")).to_contain_text("candidates and keeps a part of them")
    tab.get_by_role("button", name="Settings of ttsnap").click()
    expect(tab.locator("#search-ttsnap-combine")).to_be_visible()
    tab.locator("#search-go").click()
    expect(state).to_contain_text("dropped on the way")
    expect(tab.locator("#search-lanes")).to_contain_text("dropped after step")


def test_a_refusal_is_one_sentence_and_the_page_goes_on(tab):
    state = opened(tab)
    tab.locator("#search-prompt textarea").fill("")
    tab.locator("#search-go").click()
    expect(state).to_contain_text("write a prompt")
    tab.locator("#search-prompt textarea").fill("a <img src=x onerror=alert(1)> circle")
    tab.locator("#search-go").click()
    expect(state).to_contain_text("Done: ")
    assert tab.locator("#search-state img").count() == 0
