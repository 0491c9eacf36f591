"""The code of docs/your-pipeline.md runs as it stands. Its tables have all public names and real messages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import diffusers_ext as dx

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "your-pipeline.md").read_text()


def test_the_python_of_the_page(capsys):
    first, settings, larger = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    scope = {}
    exec(first, scope)
    assert scope["image"].size == (64, 64) and "softpag ran in 1 of 7" in capsys.readouterr().out
    exec(settings, scope)
    assert scope["guidance"] == dx.SoftPAG(scale=2.0)
    exec(larger, scope)
    assert [stage[0].size for stage in scope["made"].stages] == [(64, 64), (128, 128)]


def test_every_public_name_has_a_purpose():
    table = PAGE.partition("## Every public name")[2]
    named = [name for row in table.splitlines() for name in re.findall(r"`dx\.(\w+)`", row.split(" | ")[0])]
    assert sorted(named) == sorted(dx.__all__)


def test_the_messages_are_those_of_the_package():
    table = PAGE.partition("| message |")[2].partition("\n\n")[0]
    messages = re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)
    code = " ".join((ROOT / "diffusers_ext" / f).read_text() for f in SOURCES)
    text = re.sub(r'"\s*\n\s*f?"', "", code)  # texts that go on in the next line
    parts = [part.strip() for message in messages for part in message.split("...") if part.strip()]
    assert len(messages) == 7 and not [part for part in parts if part not in text]


SOURCES = (
    "session/checks.py",
    "session/cfg.py",
    "session/hook.py",
    "session/session.py",
    "models/presets.py",
    "processors/sparse/core.py",
)


@pytest.mark.parametrize(("typed", "meant"), [("SoftPag", "SoftPAG"), ("preset_", "preset")])
def test_python_names_the_nearest_public_name(typed, meant):
    code = f"import diffusers_ext as dx; dx.{typed}"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stderr
    assert said.endswith(
        f"AttributeError: module 'diffusers_ext' has no attribute '{typed}'. Did you mean: '{meant}'?\n"
    )
