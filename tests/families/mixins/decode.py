"""A family draws latents of the shape that its pipeline draws, and makes the pictures that it makes."""

import pytest
import torch

from diffusers_ext.errors import UnsupportedError

from ... import hosts
from .config import Config


class DecodeTests(Config):
    """Noise shapes and pictures of a run of the pipeline, and gradients to the latents."""

    def test_noise_shape_is_that_of_the_pipeline(self):
        host = hosts.host(self.host)
        pipe, drawn = host.build(), []
        prepare = pipe.prepare_latents

        def note(*args, **kwargs):
            made = prepare(*args, **kwargs)
            drawn.append((made[0] if isinstance(made, tuple) else made).shape)
            return made

        pipe.prepare_latents = note
        for prompts in (1, 2):
            host.run(pipe, steps=host.least_steps, prompts=prompts)
            call = host.size | {"prompt": ["a"] * prompts}
            assert self.family.noise_shape(pipe, call) == drawn.pop()
        embeds = torch.zeros(3, 7, 32)
        assert self.family.noise_shape(pipe, host.size | {"prompt_embeds": embeds})[0] == 3

    def test_pictures_are_those_of_the_pipeline(self):
        host = hosts.host(self.host)
        pipe = host.build()
        self._state_statistics(pipe.vae)
        run = dict(steps=host.least_steps, prompts=2)
        latents, pictures = (host.run(pipe, output_type=kind, **run) for kind in ("latent", "pt"))
        leaf = latents.clone().requires_grad_()
        made = self.family.decode(pipe, leaf, host.size)
        assert torch.equal(made, pictures)
        (gradient,) = torch.autograd.grad(made.mean(), leaf)
        assert gradient.isfinite().all() and gradient.abs().max() > 0

    def test_latents_without_an_autoencoder_are_refused(self):
        host = hosts.host(self.host)
        pipe = host.build()
        pipe.vae = None
        with pytest.raises(UnsupportedError, match="without one; load the pipeline with its vae"):
            self.family.decode(pipe, torch.zeros(1, 4, 8, 8), host.size)

    def _state_statistics(self, vae):
        """Set mean and deviation, since those that a tiny autoencoder states would change nothing."""
        if getattr(vae.config, "latents_mean", None) is not None:
            count = len(vae.config.latents_mean)
            mean, std = ([start + 0.1 * i for i in range(count)] for start in (-0.2, 0.5))
            vae.register_to_config(latents_mean=mean, latents_std=std)
