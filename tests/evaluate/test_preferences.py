import json
from pathlib import Path

import pytest
import torch

from diffusers_ext.commands.reward import reward
from diffusers_ext.evaluate.preferences import agreement, preference, round_trip
from diffusers_ext.models.fingerprint import fingerprint
from diffusers_ext.rewards import ShapesCLIP
from diffusers_ext.zoo import cards, catalogue
from diffusers_ext.zoo.models import build_processor, build_reward
from diffusers_ext.zoo.world.mistakes import KINDS


def test_agreement_counts_pairs_of_one_prompt_only():
    """By hand: a has 2 of 2 pairs, b half of one tie, c no wrong picture; scores of prompts never mix."""
    prompts = ["a", "a", "a", "b", "b", "c"]
    correct = [True, False, False, True, False, True]
    found = agreement([0.3, 0.2, 0.1, 0.05, 0.05, 0.0], correct, prompts)
    assert (found["auc"], found["prompts"]) == (0.75, 2)
    assert found["low"] <= 0.75 <= found["high"]


def test_agreement_without_a_pair():
    assert agreement([1.0, 2.0], [True, True], ["a", "a"])["auc"] is None


def test_preference_has_every_kind_and_change():
    def brightness(images, prompts):
        return images.double().mean((1, 2, 3))  # in fp32 close pairs are a matter of rounding

    found = preference(brightness, "tuning", 4, changes={"drawn": None, "negative": lambda x: 1 - x})
    for change in ("drawn", "negative"):
        assert found[change]["picture"].keys() == {*KINDS, "overall"}
        assert found[change]["picture"]["overall"]["n"] == 4 * len(KINDS)
        assert found[change]["caption"]["overall"]["accuracy"] == 0  # captions tie
    both = [found[change]["picture"]["overall"]["accuracy"] for change in ("drawn", "negative")]
    assert sum(both) == pytest.approx(1)  # what is brighter is darker in the negative


def test_the_command_writes_its_figures(saved_model, tmp_path, capsys):
    torch.manual_seed(0)
    home = tmp_path / "reward"
    build_reward().save_pretrained(home)
    build_processor().save_pretrained(home)
    out = tmp_path / "out"
    reward(str(home), "tuning", 2, str(saved_model), prompts=1, samples=2, steps=1, device="cpu", out=out)
    found = json.loads((out / "tuning.json").read_text())
    assert found["weights"] == fingerprint(home)
    assert found["decoded"]["caption"]["colour"]["n"] == 2
    assert found["painted"]["pictures"] == 2 * 6
    assert "picture, drawn" in capsys.readouterr().out


def test_clips_are_refused(saved_clip_model, tmp_path):
    with pytest.raises(ValueError, match="makes clips; leave the reward out, or choose a model of pictures"):
        reward(model=str(saved_clip_model), device="cpu", out=tmp_path)


def test_the_round_trip_is_what_a_saved_picture_shows(pipe):
    with torch.no_grad():
        seen = round_trip(pipe.vae)(torch.rand(2, 3, 64, 64))
    assert seen.shape == (2, 3, 64, 64)
    torch.testing.assert_close(seen * 255, (seen * 255).round(), atol=1e-3, rtol=0)
    assert seen.min() >= 0 and seen.max() <= 1


def test_the_committed_figures_are_those_of_the_shipped_reward():
    file = Path(__file__).parents[2] / "bench" / "results" / "reward-shapes-clip-held-out.json"
    found = json.loads(file.read_text())
    home = catalogue.path("shapes-clip")
    cards.verify_weights(home)
    assert found["weights"] == fingerprint(home)
    again = preference(ShapesCLIP().score, "held-out", 40, 1, {"drawn": None})["drawn"]
    for side in ("picture", "caption"):
        assert again[side]["overall"]["accuracy"] == pytest.approx(
            found["drawn"][side]["overall"]["accuracy"], abs=0.07
        )
        assert again[side]["colour"]["accuracy"] > 0.95
