"""Test the timing of commands, which are checked by their exit codes."""

import json

import pytest

from bench.timing import commands


def test_a_command_is_timed_and_its_exit_code_checked(tmp_path, monkeypatch):
    wrong = {"no such command": ("nothing", 0, 1), "help": ("--help", 0, 2)}
    monkeypatch.setattr(commands, "COMMANDS", wrong)
    with pytest.raises(SystemExit, match="a check failed"):
        commands.main(["--out", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    rows = {row["command"]: row for row in json.loads(path.read_text())["rows"]}
    assert (rows["no such command"]["code"], rows["no such command"]["ok"]) == (2, False)
    assert rows["help"]["ok"] and rows["help"]["seconds"] > 0
    with pytest.raises(SystemExit, match="no command has 'x' in its name; they are no such command, help"):
        commands.main(["--only", "x"])
