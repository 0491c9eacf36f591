"""What tests of searches share: calls of tiny pipelines, rewards, and a count of what the denoiser runs."""

from contextlib import contextmanager

import torch

from diffusers_ext.families.denoisers import denoisers

from ..hosts import processors
from ..tiny_models import sd3

SIZE = dict(height=16, width=16, max_sequence_length=16, num_inference_steps=10, guidance_scale=3.0)


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def redness(images, prompts):
    return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


def greenness(images, prompts):
    return images[:, 1].mean((1, 2))


def sample(sampler, prompt="a red circle", seed=0, pipe=None, **more):
    """A run on the quickest pipeline, SD3 with flow matching, or on `pipe`."""
    call = {"generator": seeded(seed)[0], "progress": False, "output_type": "pt"} | SIZE | more
    return sampler.sample(pipe or sd3.pipeline(), prompt, **call)


def on(host, sampler, prompt="a red circle", steps=8, pipe=None, **more):
    """A run with guidance on one of `tests/hosts.py`."""
    asked = host.size | host.extra | host.guided | {"num_inference_steps": steps} | more
    call = {"generator": seeded(3)[0], "progress": False, "output_type": "pt"} | asked
    return sampler.sample(pipe or host.build(), prompt, **call)


def counted(pipe, layer="transformer_blocks.1.attn"):
    """Rows that reach an attention module, and so the denoiser."""
    rows = []
    for model in denoisers(pipe).values():
        model.get_submodule(layer).register_forward_pre_hook(
            lambda module, args, kwargs: rows.append(len(args[0] if args else kwargs["hidden_states"])),
            with_kwargs=True,
        )
    return rows


@contextmanager
def unchanged(pipe):
    """Asserts that nothing of a pipeline changes, its scheduler included."""

    def state():
        models = {name: processors(model) for name, model in denoisers(pipe).items()}
        return dict(vars(pipe)), dict(vars(pipe.scheduler)), dict(pipe.config), models

    before = state()
    try:
        yield
    finally:
        assert state() == before
        assert not any(
            hasattr(m, "_diffusers_hook") and m._diffusers_hook.hooks for m in denoisers(pipe).values()
        )


def failing_at(call, reward=redness):
    """A reward that raises at its `call`-th call."""
    calls = []

    def broken(images, prompts):
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("broken")
        return reward(images, prompts)

    return broken
