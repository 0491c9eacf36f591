"""Drive Debian's chromium against a page that runs in this process."""

import os
import shutil
from pathlib import Path

import pytest

from ..pages import served

BROWSER = shutil.which(os.environ.get("CHROMIUM", "chromium"))
SHOTS = Path(os.environ.get("SCREENSHOTS", "out/screenshots"))  # kept by CI
SIZES = {"wide": (1280, 900), "narrow": (400, 800)}
THEMES = ("light", "dark")


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="session")
def url(folder):
    with served(folder) as address:
        yield address


@pytest.fixture(scope="session")
def chromium():
    if BROWSER is None:
        pytest.fail("there is no chromium on the path; install it, or name it in CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium, url):
    """A fresh visitor on the page, whose console errors fail the test."""
    context = chromium.new_context(viewport=dict(zip(("width", "height"), SIZES["wide"], strict=True)))
    page = context.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(url)
    page.wait_for_selector("#generate")
    yield page
    context.close()
    assert not wrong, wrong


@pytest.fixture(params=[(size, theme) for size in SIZES for theme in THEMES], ids="-".join)
def look(request, chromium, url):
    """A function that opens the page in a size and theme, and one that keeps a picture of it."""
    size, theme = request.param
    width, height = SIZES[size]
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
    page = context.new_page()
    page.goto(f"{url}/?__theme={theme}")
    page.wait_for_selector("#generate")

    def keep(name):
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"{name}-{size}-{theme}.png", full_page=True)

    yield page, keep
    context.close()
