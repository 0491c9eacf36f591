"""What README shows is run: its first Python block on a tiny pipeline of the same class, the others as they
stand, and so are the commands.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import diffusers_ext

from .tiny_models import flux

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
FIRST, *PYTHON = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [line for _, text in BLOCKS for line in text.splitlines() if line.startswith("diffusers-ext ")]


def test_the_first_python_block_runs(tmp_path, capsys):
    """Only the checkpoint and the device are exchanged: FLUX.1 itself cannot be loaded here."""
    folder = tmp_path / "flux"
    tiny = flux.pipeline(num_layers=13, num_attention_heads=18, guidance_embeds=True)
    tiny.save_pretrained(folder)
    code = FIRST.replace("black-forest-labs/FLUX.1-dev", str(folder)).replace('"cuda"', '"cpu"')
    code = code.replace(
        '"a lighthouse at dusk",', '"a lighthouse", num_inference_steps=2, height=32, width=32,'
    )
    assert str(folder) in code and "height=32" in code
    scope = {}
    exec(code, scope)
    assert scope["image"].size == (32, 32)
    assert "2 extra passes" in capsys.readouterr().out
    assert (
        type(scope["pipe"].transformer.transformer_blocks[12].attn.processor).__name__ == "FluxAttnProcessor"
    )


def test_the_other_python_blocks_run_as_they_stand():
    scope = {"dx": diffusers_ext}
    for code in PYTHON:
        exec(code, scope)
    assert scope["images"].shape == (4, 3, 64, 64)
    assert scope["scores"].shape == (4,) and scope["scores"].abs().max() <= 1


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_as_shown(command, tmp_path):
    script = Path(sys.executable).parent / "diffusers-ext"
    words = [str(script), *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "--out" in words:
        out = tmp_path / words[words.index("--out") + 1]
        records = out.rglob("*.json") if out.is_dir() else out.parent.glob(f"{out.stem}*.json")
        assert out.exists() and list(records), "the command left no record"


def test_make_targets_exist():
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make (\w[\w-]*)", README)) <= targets
