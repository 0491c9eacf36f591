import re

import pytest

from diffusers_ext import zoo
from diffusers_ext.zoo.train import identity

START = {"name": "shapes-sd", "sha256": {"unet/model.safetensors": "01"}}
BEGUN = {"seed": 0, "autoencoder": "ab", "start": None}


@pytest.mark.parametrize(
    "key, value", [("seed", 1), ("autoencoder", "cd"), ("start", START), ("teacher", "x")]
)
def test_another_run_is_refused(tmp_path, key, value):
    came = {"seed": "0", "autoencoder": "ab"}.get(key, "none")
    rule = f"the run in {tmp_path} was begun with another {key}, {came}; choose another --out, or begin anew"
    with pytest.raises(ValueError, match=re.escape(rule)):
        identity.resumed(tmp_path, BEGUN | {key: value}, {"identity": BEGUN})


def test_a_start_need_not_be_named_again(tmp_path):
    begun = BEGUN | {"start": START}
    assert identity.resumed(tmp_path, BEGUN, {"identity": begun}) == begun


def test_an_old_checkpoint_tells_its_seed_alone_and_goes_on_again_and_again(tmp_path):
    begun = identity.resumed(tmp_path, BEGUN, {"seed": 0})
    assert begun == BEGUN == identity.resumed(tmp_path, BEGUN, {"identity": begun})
    with pytest.raises(ValueError, match="another seed, 3"):
        identity.resumed(tmp_path, BEGUN, {"seed": 3})


def test_what_only_the_checkpoint_knows_counts(tmp_path):
    with pytest.raises(ValueError, match="another teacher, ef"):
        identity.resumed(tmp_path, BEGUN, {"identity": BEGUN | {"teacher": "ef"}})


def test_a_start_may_be_renamed(tmp_path):
    begun, renamed = BEGUN | {"start": START}, BEGUN | {"start": START | {"name": "copy"}}
    assert identity.resumed(tmp_path, renamed, {"identity": begun}) == begun


def test_of_a_start_only_what_is_taken_counts():
    home = zoo.path("shapes-sd")
    sums = zoo.checksums(zoo.weight_files(home), home)
    file = "unet/diffusion_pytorch_model.safetensors"
    assert identity.of_start(home, ("unet",)) == {"name": "shapes-sd", "sha256": {file: sums[file]}}
    assert identity.checksum(home / file) == sums[file]
    assert identity.of_start(None, ("unet",)) is None
