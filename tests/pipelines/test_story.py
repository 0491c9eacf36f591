"""Stories on real tiny pipelines: what is drawn plainly, kept, tried again and refused."""

import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler

import diffusers_ext as dx
from diffusers_ext.pipelines.story import StoryPipeline, StoryScene
from diffusers_ext.processors.ir_cores import SelfCore
from diffusers_ext.processors.reference_bank import GIB, ReferenceBank

from .. import faults
from ..hosts import HOSTS, host, processors

SUBJECTS = {"ann": "a red cat", "ben": "a blue dog"}
SCENES = ["ann and ben", "a fish", "ben"]
METHOD = dx.IRDiffusion(start_layer=0.0)


def left_or_right(image, text):
    """A segmenter that does not look: the cat is on the left."""
    mask = np.zeros(image.shape[:2], bool)
    half = image.shape[1] // 2
    mask[4:-4, slice(0, half) if "cat" in text else slice(half, None)] = True
    return mask


def told(name="sd", scenes=SCENES, cfg=True, scheduler=None, steps=2, **settings):
    """A pipeline and its story."""
    tiny = host(name)
    pipe = tiny.build()
    if scheduler is not None:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    settings = dict(method=METHOD, segmenter=left_or_right) | settings
    call = dict(num_inference_steps=steps, **tiny.size, **tiny.extra)
    call |= tiny.guided if cfg else tiny.unguided
    return pipe, call, StoryPipeline(pipe, **settings)(SUBJECTS, scenes, seed=5, **call)


def pixels(panels):
    return np.stack([np.asarray(panel.image, np.int16) for panel in panels])


