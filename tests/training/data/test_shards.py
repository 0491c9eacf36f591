import numpy as np
import torch

from diffusers_ext.training.data.shards import Shards


def shards(folder, made=None, first=1, reuse=2):
    def make(number, done):
        if made is not None:
            made.append(number)
        index = np.arange(4 * number + done, 4 * number + 4)
        yield {"index": index, "square": index**2}

    return Shards(folder, 4, make, first, reuse)


def dice():
    return torch.Generator().manual_seed(0)


def test_rows_of_all_arrays_belong_together(tmp_path):
    rows = shards(tmp_path, first=11).draw(0, 200, dice())
    assert torch.equal(rows["square"], rows["index"] ** 2)
    assert set(rows["index"].tolist()) == set(range(12))


def test_one_sample_more_for_each_two_used(tmp_path):
    data = shards(tmp_path)
    for used, largest in ((0, 3), (7, 3), (8, 7), (16, 11)):
        assert data.draw(used, 500, dice())["index"].max() == largest


def test_files_are_made_once_and_made_again_when_lost(tmp_path):
    made = []
    first = shards(tmp_path, made, first=7).draw(0, 50, dice())
    (tmp_path / "0001.npz").unlink()
    again = shards(tmp_path, made, first=7).draw(0, 50, dice())
    assert made == [0, 1, 1]
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000.npz", "0001.npz"]


def test_a_run_that_is_stopped_keeps_the_pieces_it_has_made(tmp_path, capsys):
    asked = []

    def make(number, done, stop):
        for at in range(done // 2, 4):
            if at == stop:
                raise KeyboardInterrupt
            asked.append(at)
            yield {"index": np.arange(8 * number + 2 * at, 8 * number + 2 * at + 2)}

    for stop, made in ((2, [0, 1]), (2, [0, 1]), (3, [0, 1, 2]), (9, [0, 1, 2, 3])):
        data = Shards(tmp_path, 8, lambda *key, stop=stop: make(*key, stop=stop), 1, 2)
        try:
            rows = data.draw(0, 100, dice())
        except KeyboardInterrupt:
            assert [p.name for p in tmp_path.iterdir()] == ["0000.part.npz"]
        assert asked == made
    assert set(rows["index"].tolist()) == set(range(8))
    assert [p.name for p in tmp_path.iterdir()] == ["0000.npz"]
    said = capsys.readouterr().err
    assert "preparing 8 samples of training data" in said and "from 4 of 8 on" in said
