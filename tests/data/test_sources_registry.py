"""The registry of sources: what a recipe may name is there, and is opened with the keys of its kind."""

import inspect
from importlib import import_module

import pytest

from dive.data.sources.registry import SOURCES, open_source
from dive.recipe.recipe import KINDS


def test_every_kind_of_data_that_a_recipe_may_name_is_a_source():
    assert set(KINDS["data"]) == set(SOURCES)


@pytest.mark.parametrize("kind", list(SOURCES))
def test_a_source_is_opened_with_the_keys_that_say_where_its_pictures_are(kind):
    module, _, name = SOURCES[kind].partition(":")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters
    needed = {key for key, one in parameters.items() if one.default is inspect.Parameter.empty}
    place = KINDS["data"][kind]().place()
    assert needed <= set(place) <= set(parameters)


def test_the_pictures_of_a_source_have_the_channels_that_its_kind_says(cifar_forms):
    roots = {"digits": {}, "folder": {"root": cifar_forms.folder}, "cifar100": {"root": cifar_forms.official}}
    for kind, place in roots.items():
        source = open_source(kind, **place)
        assert source.train.read(0).shape[2] == KINDS["data"][kind].channels
