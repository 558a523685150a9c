"""Model versions in a real MLflow store."""

from __future__ import annotations

import dataclasses

import pytest

from llmops.errors import UnknownVersion
from llmops.registry import Registry


@pytest.mark.parametrize("form", ["gguf", "hf", "openai"])
def test_a_model_comes_back_as_it_was_registered(registry, name, model, settings, form):
    given = model(name + form, format=form)
    registered, is_new = registry.models.register(given)
    read = Registry(settings).models.get(f"{name}{form}@1")
    assert is_new
    assert read == registered
    assert read.model_id
    assert dataclasses.replace(read, version=0, model_id="") == given


def test_the_same_weights_are_the_same_version_wherever_they_come_from(registry, name, model):
    first, _ = registry.models.register(model(name))
    again, is_new = registry.models.register(dataclasses.replace(model(name), source="file:/elsewhere"))
    assert (again, is_new) == (first, False)


def test_other_weights_or_another_format_are_a_new_version(registry, name, model):
    registry.models.register(model(name))
    assert registry.models.register(model(name, "b" * 64))[0].version == 2
    assert registry.models.register(model(name, "b" * 64, "openai"))[0].version == 3


def test_get_by_version_by_alias_and_the_newest(registry, name, model):
    for letter in "abc":
        registry.models.register(model(name, letter * 64))
    registry.store.client.set_registered_model_alias(name, "small", "2")
    assert registry.models.get(f"{name}@1").sha256 == "a" * 64
    assert registry.models.get(f"{name}@small").version == 2
    assert registry.models.get(f"{name}@small").aliases == ("small",)
    assert registry.models.get(name).version == 3


def test_an_unknown_version_names_those_there_are(registry, name, model):
    registry.models.register(model(name))
    for selector in ("2", "small"):
        with pytest.raises(UnknownVersion, match=rf"no model version {name}@{selector}; there are {name}@1"):
            registry.models.get(f"{name}@{selector}")


def test_an_unknown_model_says_how_to_get_one(registry, name):
    assert registry.models.versions(name) == []
    with pytest.raises(UnknownVersion, match="llmops models pull"):
        registry.models.get(name)


def test_lists_hold_models_and_no_apps(registry, name, model, releases):
    releases(1)
    registry.models.register(model(f"{name}-model"))
    names = {version.name for version in registry.model_versions()}
    assert f"{name}-model" in names
    assert name not in names
    assert name in registry.apps()
    assert f"{name}-model" not in registry.apps()
