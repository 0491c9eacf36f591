"""Test the page of a job: it is bounded, and what people wrote is text in it."""

import threading
from types import SimpleNamespace

from diffusers_ext.jobs.page import FAILURES, MOST, Page
from diffusers_ext.outputs import claim

WATCH = SimpleNamespace(finished=3, total=9, unit="image")


def line(number, **more):
    facts = {"id": str(number), "status": "done", "prompt": f"prompt {number}", "seed": 0, "point": ""}
    return facts | {"file": f"a b{number}#.png", "size": [64, 64], "seconds": 2.0, "flags": []} | more


def test_text_is_escaped_and_files_are_addresses(tmp_path):
    page = Page("<b>", tmp_path)
    page.add(line(0, prompt="<script>alert(1)</script>"), False)
    page.add(line(1, status="failed", reason="<img src=x>"), False)
    text = page.text(WATCH, False)
    assert "<script>" not in text and "<img src=x>" not in text and "<b></title>" not in text
    assert 'src="a%20b0%23.png"' in text and "http-equiv" in text
    assert "http-equiv" not in page.text(WATCH, True), "a page that is complete is not loaded again"


def test_it_shows_the_newest_counts_all_and_forgets_failures_that_were_made(tmp_path):
    page = Page("job", tmp_path)
    page.add(line(3, status="failed", reason="out of memory"), False)
    for number in range(MOST + 20):
        page.add(line(number, verdict={"correct": number % 2 == 0, "reason": ""}), False)
    page.add(line(7), True)
    text = page.text(WATCH, True)
    assert text.count("<figure") == MOST and f">{MOST + 20}<" in text and "out of memory" not in text
    assert "50 % (" in text and f"The newest {MOST}" in text


def test_it_counts_all_failures_and_keeps_the_last(tmp_path):
    page = Page("job", tmp_path)
    for number in [*range(FAILURES + 20), 0]:
        page.add(line(number, status="failed", reason=f"reason {number}!"), False)
    text = page.text(WATCH, True)
    assert f"Could not be made: {FAILURES + 20}" in text and text.count("reason ") == FAILURES
    assert "reason 0!" in text and "reason 20!" not in text and len(page._reasons) == FAILURES


def test_the_last_version_waits_for_another_process_that_writes_one(tmp_path):
    (tmp_path / "manifest").mkdir()
    lock = tmp_path / "manifest" / ".page"
    other = claim.locked(lock)
    page = Page("job", tmp_path)
    page.grow(WATCH, end=False)
    threading.Timer(0.2, claim.release, (lock, other)).start()
    page.grow(WATCH, end=True)
    assert page.path.is_file() and not lock.exists()
