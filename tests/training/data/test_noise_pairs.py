import numpy as np
import pytest
import torch

from diffusers_ext.outputs.files import write_text
from diffusers_ext.training.data.noise_pairs import NoisePairs


def written(folder, count, rejected=()):
    """A folder of pairs whose better noise is the number of the pair."""
    (folder / "pairs").mkdir(parents=True)
    lines = []
    for i in range(count):
        kept = "false" if i in rejected else "true"
        lines.append(f'{{"index": {i}, "seed": {i + 7}, "caption": "prompt {i}", "kept": {kept}}}\n')
        if i not in rejected:
            noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(i)).half().numpy()
            np.savez(folder / "pairs" / f"{i}_{i + 7}.npz", noise, np.full_like(noise, i), np.array(i))
    write_text(folder / "pairs-0-of-1.jsonl", "".join(lines))
    return folder


def test_each_pair_comes_with_its_own_prompt(tmp_path):
    pairs = NoisePairs(written(tmp_path / "all", 23, rejected={3}))
    batch = pairs.draw(50, torch.Generator().manual_seed(0))
    assert batch.noise.shape == batch.golden.shape == (50, 4, 4, 4) and batch.noise.dtype == torch.float32
    for noise, golden, prompt in zip(*batch, strict=True):
        i = int(golden[0, 0, 0])
        drawn = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(i))
        assert prompt == f"prompt {i}" and torch.equal(noise, drawn[0].half().float())


def test_pairs_of_the_evaluation_are_never_learned(tmp_path):
    pairs = NoisePairs(written(tmp_path / "all", 23, rejected={3}))
    assert pairs.held_back == [9, 19] and len(pairs.train) == 20
    drawn = pairs.draw(400, torch.Generator().manual_seed(0)).prompts
    held = set(pairs.read(pairs.held_back).prompts)
    assert held == {"prompt 10", "prompt 20"} and not held & set(drawn) and len(set(drawn)) == 20


def test_a_batch_depends_on_its_generator_alone(tmp_path):
    pairs = NoisePairs(written(tmp_path / "all", 12))
    one, two, other = (pairs.draw(6, torch.Generator().manual_seed(s)).prompts for s in (1, 1, 2))
    assert one == two != other


def test_the_mark_is_that_of_what_was_kept(tmp_path):
    marks = {NoisePairs(written(tmp_path / f"{i}", 12, rejected={i})).mark for i in (1, 1, 2)[1:]}
    assert len(marks) == 2
    assert NoisePairs(tmp_path / "1").mark in marks


def test_folders_with_too_few_pairs_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"two pairs or more, .* holds 1; run 'diffusers-ext collect'"):
        NoisePairs(written(tmp_path / "one", 3, rejected={0, 1}))
    with pytest.raises(ValueError, match="holds 0"):
        NoisePairs(tmp_path / "missing")
