"""Model cards show the committed results; `python -m bench.pages` writes them."""

import json

import pytest

from bench.ledger import committed
from bench.pages import cards
from diffusers_ext.evaluate.committed import result_files
from diffusers_ext.models.fingerprint import fingerprint
from diffusers_ext.zoo import catalogue
from diffusers_ext.zoo.cards import CARD

NAMES = (*catalogue.MODELS, *catalogue.REWARDS, *catalogue.NOISES)


@pytest.mark.parametrize("name", NAMES)
def test_cards_are_current(name):
    home = catalogue.path(name)
    assert cards.card(name) == json.loads((home / CARD).read_text()), "run python -m bench.pages"
    assert cards.page(name) == (home / "README.md").read_text(), "run python -m bench.pages"


def test_how_a_model_learned_is_on_its_card():
    for name, facts in cards.LEARNED.items():
        assert all(f"- {fact}\n" in cards.page(name) for fact in facts)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_names_data_steps_time_hardware_and_results(name):
    facts = json.loads((catalogue.path(name) / CARD).read_text())
    assert all(facts[key] for key in ("data", "steps", "samples", "hours", "hardware", "config", "sha256"))
    held_out = facts["results"]["held-out"]
    assert held_out["n"] >= 100
    shares = held_out.get("tasks") or held_out["preferred"]["picture, drawn"]
    assert all(e["low"] <= e["accuracy"] <= e["high"] for e in shares.values())
    page = (catalogue.path(name) / "README.md").read_text()
    assert page.startswith("---\nlicense: apache-2.0\n")
    for entry in shares.values():
        assert f"{100 * entry['accuracy']:.0f} % ({100 * entry['low']:.0f} to" in page


def test_results_are_those_of_the_weights_on_the_card():
    """A card whose weights were replaced without measuring again is noticed."""
    assert result_files(), "no result file is beside the weights"
    for file in result_files():
        assert json.loads(file.read_text())["weights"] == fingerprint(file.parents[1]), file
    measured = committed(cards.REWARD)
    assert measured["weights"] == fingerprint(catalogue.path(measured["reward"]))
    for suite in ("tuning", "held-out"):
        weights = committed(f"{cards.NOISE}-{suite}")["weights"]
        assert weights["npnet"] == fingerprint(catalogue.path("shapes-sd-npnet"))
        assert weights["shapes-sd"] == fingerprint(catalogue.path("shapes-sd"))
