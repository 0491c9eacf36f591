"""Drive Debian's chromium against a page that runs in this process."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..pages import served

BROWSER = shutil.which(os.environ.get("CHROMIUM", "chromium"))
WAIT_MS = 120_000  # a machine that does much else is slow, and is no fault of the page
SIZES = {"wide": (1280, 900), "narrow": (400, 800)}
THEMES = ("light", "dark")


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def url(tmp_path_factory):
    with served(tmp_path_factory.mktemp("page")) as address:
        yield address


@pytest.fixture(scope="session")
def chromium():
    if BROWSER is None:
        pytest.fail("there is no chromium on the path; run make browser, or name one in CHROMIUM")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as tool:
        # Root has no sandbox, and the shared memory of a container is small.
        browser = tool.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"], timeout=WAIT_MS
        )
        yield browser
        browser.close()


@contextmanager
def visitor(chromium, url, size="wide", theme="light"):
    """The page as somebody sees it who was never here; errors of its scripts fail the test."""
    width, height = SIZES[size]
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
    context.set_default_timeout(WAIT_MS)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(url)
    page.wait_for_selector("#generate")
    yield page
    context.close()
    assert not wrong, wrong


@pytest.fixture
def tab(chromium, url):
    """The page of one test."""
    with visitor(chromium, url) as page:
        yield page


@pytest.fixture(scope="module", params=[(size, theme) for size in SIZES for theme in THEMES], ids="-".join)
def look(request, chromium, url):
    """The page in a size and a theme, for all tests of a file, and the name of both."""
    size, theme = request.param
    with visitor(chromium, f"{url}/?__theme={theme}", size, theme) as page:
        yield page, f"{size}-{theme}"
