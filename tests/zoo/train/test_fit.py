import math

import pytest

from diffusers_ext.zoo.train.fit import Run


@pytest.mark.parametrize(
    ("name", "number"),
    [("batch", 0), ("batch", -2), ("samples", 0), ("minutes", -1.0), ("minutes", math.nan)],
)
def test_numbers_too_small_are_refused(refused, tmp_path, name, number):
    rule = f"{name} of a run must be at least"
    with pytest.raises(ValueError, match=rule):
        Run(**{name: number})
    for model in ("shapes-vae", "clear"):
        assert rule in refused("train", model, f"--{name}", number, "--out", tmp_path)
    assert not list(tmp_path.iterdir())
