"""Draw a story: subjects look alike in a series of scenes, and do not mix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ..errors import MethodError, UnsupportedError
from ..models.presets import known
from ..processors.ir_cores import link
from ..processors.ir_diffusion import IRDiffusion
from ..processors.reference_bank import ReferenceBank
from ..processors.subject_maps import SubjectMaps, subject_masks
from ..sampling.call import makes_videos, run, seed_of
from ..sampling.generate import to_image
from ..sampling.items import Item
from ..session.session import Session, apply
from . import story_text
from .story_panel import Panel, Story, mask_rows
from .story_text import StoryScene

if TYPE_CHECKING:
    from PIL.Image import Image

Segmenter = Callable[[np.ndarray, str], Any]
AGAIN = 1000  # what the seed of a scene grows by when it is drawn again
FULL = [[0.0, 0.0, 1.0, 1.0]]
OWN = "prompt", "generator", "latents", "num_images_per_prompt", "output_type", "return_dict"


class StoryPipeline:
    """Draws references of subjects, and scenes in which they look alike, with IR-Diffusion.

    1. References are drawn from one noise, and scenes are rehearsed as the plain model draws them.
    2. Subjects are found in both: by `segmenter(image [H, W, 3] from 0 to 1, text)`, which returns a mask
       `[H, W]` or `None`, or by cross-attention if there is no segmenter. References or a scene without one
       of the subjects are drawn with another seed, at most `tries` times.
    3. References are drawn once more, and the keys and values of their subjects are kept for all scenes.
    4. Scenes are drawn from the noise of their rehearsal. A scene without subjects is its rehearsal.

    `method` has the settings of `IRDiffusion`, without masks; by default those that are known for the model.
    `cache` says where keys and values are kept:
    `"device"`, `"cpu"`, or `"off"`, where references are drawn again with each scene. The pipeline itself
    stays as it is.

    Raises `UnsupportedError` for models that the method cannot run on, and for models without cross-attention
    if there is no segmenter. Raises `MethodError` for a story that does not fit, and for a cache above
    `cache_limit_gib` before the first step that would fill it.
    """

    def __init__(
        self,
        pipe: Any,
        method: IRDiffusion | None = None,
        *,
        segmenter: Segmenter | None = None,
        tries: int = 3,
        cache: Literal["device", "cpu", "off"] = "device",
        cache_limit_gib: float = 16.0,
    ) -> None:
        self.pipe = pipe
        self.method = usual(pipe) if method is None else method
        self.segmenter = segmenter
        self.tries = tries
        self.cache = cache
        self.cache_limit_gib = cache_limit_gib
        if tries < 1:
            raise MethodError(f"a scene is rehearsed once or more, got tries={tries}; 3 is usual.")
        if not isinstance(self.method, IRDiffusion):
            raise MethodError(f"a story is drawn by IRDiffusion, got {method!r}; write dx.IRDiffusion().")
        if segmenter is not None and not callable(segmenter):
            raise MethodError(
                f"segmenter takes a function of an image and a text, got {segmenter!r}; it returns a mask."
            )
        if cache not in ("device", "cpu", "off"):
            raise MethodError(
                f"a story keeps its references on device, cpu or off, got cache={cache!r}; choose one."
            )
        if makes_videos(pipe):
            raise UnsupportedError(
                f"a story is made of pictures, and {type(pipe).__name__} makes videos; use a model of "
                "pictures."
            )
        with apply(pipe, self._method(FULL, FULL)):
            pass  # it refuses models before anything is drawn
        if segmenter is None:
            self._check_attention()

    def __call__(
        self, subjects: Mapping[str, str], scenes: Sequence[str | StoryScene], seed: int = 0, **call: Any
    ) -> Story:
        """Draw a story; `call` goes to the pipeline, such as `num_inference_steps`.

        `subjects` maps names to texts. A scene is a text that names subjects by name or by text, or a
        `StoryScene`. References have the noise of `seed`, and scene number i that of `seed + i`.
        """
        drawn = list(self.panels(subjects, scenes, seed, **call))
        references = {name: panel for name, panel, _ in drawn if name is not None}
        return Story(references, tuple(panel for name, panel, _ in drawn if name is None), drawn[-1][2])

    def panels(
        self, subjects: Mapping[str, str], scenes: Sequence[str | StoryScene], seed: int = 0, **call: Any
    ) -> Iterator[tuple[str | None, Panel, float]]:
        """Yield each picture when it is done: references with their names, then scenes.

        The last value is the size of the cache in GiB.
        """
        found = story_text.checked(subjects)
        if isinstance(scenes, str) or not scenes:
            raise MethodError(
                f"a story has a list of scenes, such as ['ann and ben'], got {scenes!r}; write one or more."
            )
        if given := [name for name in call if name in OWN]:
            raise MethodError(f"a story sets {given[0]} by itself; leave it out, and use seed for the noise.")
        read = [story_text.read(scene, found) for scene in scenes]
        references, calls = self.draw_references(found, seed_of(seed), call)
        yield from ((name, panel, 0.0) for name, panel in references.items())
        bank = self.keep(references, calls, call) if self._needed(read) else None
        size = 0.0 if bank is None else bank.gib
        for number, scene in enumerate(read):
            panel = self.rehearse(scene, seed_of(seed + number), found, call)
            held = [name for name in panel.subjects if name not in panel.missing]
            if held:
                image = self.draw(panel, held, references, bank, call)
                panel = replace(panel, image=image)
            yield None, panel, size

    # the steps of a story -----------------------------------------------------------------------------------

    def draw_references(
        self, subjects: Mapping[str, str], seed: int, call: Mapping[str, Any]
    ) -> tuple[dict[str, Panel], int]:
        """Draw the references until each shows its subject; all have the same noise.

        Returns them, and the number of calls of the denoiser that a run of them takes.
        """
        scenes = [StoryScene(text, {name: story_text.words(text)}) for name, text in subjects.items()]
        for number in range(self.tries):
            again = seed_of(seed + AGAIN * number)
            panels, calls = self._plain(scenes, [again] * len(scenes), subjects, call)
            missing = [panel for panel in panels if panel.missing]
            if not missing:
                return dict(zip(subjects, panels, strict=True)), calls
        raise MethodError(
            f"{missing[0].missing[0]} ({missing[0].prompt!r}) was not found in its reference in {self.tries} "
            f"tries from seed {seed}, so nothing says what it looks like; take another seed or text."
        )

    def rehearse(
        self, scene: StoryScene, seed: int, subjects: Mapping[str, str], call: Mapping[str, Any]
    ) -> Panel:
        """Draw a scene as the plain model does, until all of its subjects are found."""
        best = None
        for number in range(self.tries):
            (panel,), _ = self._plain([scene], [seed_of(seed + AGAIN * number)], subjects, call)
            if best is None or len(panel.missing) < len(best.missing):
                best = panel
            if not panel.missing:
                break
        return best

    def _plain(
        self,
        scenes: Sequence[StoryScene],
        seeds: Sequence[int],
        subjects: Mapping[str, str],
        call: Mapping[str, Any],
    ) -> tuple[list[Panel], int]:
        """Draw scenes in one call of the plain model, and find their subjects."""
        words = [list(scene.subjects.values()) for scene in scenes]
        observed = self.segmenter is None and any(words)
        with apply(self.pipe, *([SubjectMaps(words)] if observed else [])) as session:
            arrays = self._call([s.prompt for s in scenes], seeds, call)
            found = self._by_attention(session) if observed else [[None] * len(w) for w in words]
        calls = session.report().denoiser_calls
        panels = []
        for scene, seed, array, masks in zip(scenes, seeds, arrays, found, strict=True):
            if self.segmenter is not None:
                masks = [mask_rows(self.segmenter(array, subjects[name]), array) for name in scene.subjects]
            held = {name: m for name, m in zip(scene.subjects, masks, strict=True) if m is not None}
            missing = tuple(name for name in scene.subjects if name not in held)
            image = to_image(array, Item(scene.prompt, seed))
            panels.append(Panel(image, image, scene.prompt, seed, tuple(scene.subjects), held, missing))
        return panels, calls

    def keep(
        self, references: Mapping[str, Panel], calls: int, call: Mapping[str, Any]
    ) -> ReferenceBank | None:
        """Draw the references once more, and keep what scenes will see of them."""
        if self.cache == "off":
            return None
        areas = [panel.masks[name] for name, panel in references.items()]
        device = "cpu" if self.cache == "cpu" else None
        bank = ReferenceBank(device, calls, self.cache_limit_gib, range(len(areas)))
        with apply(self.pipe, self._method(areas, [None] * len(areas))) as session:
            link(session.cores(session.methods[0]), bank)
            panels = list(references.values())
            self._call([p.prompt for p in panels], [p.seed for p in panels], call, output_type="latent")
        return bank

    def draw(
        self,
        panel: Panel,
        held: Sequence[str],
        references: Mapping[str, Panel],
        bank: ReferenceBank | None,
        call: Mapping[str, Any],
    ) -> Image:
        """Draw a scene with the subjects `held`, from the noise of its rehearsal."""
        areas = [references[name].masks[name] for name in held]
        with apply(self.pipe, self._method(areas, [panel.masks[name] for name in held])) as session:
            if bank is None:
                prompts = [references[name].prompt for name in held]
                seeds = [references[name].seed for name in held]
            else:
                numbers = [list(references).index(name) for name in held]
                link(session.cores(session.methods[0]), bank.reader(numbers))
                prompts, seeds = [], []
            array = self._call([*prompts, panel.prompt], [*seeds, panel.seed], call)[-1]
        return to_image(array, Item(panel.prompt, panel.seed))

    # parts --------------------------------------------------------------------------------------------------

    def _call(
        self, prompts: Sequence[str], seeds: Sequence[int], call: Mapping[str, Any], output_type: str = "np"
    ) -> Any:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        return run(self.pipe, prompts, {**call, "output_type": output_type}, generator=generators).images

    def _method(self, references: Sequence[Any], scene: Sequence[Any]) -> IRDiffusion:
        return replace(self.method, reference_masks=references, scene_masks=scene)

    def _by_attention(self, session: Session) -> list[list[list[list[float]] | None]]:
        cores = session.cores(session.methods[0])
        masks = subject_masks(cores, session.run.layout)
        return [[mask.int().tolist() if mask.any() else None for mask in each] for each in masks]

    def _needed(self, scenes: Sequence[StoryScene]) -> bool:
        return any(scene.subjects for scene in scenes)

    def _check_attention(self) -> None:
        try:
            with apply(self.pipe, SubjectMaps([])):
                pass
        except UnsupportedError as error:
            raise UnsupportedError(
                "a story finds its subjects by cross-attention, which this "
                f"{type(self.pipe).__name__} does not show; give a segmenter, a function of a picture "
                "and the text of a subject that returns its mask. For shapes world --masks detector does so."
            ) from error


def usual(pipe: Any) -> IRDiffusion:
    """Return the method with the settings that are known for a pipeline that was loaded by name."""
    found = known(pipe) if getattr(pipe, "name_or_path", None) else None
    return IRDiffusion(**(found.settings.get(IRDiffusion.name, {}) if found else {}))
