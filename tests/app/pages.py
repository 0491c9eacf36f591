"""Start pages for tests, and ask them as programs do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from gradio_client import Client

from diffusers_ext.app.serving import serve

if TYPE_CHECKING:
    from diffusers_ext.app.page import Page


@contextmanager
def served(folder: Path, **options: Any) -> Iterator[str]:
    """Serve a page on a free port, and yield its address."""
    with opened(folder, **options) as page:
        yield page.local_url.rstrip("/")


@contextmanager
def opened(folder: Path, **options: Any) -> Iterator[Page]:
    """Serve a page on a free port, and yield it."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    page = serve(folder, **options)
    try:
        yield page
    finally:
        page.close()
        if before is None:
            os.environ.pop("GRADIO_TEMP_DIR", None)
        else:
            os.environ["GRADIO_TEMP_DIR"] = before


def client(url: str, folder: Path) -> Client:
    """Return a program that keeps files in a folder."""
    return Client(url, verbose=False, download_files=str(folder))


def called(url: str, name: str, data: list[Any]) -> tuple[str, Any]:
    """Call an endpoint without a client; return how it ended, `complete` or `error`, and what it gave."""
    with httpx.Client(verify=False, timeout=300) as program:  # no certificates are read, which takes a second
        event = program.post(f"{url}/gradio_api/call/{name}", json={"data": data}).json()["event_id"]
        answer = program.get(f"{url}/gradio_api/call/{name}/{event}").text
    kind, found = answer.strip().split("\n\n")[-1].split("\n", 1)
    return kind.removeprefix("event: "), json.loads(found.removeprefix("data: "))


def wait(until: Callable[[], object]) -> None:
    """Wait until something holds, for 120 s at most."""
    ends = time.monotonic() + 120
    while not until():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.02)
