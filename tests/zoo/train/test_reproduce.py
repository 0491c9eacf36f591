"""The committed runs begin again as their logs say."""

import pytest
import torch

from diffusers_ext import zoo
from diffusers_ext.zoo.train import _compiler
from diffusers_ext.zoo.train.export import hardware
from diffusers_ext.zoo.train.fit import FULL_LOG
from diffusers_ext.zoo.train.sd import SDObjective
from diffusers_ext.zoo.train.sd3 import SD3Objective
from tests.zoo.train.reproduce import card_of, losses_of, rerun

SHIPPED = [o for o in (SDObjective, SD3Objective) if (zoo.WEIGHTS / o.name / zoo.CARD).is_file()]
SAME_MACHINE, OTHER_MACHINE = 1e-3, 5e-2  # relative; matrix units round elsewhere, and steps pile that up


@pytest.mark.slow
@pytest.mark.parametrize("objective_class", SHIPPED, ids=lambda o: o.name)
def test_two_hundred_steps_from_the_seed_give_the_logged_losses(objective_class, tmp_path):
    model = zoo.WEIGHTS / objective_class.name
    card = card_of(model)
    if history := card.get("history"):
        pytest.skip(f"{objective_class.name} was not trained by one recipe from start to end: {history[0]}")
    _, _, threads = card["hardware"].rpartition(", ")
    before = torch.get_num_threads()
    torch.set_num_threads(int(threads.split()[0]) if "thread" in threads else before)
    try:
        tolerance = SAME_MACHINE if hardware() == card["hardware"] else OTHER_MACHINE
        losses = rerun(model, objective_class, FULL_LOG, tmp_path, compile=_compiler())
    finally:
        torch.set_num_threads(before)
    logged = losses_of(model / "training_log.jsonl", FULL_LOG)
    torch.testing.assert_close(losses, logged, rtol=tolerance, atol=0)
