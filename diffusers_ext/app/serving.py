"""Start a server: where it listens, who may come, how many wait, and what may be fetched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .engine import Engine
from .folder import Folder
from .models import FIRST, Models
from .server import Server

LARGEST = "20mb"  # of an upload
LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(
    out: str | Path = "out/app",
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    auth: tuple[str, str] | None = None,
    share: bool = False,
    mcp: bool = False,
    models: tuple[str, ...] = (),
    hub: bool = False,
    devices: tuple[str | None, ...] = (None,),
    dtype: str | None = None,
) -> Any:
    """Start the page in threads of its own, and return it; `page.close()` ends it.

    Raises `ValueError` for a public address without `auth` and for `auth` beside `mcp`, and `OSError` for a
    port that is in use.
    """
    if (share or host not in LOCAL) and auth is None:
        raise ValueError("a page that others can reach needs a name and password; add --auth NAME:PASSWORD")
    if mcp and auth is not None:
        raise ValueError("agents give no password, so --mcp and --auth exclude each other; leave one out")
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"--port must lie between 1 and 65535, got {port}; 7860 is usual")
    folder = Folder.of(out)
    os.environ["GRADIO_TEMP_DIR"] = str(folder.cache)  # read when gradio is imported
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from .look import CSS, SCRIPT, THEME
    from .page import build

    server = Server(Engine(Models(models, hub), devices, dtype), folder)
    page = build(server)
    server.engine.warm(FIRST)
    server.batches.resume()
    page.queue(max_size=4 * server.admitted, default_concurrency_limit=4)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            auth=auth,
            share=share,
            mcp_server=mcp,
            max_file_size=LARGEST,
            allowed_paths=[],
            max_threads=2 * server.admitted + 20,
            show_error=True,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=["api"],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            theme=THEME,
            css=CSS,
            js=SCRIPT,
        )
    except OSError as error:
        where = f"port {port} of {host}" if port else host
        raise OSError(
            f"the page cannot listen on {where}, which may be in use; choose another --port"
        ) from error
    return page
