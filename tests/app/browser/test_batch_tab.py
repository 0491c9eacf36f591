"""The tab Batch in a browser: files in, the table, stop and go on, zip and report, links, and a restart."""

import re
import zipfile

from playwright.sync_api import expect

from diffusers_ext.outputs.record import sources

from ..pages import served

JOB = '[model]\nname = "shapes-sd-turbo"\n[prompts]\nfile = "p.txt"\nseeds = "0-1"\n'
# It is seen while it runs, on a fast machine and on one where the page is slow.
SLOW = '[call]\nnum_inference_steps = 20\n[prompts]\nfile = "p.txt"\nseeds = "0-{last}"\n'


def opened(page):
    page.get_by_role("tab", name="Batch").click()
    return page.locator("#batch-state")


def uploaded(page, folder, job=JOB, prompts="a red circle\n<b>blue</b> square\n"):
    (folder / "job.toml").write_text(job)
    (folder / "p.txt").write_text(prompts)
    page.locator("#batch-files input[type=file]").set_input_files([folder / "job.toml", folder / "p.txt"])
    expect(page.locator("#batch-files").get_by_text(".txt")).to_be_visible()
    expect(page.locator("#batch-prompts textarea")).to_have_value("")
    page.locator("#batch-start").click()


def test_a_job_file_becomes_a_table_a_zip_and_a_report(tab, tmp_path):
    state = opened(tab)
    uploaded(tab, tmp_path)
    expect(state).to_contain_text("4 of 4 pictures are finished")
    rows = tab.locator("#batch-table tbody tr")
    expect(rows).to_have_count(4)
    expect(rows.nth(2)).to_contain_text("<b>blue</b> square")
    tab.locator("#batch-pack").click()
    expect(tab.locator("#batch-zip")).to_be_visible()
    with tab.expect_download() as found:
        tab.locator("#batch-zip").click()
    with zipfile.ZipFile(found.value.path()) as archived:
        pictures = [name for name in archived.namelist() if name.endswith(".png")]
        archived.extractall(tmp_path / "zip")
    assert len(pictures) == 4 and "index.html" in archived.namelist()
    assert all(sources(tmp_path / "zip" / name)[0]["model"] == "shapes-sd-turbo" for name in pictures)
    tab.locator("#batch-show").click()
    frame = tab.frame_locator("iframe[title='Report of the batch']")
    expect(frame.locator("img")).to_have_count(4)
    assert frame.locator("img").first.evaluate("image => image.naturalWidth") == 64
    assert frame.locator("b").count() == 0


def test_a_batch_stops_goes_on_is_found_by_link_and_in_the_list_and_is_deleted(tab, tmp_path):
    state = opened(tab)
    uploaded(tab, tmp_path, SLOW.format(last=99), "a red circle\n")
    expect(state).to_contain_text(re.compile(r"\b[1-9]\d? of 100 "))
    tab.locator("#batch-stop").click()
    expect(state).to_contain_text("stopped; it goes on where it ended")
    stopped = state.inner_text().partition(",")[0].strip()
    link = tab.locator("#batch-link :is(textarea, input)").input_value()
    tab.goto(link)
    expect(state).to_contain_text(stopped)
    tab.locator("#batch-go-on").click()
    expect(tab.locator("#batch-stop")).to_be_enabled()
    tab.goto(link.partition("?")[0])
    opened(tab)
    tab.locator("#batch-chosen input").click()
    option = tab.get_by_role("option", name=re.compile("job.toml")).first
    expect(option).to_be_visible()
    option.click()
    expect(state).to_contain_text("of 100 pictures are finished")
    tab.locator("#batch-stop").click()
    expect(tab.locator("#batch-delete")).to_be_enabled()
    tab.locator("#batch-delete").click()
    expect(state).to_contain_text("No batch is open")
    tab.goto(link)
    expect(tab.get_by_text("there is no such batch")).to_be_visible()


def test_a_hostile_job_is_one_sentence_on_the_page(tab, tmp_path):
    opened(tab)
    for job, says in (
        ('[prompts]\nfile = "/etc/passwd"\n', "was not uploaded"),
        ("[prompts\n", "job.toml is not TOML"),
        ('[model]\nname = "/etc"\n[prompts]\nfile = "p.txt"\n', "unknown model '/etc'"),
    ):
        uploaded(tab, tmp_path, job)
        expect(tab.get_by_text(says)).to_be_visible()
        expect(tab.locator("#batch-state")).to_contain_text("No batch is open")
        tab.locator("#batch-files button[aria-label=Clear]").click()


def test_the_next_server_goes_on_with_a_batch(chromium, tmp_path):
    uploads, out = tmp_path / "uploads", tmp_path / "out"
    uploads.mkdir()
    with served(out) as url:
        page = chromium.new_page()
        page.goto(url)
        state = opened(page)
        uploaded(page, uploads, SLOW.format(last=19), "a red circle\n")
        expect(state).to_contain_text(re.compile(r"\b1?[1-9] of 20 "))
        link = page.locator("#batch-link :is(textarea, input)").input_value()
        page.close()
    made = len(list(out.glob("batches/*/pictures/*.png")))
    assert 0 < made < 20
    with served(out) as url:
        page = chromium.new_page()
        page.goto(f"{url}/?{link.partition('?')[2]}")
        state = page.locator("#batch-state")
        expect(state).to_contain_text("20 of 20 pictures are finished")
        page.close()
