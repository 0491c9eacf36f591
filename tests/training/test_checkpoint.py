import os

import pytest
import torch

from diffusers_ext.training.checkpoint import generator, load_checkpoint, save_atomically


def test_a_failed_save_leaves_the_old_checkpoint_and_nothing_else(tmp_path):
    path = tmp_path / "run" / "checkpoint.pt"
    save_atomically({"step": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        save_atomically({"step": 2, "bad": lambda: None}, path)
    assert load_checkpoint(path) == {"step": 1} and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, share):
    path = tmp_path / "checkpoint.pt"
    save_atomically({"weights": torch.zeros(1000)}, path)
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(ValueError, match=r"checkpoint\.pt' cannot be read .*begin anew with --restart"):
        load_checkpoint(path)


def test_numbers_of_a_step_depend_on_seed_and_step_only():
    draw = lambda *key: torch.randn(4, generator=generator(*key)).tolist()  # noqa: E731
    assert draw(0, 5) == draw(0, 5)
    assert len({tuple(draw(s, t)) for s in range(3) for t in range(3)}) == 9
