"""Run functions and commands in processes that fork off one which has only imported what they need.

A start then costs a fraction of a second, where a new interpreter imports for six.
"""

import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

FORKS = get_context("forkserver")
# One server serves all files of tests, with what its first one asked for.
FORKS.set_forkserver_preload(["tests.parallel.cases", "tests.tiny_models.sd3", "tests.tiny_models.unet"])


class Forked:
    """A process that runs `target(*args)`, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, target: Callable[..., Any], *args: Any, **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forked-")
        self._files = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        # The server has the environment of the test that began it.
        work = (self._files, dict(os.environ) | environment, target, args)
        self._process = FORKS.Process(target=_run, args=work, daemon=True)
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the signal if one ended it; `None` while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def communicate(self) -> tuple[str, str]:
        """Wait for its end; returns what it wrote to stdout and to stderr."""
        self._process.join()
        return self.said

    @property
    def said(self) -> tuple[str, str]:
        """What it has written so far, to stdout and to stderr."""
        out, err = (path.read_text() if path.exists() else "" for path in self._files)
        return out, err

    def __repr__(self) -> str:
        return f"<exit code {self.returncode}, output {self.said}>"


def command(*words: object, **environment: str) -> Forked:
    """Begin a command of `diffusers-ext`."""
    return Forked(_command, [str(word) for word in words], **environment)


def wait_for(check: Callable[[], bool], *processes: Any) -> None:
    """Wait until `check` holds, while a process runs, for 300 s at most."""
    deadline = time.monotonic() + 300
    while not check():
        assert time.monotonic() < deadline
        assert any(process.poll() is None for process in processes), processes
        time.sleep(0.02)


def _run(files: list[Path], environment: dict[str, str], target: Callable[..., Any], args: Any) -> None:
    for number, path in enumerate(files, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    target(*args)


def _command(words: list[str]) -> None:
    from diffusers_ext.cli import main

    main(words)
