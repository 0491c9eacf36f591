import json

import pytest
import torch
from diffusers import AutoencoderKL

from diffusers_ext.training.components import autoencoder
from diffusers_ext.training.fit import Run, fit
from diffusers_ext.training.objectives.vae import VAEObjective, pictures
from diffusers_ext.training.recipes import VAEConfig
from diffusers_ext.training.runs import run
from diffusers_ext.zoo.models.components import build_vae

TINY = VAEConfig(samples=12, batch=4, warmup=4, probe=60)


def train_vae(out, **how):
    objective = VAEObjective(TINY)
    return fit(objective, out, Run(**how)) and objective.export(out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a run without a break."""
    folder = tmp_path_factory.mktemp("whole")
    assert train_vae(folder)
    return folder


def test_a_stopped_run_resumes_to_the_same_weights(whole, tmp_path):
    assert not train_vae(tmp_path, minutes=0)
    assert train_vae(tmp_path)
    a, b = (AutoencoderKL.from_pretrained(p / "vae").state_dict() for p in (whole, tmp_path))
    assert all(torch.equal(a[k], b[k]) for k in a)
    last = json.loads((whole / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 3 and last["psnr_db"] > 0


def test_latents_are_normalised_per_channel(whole):
    vae = AutoencoderKL.from_pretrained(whole / "vae")
    with torch.no_grad():
        latents = vae.encode(pictures(0, 0, 60)).latent_dist.mean
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=0.1, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=0.1, rtol=0)


def test_run_writes_into_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no C++ compiler: the run must do without
    folder = run("shapes-vae", tmp_path, Run(minutes=0))
    assert folder == tmp_path / "shapes-vae" and (folder / "checkpoint.pt").exists()


def test_runs_see_the_autoencoder_as_it_will_be_shipped(tmp_path):
    drawn = build_vae()
    drawn.save_pretrained(tmp_path / "shapes-vae" / "vae")
    seen, _ = autoencoder(tmp_path)
    for wanted, got in zip(drawn.parameters(), seen.parameters(), strict=True):
        assert got.dtype == torch.float32 and torch.equal(got, wanted.half().float())