def plain(pipe, call, prompts, seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    if isinstance(call.get("negative_prompt"), str):
        call = call | {"negative_prompt": [call["negative_prompt"]] * len(prompts)}
    return np.stack([np.asarray(i, np.int16) for i in pipe(prompts, generator=generators, **call).images])


@pytest.mark.parametrize("name, cfg", [("sd", True), ("sdxl", False), ("sd3", True), ("flux", True)])
def test_references_and_scenes_without_subjects_are_those_of_the_plain_model(name, cfg):
    pipe, call, story = told(name, cfg=cfg)
    assert np.array_equal(
        pixels(story.references.values()), plain(pipe, call, list(SUBJECTS.values()), [5, 5])
    )
    assert list(story.references) == ["ann", "ben"]
    for number, (panel, prompt) in enumerate(
        zip(story.panels, ["a red cat and a blue dog", "a fish", "a blue dog"], strict=True)
    ):
        wanted = plain(pipe, call, [prompt], [5 + number])[0]
        assert (panel.prompt, panel.seed, panel.missing) == (prompt, 5 + number, ())
        assert np.array_equal(np.asarray(panel.plain, np.int16), wanted)
        changed = np.abs(np.asarray(panel.image, np.int16) - wanted).max()
        assert (changed > 0) == bool(panel.subjects), (prompt, changed)
    assert story.images == [panel.image for panel in story.panels]


@pytest.mark.parametrize(
    "name, cfg, scheduler",
    [
        ("sd", True, HeunDiscreteScheduler),
        ("flux", True, None),
    ],
)
def test_kept_references_are_those_of_one_call(name, cfg, scheduler):
    """Keys and values of a run of their own, and of references drawn with each scene."""
    kept, cpu, again = (
        told(name, cfg=cfg, scheduler=scheduler, cache=cache)[2] for cache in ("device", "cpu", "off")
    )
    assert np.abs(pixels(kept.panels) - pixels(again.panels)).max() <= 1, "a rounding of one step of colour"
    assert np.array_equal(pixels(kept.panels), pixels(cpu.panels))
    assert kept.cache_gib == cpu.cache_gib > 0 == again.cache_gib


def test_one_call_is_ir_diffusion_by_hand():
    pipe, call, story = told(scenes=["ann and ben"], cache="off")
    left, right = (
        [left_or_right(np.zeros((32, 32, 3)), text).astype(int).tolist()] for text in ("cat", "dog")
    )
    method = dx.IRDiffusion(left + right, left + right, start_layer=0.0)
    with dx.apply(pipe, method):
        wanted = plain(pipe, call, [*SUBJECTS.values(), "a red cat and a blue dog"], [5, 5, 5])
    assert np.array_equal(pixels([*story.references.values(), *story.panels]), wanted)


@pytest.mark.filterwarnings("ignore:diffusers_ext. ir-diffusion changed nothing")
@pytest.mark.parametrize(
    "window, calls", [({}, 4), ({"start": 0.75}, 1), ({"stop": 0.5}, 2), ({"start": 0.5, "stop": 0.5}, 0)]
)
def test_the_limit_of_what_is_kept_is_known_before_it_is_filled(monkeypatch, window, calls):
    """Only calls in the window of steps count."""
    method = dx.IRDiffusion(start_layer=0.0, **window)
    banks, wrote = [], []
    monkeypatch.setattr(ReferenceBank, "check", _noting(ReferenceBank.check, banks))
    monkeypatch.setattr(SelfCore, "put", _noting(SelfCore.put, wrote))
    told(steps=4, method=method)
    each = [sum(x.numel() * x.element_size() for x in kept[:2]) for key, kept in banks[0].kept.items()
            if key[1] != "text"]  # fmt: skip
    exact = sum(each) / GIB
    told(steps=4, method=method, cache_limit_gib=exact * 1.001)
    if calls:
        wrote.clear()
        said = f"for {calls} calls of the denoiser, and cache_limit_gib allows"
        with pytest.raises(dx.MethodError, match=said):
            told(steps=4, method=method, cache_limit_gib=exact * 0.999)
        assert not wrote


def test_the_limit_holds_with_a_scheduler_that_calls_twice_in_a_step():
    method = dx.IRDiffusion(start_layer=0.0, start=0.5)
    kept = told(scheduler=HeunDiscreteScheduler, steps=4, method=method)[2].cache_gib
    with pytest.raises(dx.MethodError, match="calls of the denoiser, and cache_limit_gib allows"):
        told(scheduler=HeunDiscreteScheduler, steps=4, method=method, cache_limit_gib=kept * 0.5)
    told(scheduler=HeunDiscreteScheduler, steps=4, method=method, cache_limit_gib=kept * 1.5)


def _noting(function, notes):
    def wrapped(self, *args, **kwargs):
        notes.append(self)
        return function(self, *args, **kwargs)

    return wrapped


def test_masks_by_cross_attention():
    """They are apart, of the finest grid, and recording them changes no bit."""
    pipe, call, story = told(segmenter=None)
    first = story.panels[0]
    cat, dog = (np.array(first.masks[name]) for name in ("ann", "ben"))
    assert cat.shape == (16, 16) and cat.any() and dog.any() and not (cat & dog).any()
    wanted = plain(pipe, call, [first.prompt], [5])[0]
    assert np.array_equal(np.asarray(first.plain, np.int16), wanted)


def test_a_scene_says_its_own_words():
    scene = StoryScene("the cat sits", {"ann": "cat"})
    _, _, story = told(segmenter=None, scenes=[scene])
    assert story.panels[0].prompt == scene.prompt and list(story.panels[0].masks) == ["ann"]


def test_a_scene_without_its_subjects_is_tried_with_other_seeds():
    seen = []

    def blind(image, text):
        """It misses the dog in the first scene of three tries, after both references."""
        seen.append(text)
        return None if len(seen) == 4 else left_or_right(image, text)

    _, _, story = told(segmenter=blind, scenes=["ann and ben"])
    (panel,) = story.panels
    assert (panel.seed, panel.missing, len(seen)) == (5 + 1000, (), 6)


def test_references_without_their_subject_are_tried_with_other_seeds():
    seen = []

    def blind(image, text):
        """It misses the dog in the first two references."""
        seen.append(text)
        return None if len(seen) in (2, 4) else left_or_right(image, text)

    _, _, story = told(segmenter=blind, scenes=["ann"])
    assert {panel.seed for panel in story.references.values()} == {5 + 2000}, "all have one noise"

    def never(image, text):
        return left_or_right(image, text) if "cat" in text else np.zeros(image.shape[:2])

    words = r"ben \('a blue dog'\) was not found in its reference in 3 tries from seed 5"
    with pytest.raises(dx.MethodError, match=words):
        told(segmenter=never)


def test_what_is_missing_after_all_tries_is_named():
    calls = []

    def blind(image, text):
        calls.append(text)
        return None if "dog" in text and len(calls) > 2 else left_or_right(image, text)

    _, _, story = told(segmenter=blind, scenes=["ann and ben"], tries=2)
    (panel,) = story.panels
    assert (panel.seed, panel.missing, list(panel.masks)) == (5, ("ben",), ["ann"])
    assert not np.array_equal(np.asarray(panel.image), np.asarray(panel.plain))


@pytest.mark.parametrize(
    "settings, error, said",
    [
        (dict(tries=0), dx.MethodError, "got tries=0"),
        (dict(segmenter=3), dx.MethodError, "segmenter takes a function of an image and a text, got 3"),
        (dict(method=dx.SoftPAG()), dx.MethodError, "drawn by IRDiffusion, got SoftPAG"),
        (dict(cache="disk"), dx.MethodError, "got cache='disk'"),
        (
            dict(segmenter=lambda image, text: np.ones((3, 3))),
            dx.MethodError,
            r"shape \(32, 32\), got \(3, 3\)",
        ),
        (dict(scenes=[]), dx.MethodError, "a list of scenes"),
        (dict(scenes="ann"), dx.MethodError, "a list of scenes"),
        (dict(name="sd3", segmenter=None), dx.UnsupportedError, "does not show; give a segmenter"),
    ],
)
def test_stories_that_are_refused(settings, error, said):
    with pytest.raises(error, match=said):
        told(**settings)


def test_settings_that_are_known_for_a_model_are_taken():
    pipe = dx.load("shapes-sd")
    assert StoryPipeline(pipe).method == dx.preset("shapes-sd", "ir-diffusion") != dx.IRDiffusion()
    assert StoryPipeline(pipe, METHOD).method == METHOD
    assert StoryPipeline(host("sd").build()).method == dx.IRDiffusion()


def test_what_a_story_sets_is_not_taken():
    pipe = host("sd").build()
    with pytest.raises(dx.MethodError, match="a story sets generator by itself"):
        StoryPipeline(pipe)(SUBJECTS, SCENES, generator=torch.Generator())


@pytest.mark.parametrize("name", [h.name for h in HOSTS if h.video])
def test_models_of_videos_are_refused(name):
    with pytest.raises(dx.UnsupportedError, match="makes videos; use a model of pictures"):
        StoryPipeline(host(name).build())


def test_an_exception_leaves_the_pipeline_as_it_was():
    pipe, call, story = told()
    before = processors(pipe.unet)
    trap = faults.Trap(11, RuntimeError("trap"))  # in the second scene
    with pytest.raises(RuntimeError, match="trap"), faults.in_modules([pipe.unet.mid_block], trap):
        StoryPipeline(pipe, METHOD, segmenter=left_or_right)(SUBJECTS, SCENES, seed=5, **call)
    assert trap.sprung and processors(pipe.unet) == before
    again = StoryPipeline(pipe, METHOD, segmenter=left_or_right)(SUBJECTS, SCENES, seed=5, **call)
    assert np.array_equal(pixels(again.panels), pixels(story.panels))
