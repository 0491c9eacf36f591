"""What CI does about a browser, on machines that are folders of commands."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHROMIUM = "#!/bin/bash\necho Chromium 1\n"
REFUSES = "#!/bin/bash\necho 'E: Unable to locate package chromium' >&2; exit 100\n"
INSTALLS = """#!/bin/bash
case "$*" in *install*) echo 'echo Chromium 1' > $PATH/chromium; chmod +x $PATH/chromium ;; esac
"""
MAKE = '#!/bin/bash\necho "made $*"; [[ "$*" != $FAILS ]]\n'
NONE = "the tests in a browser were not run: "


@pytest.fixture
def machine(tmp_path):
    """Runs CI where `make` says what it is asked for, and where there are some other commands."""

    def run(fails="", root=True, **commands):
        texts = {"make": MAKE, "id": f"#!/bin/bash\necho {0 if root else 1000}\n"} | commands
        for name, text in texts.items():
            (tmp_path / name.replace("_", "-")).write_text(text)
            (tmp_path / name.replace("_", "-")).chmod(0o755)
        for name in ("bash", "chmod", "dirname", "grep", "timeout"):
            (tmp_path / name).symlink_to(shutil.which(name))
        env = {"PATH": str(tmp_path), "FAILS": fails}
        return subprocess.run([ROOT / ".ci" / "run"], env=env, capture_output=True, text=True, timeout=60)

    return run


def test_the_page_is_tested_where_there_is_a_browser(machine):
    found = machine(chromium=CHROMIUM)
    assert found.returncode == 0 and found.stdout.split("\n")[:3] == [
        "made lint",
        "made test",
        "made test-browser",
    ]


def test_root_of_a_debian_system_gets_a_browser(machine):
    found = machine(apt_get=INSTALLS)
    assert found.returncode == 0 and found.stdout.endswith("made test-browser\n")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({}, "there is no chromium, and no apt-get to install it"),
        ({"apt_get": INSTALLS, "root": False}, "there is no chromium, and only root can install it"),
        ({"apt_get": REFUSES}, "chromium could not be installed (E: Unable to locate package chromium)"),
        ({"apt_get": "#!/bin/bash\n"}, "the chromium that apt-get installed does not start"),
    ],
)
def test_a_machine_without_a_browser_passes_and_says_why(machine, more, why):
    found = machine(**more)
    assert (found.returncode, found.stdout) == (0, f"made lint\nmade test\n{NONE}{why}\n")


def test_what_fails_once_in_a_browser_runs_again(machine):
    found = machine(chromium=CHROMIUM, fails="test-browser")
    assert found.returncode == 0
    assert found.stdout.endswith("made test-browser\nmade test-browser AGAIN=--last-failed\n")


@pytest.mark.parametrize("target", ["lint", "test", "test-browser*"])
def test_what_fails_is_red(machine, target):
    assert machine(chromium=CHROMIUM, fails=target).returncode != 0
