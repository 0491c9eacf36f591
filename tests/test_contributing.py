"""The code of CONTRIBUTING.md runs as it stands, and the places that it names exist."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from typer import Typer
from typer.testing import CliRunner

import diffusers_ext as dx
from diffusers_ext import rewards
from diffusers_ext.commands.names import Command
from diffusers_ext.families import FAMILIES, family_of
from diffusers_ext.settings.methods import method_class
from diffusers_ext.settings.registry import METHODS

from .families.parity import assert_parity
from .hosts import every_host
from .tiny_models.parts import noise, seeded

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def skeleton(heading, monkeypatch):
    """The module that the code below a heading makes, as if it were a file of the package."""
    (code,) = re.findall(rf"^## {heading}\n.*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    module = ModuleType(f"diffusers_ext.skeletons.{heading.rpartition(' ')[2]}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code, vars(module))
    return module


@every_host
def test_the_method_runs_on_every_family(host, monkeypatch):
    method = skeleton("A new method", monkeypatch).Temperature
    pipe = host.build()
    plain = host.run(pipe)
    with dx.apply(pipe, method()):
        assert torch.equal(host.run(pipe), plain)
    with dx.apply(pipe, method(4.0)):
        assert not torch.equal(host.run(pipe), plain)
    assert torch.equal(host.run(pipe), plain)


def test_the_line_of_a_method_is_enough_for_the_command_line(monkeypatch, cli):
    module = skeleton("A new method", monkeypatch)
    monkeypatch.setitem(METHODS, "temperature", f"{module.__name__}:Temperature")
    assert method_class("temperature") is module.Temperature
    code, out, _ = cli("methods", "temperature")
    assert code == 0 and "above 1 is flatter [factor, from 0.1 to 9]" in out


def test_methods_are_public_by_their_line():
    for place in METHODS.values():
        assert getattr(dx, place.rpartition(":")[2]).__module__ == place.partition(":")[0]


@pytest.fixture
def pixart(monkeypatch):
    """A tiny PixArt, whose family is that of the page."""
    module = skeleton("A new family", monkeypatch)
    monkeypatch.setitem(FAMILIES, "PixArtTransformer2DModel", f"{module.__name__}:FAMILY")
    config = dict(num_attention_heads=4, attention_head_dim=8, num_layers=2, sample_size=16)
    config |= dict(caption_channels=32, cross_attention_dim=32, use_additional_conditions=False)
    return seeded(lambda: PixArtTransformer2DModel(**config), 0)


@pytest.fixture
def pixart_call():
    draw = noise(0)
    return {
        "hidden_states": draw(2, 4, 10, 12),
        "encoder_hidden_states": draw(2, 7, 32),
        "timestep": torch.tensor([500, 500]),
        "return_dict": False,
    }


def test_the_family_gives_the_stock_bits(pixart, pixart_call):
    assert_parity(pixart, family_of(pixart), pixart_call)


@torch.no_grad()
def test_methods_run_on_the_family(pixart, pixart_call):
    plain = pixart(**pixart_call)[0]
    with dx.apply(pixart, dx.GNA((3, 3), dense_steps=0, backend="reference")) as session:
        assert not torch.equal(pixart(**pixart_call)[0], plain)
        assert len(session.report().sites) == 2
    assert torch.equal(pixart(**pixart_call)[0], plain)


def test_the_sampler_drops_half(monkeypatch):
    """The pipeline is one of the package, the reward that of the page."""
    reward = skeleton("A new reward", monkeypatch).Redness()
    sampler = skeleton("A new sampler", monkeypatch).Halving(rewards=reward, n=4, at=0)
    asked = dict(num_inference_steps=3, progress=False, generator=torch.Generator().manual_seed(0))
    found = sampler.sample(dx.load("shapes-sd3"), "a blue circle", **asked)
    assert [c.evaluations for c in found.history if c.dropped == 0] == [2, 2]
    assert found.scores[0] == max(c.score for c in found.history if c.dropped is None)
    assert found.nfe == 2 * 2 + 2 * 6


def test_the_command_runs(monkeypatch):
    app = Typer()
    app.command(cls=Command)(skeleton("A new command", monkeypatch).count)
    done = CliRunner().invoke(app, ["clear", "gna"])
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.output.splitlines()] == ["clear", "gna"]


def test_rewards_are_public_by_their_name():
    assert all(hasattr(dx.rewards, name) for name in rewards.__all__)


def test_places_exist():
    code = set(re.findall(r"`([\w/.]+(?:/|\.py|\.toml|\.md)|tests/[\w/]+)`", PAGE))
    named = {path for path in code if "/" in path or path.endswith((".py", ".md"))}
    assert len(named) > 20
    for path in named - {"summary.md", "card.json", ".whl/", "results/"}:
        assert (ROOT / path).exists() or (ROOT / "diffusers_ext" / path).exists(), path


def test_make_targets_exist():
    rules = re.findall(r"^(\w[\w -]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}
    assert set(re.findall(r"`make (\w[\w-]*)`", PAGE)) <= targets
