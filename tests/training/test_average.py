import torch

from diffusers_ext.training.average import Average


def test_average_follows_and_swaps_back_exactly():
    live = torch.zeros(3)
    average = Average([live], 0.9)
    live += 1
    for step in range(200):
        average.update(step)
    torch.testing.assert_close(average.mean[0], torch.ones(3))
    average.mean[0].fill_(5)
    average.swap()
    assert live.tolist() == [5, 5, 5]
    average.swap()
    assert live.tolist() == [1, 1, 1]
