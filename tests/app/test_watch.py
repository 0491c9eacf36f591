"""The words on progress, as a page shows them."""

import re

from diffusers_ext.app.line import Control
from diffusers_ext.app.watch import Watch


def shown(**more):
    """What a job shows of a picture that begins, after one of two took four seconds."""
    found = []
    Watch(Control(found.append), 2, {}, before=(1, 4.0), **more).begin(1)
    return found[-1]


def test_the_time_that_is_left_stands_alone_or_after_the_label():
    assert re.fullmatch(r"about \d+ s left", shown().words) and shown().share == 0.5
    assert re.fullmatch(r"plain, about \d+ s left", shown(label="plain").words)
