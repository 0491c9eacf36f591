"""Share fixtures with the tests of benches that draw."""

import json
import shutil

import pytest

from diffusers_ext.zoo.cards import CARD


@pytest.fixture
def carded_model(saved_model, tmp_path):
    """Return the folder of the tiny SD3 pipeline with a card that asks for one step without guidance."""
    folder = tmp_path / "model"
    shutil.copytree(saved_model, folder)
    (folder / CARD).write_text(json.dumps({"call": {"num_inference_steps": 1, "guidance_scale": 0.0}}))
    return str(folder)
