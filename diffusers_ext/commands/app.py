"""Run `diffusers-ext app`: a page in the browser for comparing, exploring and searching, and for batches."""

from __future__ import annotations

import importlib.util
import signal
import time
from typing import Annotated

import typer

from ..outputs.stop import Interrupted
from . import options as opt


def app(
    models: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="A folder or Hub id to offer beside the models of the package."),
    ] = None,
    hub: Annotated[bool, typer.Option("--hub", help="Let visitors load any model of the Hub.")] = False,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option("--port", help="Port. By default the first free one from 7860.")
    ] = None,
    auth: Annotated[
        str | None,
        typer.Option(
            "--auth",
            metavar="NAME:PASSWORD",
            envvar="DIFFUSERS_EXT_AUTH",
            help="Ask visitors for these. Needed where others can reach the page.",
        ),
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="Also make a public link.")] = False,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="Also serve agents, by the Model Context Protocol.")
    ] = False,
    device: Annotated[
        list[str] | None,
        typer.Option("--device", help="A device, as cuda:0; several times for one worker on each."),
    ] = None,
    dtype: opt.Dtype = None,
    out: opt.Out = "out/app",
) -> None:
    """Open a page in the browser that compares, explores and searches, and runs batches."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError(
            'the page needs gradio, which is not installed; run: pip install "diffusers-ext[app]"'
        )
    from ..app.serving import serve

    pair = None
    if auth is not None:
        name, colon, password = auth.partition(":")
        if not (name and colon and password):
            raise ValueError("--auth takes NAME:PASSWORD, got one without a name or a password")
        pair = name, password
    page = serve(
        out,
        host=host,
        port=port,
        auth=pair,
        share=share,
        mcp=mcp,
        models=tuple(models or ()),
        hub=hub,
        devices=tuple(device or [None]),
        dtype=dtype,
    )
    typer.echo(f"the page is at {page.local_url.rstrip('/')}; Ctrl-C stops it")
    if page.share_url:
        typer.echo(f"others reach it at {page.share_url}")
    if mcp:
        typer.echo(f"agents reach it at {page.local_url.rstrip('/')}/gradio_api/mcp/")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt as stopped:
        raise Interrupted(
            "the page was stopped; its batches go on when it starts again", _number(stopped)
        ) from None
    finally:
        page.close(verbose=False)


def _number(stopped: KeyboardInterrupt) -> int:
    """Return the signal that stopped a command."""
    return stopped.number if isinstance(stopped, Interrupted) else signal.SIGINT
