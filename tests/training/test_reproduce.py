"""Test that the committed runs begin again as their logs say."""

import pytest
import torch

from diffusers_ext.training.fit import FULL_LOG
from diffusers_ext.training.machine import compiles, hardware
from diffusers_ext.training.objectives.sd import SDObjective
from diffusers_ext.training.objectives.sd3 import SD3Objective
from diffusers_ext.zoo import cards, catalogue
from tests.training.reproduce import losses_of, rerun

IMAGE = [o for o in (SDObjective, SD3Objective) if (catalogue.WEIGHTS / o.name / cards.CARD).is_file()]
# A run whose plan was changed on the way says so on its card; the plan on the card is then not the first one.
ONE_PLAN = [o for o in IMAGE if not cards.card(catalogue.WEIGHTS / o.name).get("history")]
# Relative. The committed run saw its autoencoder in fp32; the shipped one is rounded to fp16, which changes
# losses by 3e-4 at first (with the fp32 one all are equal to the last bit), and steps pile that up.
SAME_MACHINE, OTHER_MACHINE = 1e-3, 1e-2  # of the first losses: matrix units round otherwise elsewhere
FIRST, WINDOW, CURVE = 20, 20, 3e-2  # later, means over this number of steps are compared


def test_at_least_one_model_was_trained_by_one_plan():
    assert SDObjective in ONE_PLAN


@pytest.mark.slow
@pytest.mark.parametrize("objective_class", ONE_PLAN, ids=lambda o: o.name)
def test_two_hundred_steps_from_the_seed_give_the_logged_losses(objective_class, tmp_path):
    model = catalogue.WEIGHTS / objective_class.name
    card = cards.card(model)
    _, _, threads = card["hardware"].rpartition(", ")
    before = torch.get_num_threads()
    torch.set_num_threads(int(threads.split()[0]) if "thread" in threads else before)
    try:
        tolerance = SAME_MACHINE if hardware() == card["hardware"] else OTHER_MACHINE
        losses = rerun(model, objective_class, FULL_LOG, tmp_path, compile=compiles())
    finally:
        torch.set_num_threads(before)
    logged = losses_of(model / "training_log.jsonl", FULL_LOG)
    torch.testing.assert_close(losses[:FIRST], logged[:FIRST], rtol=tolerance, atol=0)
    curves = [x.unflatten(0, (-1, WINDOW)).mean(1) for x in (losses, logged)]
    torch.testing.assert_close(*curves, rtol=CURVE, atol=0)
