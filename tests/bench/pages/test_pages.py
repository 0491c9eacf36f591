"""Test that pages show the figures of committed files and of the code, by `python -m bench.pages`."""

import json
import re

import pytest

from bench.ledger import RESULTS
from bench.pages.pages import ASKS, BLOCKS, ROOT, filled, pages
from diffusers_ext.zoo import catalogue
from diffusers_ext.zoo.world.suites import IMAGE_TASKS


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.name)
def test_pages_are_current(page):
    text = page.read_text()
    assert filled(text) == text, f"{page.name} is out of date; run python -m bench.pages"


def test_every_block_is_used_and_every_marker_known():
    begun = [name for page in pages() for name in re.findall(r"<!-- ([\w-]+):begin -->", page.read_text())]
    assert sorted(begun) == sorted(BLOCKS)


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.name)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text()):
        name, _, place = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not place or place in headings(target.read_text()), link


def headings(text):
    """Return the names by which headings can be linked, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_each_image_task_is_explained():
    assert set(ASKS) == set(IMAGE_TASKS)


def test_a_page_that_is_behind_is_noticed():
    page = ROOT / "docs" / "evaluation.md"
    assert filled(page.read_text().replace("| 5 % |", "| 6 % |")) == filled(page.read_text())


@pytest.mark.parametrize("file", sorted(RESULTS.glob("quality-*.json")), ids=lambda f: f.stem)
def test_quality_was_measured_on_the_shipped_weights_and_call(file):
    found = json.loads(file.read_text())
    shipped = json.loads((catalogue.path(found["model"]) / "results" / "held-out.json").read_text())
    assert (found["weights"], found["call"]) == (shipped["weights"], shipped["call"])


def test_the_step_was_measured_on_the_shipped_weights():
    found = json.loads((RESULTS / "one_step-shapes-sd-turbo.json").read_text())
    for name, weights in found["weights"].items():
        shipped = json.loads((catalogue.path(name) / "results" / "held-out.json").read_text())
        assert weights == shipped["weights"]
