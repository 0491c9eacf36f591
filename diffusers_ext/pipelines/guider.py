"""SoftPAG as a guider of modular pipelines: `pipe.update_components(guider=dx.SoftPAGGuidance(...))`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffusers.configuration_utils import register_to_config
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput, rescale_noise_cfg
from torch import Tensor, nn

from ..core import RunContext, step_window
from ..errors import MethodError
from ..processors.softpag import SoftPAG
from .perturbed_pass import PerturbedPass

COND, UNCOND, PERTURBED = "pred_cond", "pred_uncond", "pred_cond_perturbed"


class SoftPAGGuidance(BaseGuidance):
    """Guide a modular pipeline by SoftPAG, with classifier-free guidance or without it.

    The result is `u + guidance_scale (c - u) + perturbation_scale (c - p)`. Without classifier-free guidance,
    at `guidance_scale=1`, it is `c + perturbation_scale (c - p)`. `start` and `stop` are the window of
    classifier-free guidance, `perturb_start` and `perturb_stop` that of the perturbed prediction `p`, all in
    fractions of the steps. The other settings are those of `SoftPAG`; keys of `heads` are paths inside the
    denoiser. Processors are swapped for each perturbed call alone, and put back also if it raises.

    Raises `MethodError` for settings out of range, and in the first step `UnsupportedError` for a denoiser
    that no family knows, `MethodError` for heads that it does not have, and `ConflictError` for a denoiser
    under a session or with a cache.
    """

    _input_predictions = [COND, UNCOND, PERTURBED]

    @register_to_config
    def __init__(
        self,
        *,
        guidance_scale: float = 7.5,
        perturbation_scale: float = 3.0,
        heads: Mapping[str, Sequence[int] | Mapping[int, float] | None] | None = None,
        strength: float | Sequence[float] | None = 1.0,
        perturbation: str = "identity",
        temperature: float | None = None,
        seed: int = 0,
        scope: str = "image_rows",
        perturb_start: float = 0.0,
        perturb_stop: float = 1.0,
        guidance_rescale: float = 0.0,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
    ) -> None:
        super().__init__(start, stop, enabled)
        for name, value in {"guidance_scale": guidance_scale, "guidance_rescale": guidance_rescale}.items():
            if not math.isfinite(value):
                raise MethodError(
                    f"SoftPAGGuidance {name} must be finite, got {value}; for example {name}=1."
                )
        self.guidance_scale = guidance_scale
        self.guidance_rescale = guidance_rescale
        self.method = SoftPAG(
            heads=heads,
            scale=perturbation_scale,
            strength=strength,
            scope=scope,
            start=perturb_start,
            stop=perturb_stop,
            perturbation=perturbation,
            temperature=temperature,
            seed=seed,
        )
        if isinstance(heads, Mapping):  # a HeadSet is saved as the heads that it names
            self.register_to_config(heads=dict(heads))
        self._passes: dict[int, PerturbedPass] = {}  # of the denoisers of this run, by `id`

    # which predictions a step has ---------------------------------------------------------------------------

    def _active(self) -> list[str]:
        """Return the predictions of the current step in order; before a run those of its first step."""
        run = RunContext()
        run.step, run.steps = self._step or 0, self._num_inference_steps or 1
        always = (self._start, self._stop) == (0.0, 1.0)
        guided = always or run.step in step_window(self._start, self._stop, run.steps)
        wanted = {
            UNCOND: guided and not math.isclose(self.guidance_scale, 1.0),
            PERTURBED: self.method.active(run),
        }
        return [COND, *(name for name, on in wanted.items() if on and self._enabled)]

    @property
    def num_conditions(self) -> int:
        """The number of predictions of the current step."""
        return len(self._active())

    @property
    def is_conditional(self) -> bool:
        """True unless the current prediction is the unconditional one."""
        return self._count_prepared == 0 or self._current() != UNCOND

    def _current(self) -> str:
        return self._active()[self._count_prepared - 1]

    # what the loop of a pipeline calls ----------------------------------------------------------------------

    def set_state(self, step: int, num_inference_steps: int, timestep: Tensor) -> None:
        """Begin a step, with everything put back that an interrupted one has left."""
        self._put_back()
        if step == 0:
            self._passes.clear()
        super().set_state(step, num_inference_steps, timestep)

    def prepare_inputs(self, data: Mapping[str, Any]) -> list[Any]:
        """Return the inputs of each prediction: tensors are shared, of pairs the second is unconditional."""
        return [self._prepare_batch(data, index, name) for name, index in self._indices(data)]

    def prepare_inputs_from_block_state(self, data: Any, input_fields: Mapping[str, Any]) -> list[Any]:
        """Return the inputs of each prediction out of the state of a block."""
        return [
            self._prepare_batch_from_block_state(input_fields, data, index, name)
            for name, index in self._indices(input_fields)
        ]

    def _indices(self, data: Mapping[str, Any]) -> list[tuple[str, int]]:
        names = self._active()
        if UNCOND in names and not any(isinstance(value, tuple) for value in data.values()):
            raise MethodError(
                f"SoftPAGGuidance with guidance_scale={self.guidance_scale} needs an unconditional "
                "prediction, but the pipeline has no embeddings of a negative prompt; call it with "
                'negative_prompt="", or set guidance_scale=1.'
            )
        return [(name, int(name == UNCOND)) for name in names]

    def prepare_models(self, denoiser: nn.Module) -> None:
        """Go on to the next prediction, and swap processors in before the perturbed one."""
        self._count_prepared += 1
        if self._current() != PERTURBED:
            return
        if id(denoiser) not in self._passes:
            self._passes[id(denoiser)] = PerturbedPass(self.method, denoiser)
        self._passes[id(denoiser)].open(self._step or 0, self._num_inference_steps or 1)

    def cleanup_models(self, denoiser: nn.Module) -> None:
        """End a prediction; raises `RuntimeError` if it should have been perturbed and was not."""
        if id(denoiser) in self._passes:
            self._passes[id(denoiser)].close()

    def forward(
        self, pred_cond: Tensor, pred_uncond: Tensor | None = None, pred_cond_perturbed: Tensor | None = None
    ) -> GuiderOutput:
        """Combine the predictions of a step, all `[B, ...]`."""
        pred = pred_cond
        if pred_uncond is not None:
            pred = pred_uncond + self.guidance_scale * (pred_cond - pred_uncond)
        if pred_cond_perturbed is not None:
            pred = pred + self.method.delta(pred_cond, pred_cond_perturbed)
        if self.guidance_rescale > 0.0:
            pred = rescale_noise_cfg(pred, pred_cond, guidance_rescale=self.guidance_rescale)
        if self._num_inference_steps is not None and self._step + 1 >= self._num_inference_steps:
            self._end_run()
        return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=pred_uncond)

    def _end_run(self) -> None:
        """Forget the run: pipelines ask for `num_conditions` before the first step of the next one."""
        self._step = self._num_inference_steps = self._timestep = None
        self._count_prepared = 0
        self._passes.clear()

    def _put_back(self) -> None:
        for each in self._passes.values():
            each.abandon()
