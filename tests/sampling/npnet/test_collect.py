"""Pairs in files: complete, resumable, shared between processes, and read again for training."""

import json

import numpy as np
import pytest
import torch

from diffusers_ext.sampling.host_call import HostCall
from diffusers_ext.sampling.npnet.collect import FOLDER, SETTINGS, Collection, collect, pair_file, rows
from diffusers_ext.sampling.npnet.redenoise import re_denoise
from tests.close import alike, close
from tests.hosts import built

PROMPTS = ["a red circle", "a blue star", "a green square"]
FEW = Collection(steps=4, seed=5)
CALL = dict(height=32, width=32, num_inference_steps=2)


@pytest.fixture(scope="module")
def pipe():
    return built("sd")[1]


def redness(images, prompts):
    return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


def arrays(out):
    return {f.name: dict(np.load(f)) for f in (out / FOLDER).iterdir()}


def test_a_pair_is_noise_of_its_seed_and_what_re_denoise_makes_of_it(pipe, tmp_path):
    tried = collect(pipe, PROMPTS, tmp_path, FEW, batch=2, **CALL)
    assert [(t.index, t.seed, t.caption, t.kept) for t in tried] == [
        (i, 5 + i, prompt, True) for i, prompt in enumerate(PROMPTS)
    ]
    for one in tried:
        with np.load(pair_file(tmp_path, one.line)) as pair:
            noise, golden, index = (torch.from_numpy(pair[f"arr_{i}"]) for i in range(3))
        assert noise.shape == golden.shape == (1, 4, 16, 16) and noise.dtype == torch.float16
        assert int(index) == one.index
        drawn = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(one.seed))
        assert torch.equal(noise, drawn.half())
        host = HostCall(pipe, one.caption, torch.Generator().manual_seed(one.seed), **CALL)
        alike(golden.float(), re_denoise(host, host.draw(1), steps=4), level=1, dtype=torch.float16)
        assert not torch.equal(noise, golden)


def test_lines_have_the_names_of_the_papers_code(pipe, tmp_path):
    collect(pipe, PROMPTS[:1], tmp_path, FEW, reward=redness, **CALL)
    (row,) = rows(tmp_path)
    assert row.keys() == {"index", "seed", "caption", "kept", "original_score_list", "optimized_score_list"}
    assert len(row["original_score_list"]) == len(row["optimized_score_list"]) == 1


def test_only_pairs_that_a_reward_finds_better_are_kept(pipe, tmp_path):
    many = PROMPTS * 2
    tried = collect(pipe, many, tmp_path / "any", FEW, reward=redness, **CALL)
    gains = [t.optimized_score - t.original_score for t in tried]
    assert [t.kept for t in tried] == [gain > 0 for gain in gains]
    for one, prompt in zip(tried[:2], many, strict=False):
        generator = torch.Generator().manual_seed(one.seed)
        picture = pipe(prompt, generator=generator, output_type="pt", **CALL).images
        close(torch.tensor(one.original_score), redness(picture, [prompt])[0], level=512)
    margin = sum(sorted(gains)[2:4]) / 2
    strict = Collection(steps=4, seed=5, margin=margin)
    tried = collect(pipe, many, tmp_path / "strict", strict, reward=redness, **CALL)
    assert [t.kept for t in tried] == [gain > margin for gain in gains] and sum(t.kept for t in tried) == 3
    assert set(arrays(tmp_path / "strict")) == {pair_file(tmp_path, t.line).name for t in tried if t.kept}


def test_a_collection_goes_on_where_it_stopped(pipe, tmp_path):
    whole = tmp_path / "whole"
    collect(pipe, PROMPTS, whole, FEW, batch=1, **CALL)

    def stop(tried):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(pipe, PROMPTS, tmp_path / "parts", FEW, batch=1, on_batch=stop, **CALL)
    assert [row["index"] for row in rows(tmp_path / "parts")] == [0]
    with next((tmp_path / "parts").glob("*.jsonl")).open("a") as file:
        file.write('{"index": 1, "se')  # a crash in the middle of a line
    rest = collect(pipe, PROMPTS, tmp_path / "parts", FEW, batch=1, **CALL)
    assert [t.index for t in rest] == [1, 2]
    assert rows(tmp_path / "parts") == rows(whole)
    for name, pair in arrays(whole).items():
        for key, array in pair.items():
            assert np.array_equal(arrays(tmp_path / "parts")[name][key], array)
    assert collect(pipe, PROMPTS, whole, FEW, **CALL) == []


def test_shards_share_a_collection(pipe, tmp_path):
    for part in (1, 0):
        tried = collect(pipe, PROMPTS, tmp_path, FEW, shard=(part, 2), **CALL)
        assert [t.index for t in tried] == [[0, 2], [1]][part]
    assert [row["index"] for row in rows(tmp_path)] == [0, 1, 2]
    assert {f.name for f in tmp_path.glob("*.jsonl")} == {"pairs-0-of-2.jsonl", "pairs-1-of-2.jsonl"}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"settings": Collection(steps=5, seed=5)}, "steps, 4, got 5"),
        ({"settings": Collection(steps=4, seed=6)}, "seed, 5, got 6"),
        ({"prompts": PROMPTS[1:]}, "prompts, 3, got 2"),
        ({"prompts": PROMPTS[::-1]}, "prompts_sha256"),
        ({"reward": redness}, "rewards"),
        ({"height": 16}, "call"),
    ],
)
def test_pairs_of_other_settings_are_not_mixed(pipe, tmp_path, change, key):
    collect(pipe, PROMPTS, tmp_path, FEW, shard=(2, 3), **CALL)
    given = {"prompts": PROMPTS, "settings": FEW, **CALL, **change}
    with pytest.raises(ValueError, match=f"made with another {key}.*choose another folder"):
        collect(pipe, out=tmp_path, **given)
    assert json.loads((tmp_path / SETTINGS).read_text())["steps"] == 4


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"prompts": []}, r"one prompt or more, got \[\]"),
        ({"shard": (2, 2)}, "got 2 of 2"),
        ({"batch": 0}, "of 1 and 0"),
    ],
)
def test_collections_that_make_nothing_are_refused(pipe, tmp_path, given, match):
    with pytest.raises(ValueError, match=match):
        collect(pipe, **{"prompts": PROMPTS, "out": tmp_path / "new", "settings": FEW} | given)
    assert not (tmp_path / "new").exists()


def test_numbers_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="got 0 and 0"):
        Collection(steps=0)
