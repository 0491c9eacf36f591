"""Test the aims of the zoo beside the committed results."""

import pytest

from bench.pages.aims import to_markdown, verdict
from diffusers_ext.zoo import catalogue


@pytest.mark.parametrize(
    "share, low, high, said",
    [
        (0.92, 0.85, 0.96, "yes"),
        (0.90, 0.83, 0.95, "no, below, within the interval"),
        (0.79, 0.70, 0.86, "no, below"),
    ],
)
def test_a_share_is_met_missed_or_missed_within_its_interval(share, low, high, said):
    assert verdict({"accuracy": share, "low": low, "high": high}, 0.92, 1.0) == said


def test_a_share_may_be_too_high():
    assert verdict({"accuracy": 0.97, "low": 0.9, "high": 0.99}, 0.45, 0.85) == "no, above"


def test_every_model_has_its_aims():
    text = to_markdown()
    for name in (*catalogue.MODELS, *catalogue.REWARDS):
        rows = [row for row in text.splitlines() if f"| {name}, " in row]
        assert len(rows) == (1 if name in catalogue.REWARDS else 2 if name == "shapes-sd-turbo" else 4), name
    assert text.count("judge 99 % exact") == 2
