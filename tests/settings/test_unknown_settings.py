"""A setting that a method or sampler does not have gets the nearest name, wherever it is built."""

import copy
import dataclasses
import pickle

import pytest

import diffusers_ext as dx
from diffusers_ext.core import Method
from diffusers_ext.settings.methods import method_class
from diffusers_ext.settings.registry import METHODS, SAMPLERS
from diffusers_ext.settings.samplers import named


@pytest.mark.parametrize("name", [*METHODS, *SAMPLERS])
def test_the_nearest_name_is_given(name):
    cls = method_class(name) if name in METHODS else named(name).cls
    field = dataclasses.fields(cls)[-1].name
    with pytest.raises(TypeError) as error:
        cls(**{f"{field}x": 1})
    text = str(error.value)
    assert text.startswith(f"{cls.__name__} has no setting '{field}x'; nearest is '{field}', valid are ")
    assert "\n" not in text and all(f.name in text for f in dataclasses.fields(cls))


def test_methods_are_still_copied_replaced_and_pickled():
    method = dx.SoftPAG(heads={"a.attn": [0]}, scale=2.0)
    assert dataclasses.replace(method, scale=3.0).scale == 3.0 and dx.GNA((3, 3)).window[1:] == (3, 3)
    assert copy.deepcopy(method) == copy.copy(method) == pickle.loads(pickle.dumps(method)) == method
    with pytest.raises(TypeError, match="SoftPAG has no setting 'scle'; nearest is 'scale'"):
        dataclasses.replace(method, scle=3.0)


def test_constructors_of_their_own_keep_their_arguments():
    class Free(Method):
        def __init__(self, **anything):
            self.anything = anything

        def select(self, sites):
            return sites

        def bind(self, site, run, inner):
            return inner

    assert Free(any=1).anything == {"any": 1}
