"""Test what a run shows on a terminal."""

from diffusers_ext.sampling.generate import generate
from diffusers_ext.sampling.items import Item
from diffusers_ext.sampling.progress import Progress

CALL = {"height": 16, "width": 16, "num_inference_steps": 2, "guidance_scale": 1.0, "max_sequence_length": 16}


def test_a_terminal_shows_the_image_the_step_and_the_end(pipe, capsys):
    items = [Item("a", i) for i in range(3)]
    with Progress(4, show=True) as progress:
        progress.skip(1)
        for made in generate(pipe, items, CALL, 2, progress):
            progress.tick(len(made))
        progress.line("a line")
    out, err = capsys.readouterr()
    states = [s for s in err.replace("\n", "\r").split("\r") if " of 4" in s]
    assert out.splitlines() == ["1 of 4 images was finished before, nothing to do for them", "a line"]
    order = [
        "images 2 to 3 of 4, step 1 of 2  50%",
        "images 2 to 3 of 4, step 2 of 2  75%",
        "image 4 of 4, step 1",
    ]
    places = [next(i for i, s in enumerate(states) if s.startswith(start)) for start in order]
    assert places == sorted(places) and all("left" in s for s in states)


def test_nothing_is_shown_and_nothing_handed_on_where_nobody_looks(pipe, capsys):
    with Progress(1) as progress:
        assert progress.hooks(pipe) == {}
        list(generate(pipe, [Item("a", 0)], CALL, 1, progress))
    assert capsys.readouterr() == ("", "")
