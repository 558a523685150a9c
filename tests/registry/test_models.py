"""Prompt and model versions in a real MLflow store."""

import dataclasses

import pytest

from llmops.errors import UnknownVersion, UsageError
from llmops.prompt_file import parse_prompt
from llmops.registry import Registry
from tests.registry.conftest import model, template


@pytest.mark.parametrize("form", ["gguf", "hf", "openai"])
def test_a_model_comes_back_as_it_was_registered(registry, name, settings, form):
    given = model(name + form, format=form)
    registered, is_new = registry.models.register(given)
    read = Registry(settings).models.get(f"{name}{form}@1")
    assert is_new
    assert read == registered
    assert read.model_id
    assert dataclasses.replace(read, version=0, model_id="") == given
    assert read in registry.model_versions()
    assert read.name not in registry.release_versions.names()


def test_weights_are_a_version_once_wherever_they_come_from(registry, name):
    first, _ = registry.models.register(model(name))
    assert registry.models.register(dataclasses.replace(model(name), source="file:/elsewhere")) == (first, False)
    assert registry.models.register(model(name, "b" * 64))[0].version == 2
    assert registry.models.register(model(name, "b" * 64, "openai"))[0].version == 3


def test_a_model_is_got_by_version_by_alias_or_as_the_newest(registry, name):
    assert registry.models.versions(name) == []
    with pytest.raises(UnknownVersion, match="llmops models pull"):
        registry.models.get(name)
    for letter in "abc":
        registry.models.register(model(name, letter * 64))
    registry.store.client.set_registered_model_alias(name, "small", "2")
    assert registry.models.get(f"{name}@1").sha256 == "a" * 64
    small = registry.models.get(f"{name}@small")
    assert (small.version, small.aliases, registry.models.get(name).version) == (2, ("small",), 3)
    for selector in ("4", "big"):
        with pytest.raises(UnknownVersion, match=rf"no model version {name}@{selector}; there are {name}@1, {name}@2"):
            registry.models.get(f"{name}@{selector}")


def test_a_template_comes_back_as_it_was_registered(registry, name, settings):
    template = parse_prompt(
        "---\ndescription: Ünïcode.\ninput_variable: question\n"
        "parameters: {max_tokens: 9, temperature: 0.5, top_p: 0.9, stop: ['\\n'], seed: 4}\n"
        "response_format: {type: json_object}\n---\n"
        '# system\nBe terse; {{ tone }}.\n\n# user\nHi\n\n# assistant\n{"a": 1}\n\n# user\n{{ question }} “?”\n'
    )
    registry.prompts.register(name, template)
    read = Registry(settings).prompts.get(f"{name}@1")
    assert read.template == template
    assert read.template.content_hash == template.content_hash
    assert (read.ref, read.uri) == (f"{name}@1", f"prompts:/{name}/1")


def test_a_template_is_a_version_once_whatever_its_description(registry, name):
    texts = [
        template("One."),
        template("One.", description="Told otherwise."),
        template("Two."),
        template("One.", parameters="{max_tokens: 17}"),
        template("One."),
    ]
    registered = [registry.prompts.register(name, item) for item in texts]
    found = [(item.version, is_new) for item, is_new in registered]
    assert found == [(1, True), (1, False), (2, True), (3, True), (1, False)]
    assert [item.version for item in registry.prompts.versions(name)] == [1, 2, 3]


def test_a_prompt_is_got_by_version_by_alias_or_as_the_newest(registry, name):
    assert registry.prompts.versions(name) == []
    with pytest.raises(UnknownVersion, match="llmops prompts register"):
        registry.prompts.get(name)
    for text in ("One.", "Two.", "Three."):
        registry.prompts.register(name, template(text))
    registry.prompts.register(f"{name}-other", template("One."))
    registry.store.client.set_prompt_alias(name, "production", 2)
    assert registry.prompts.get(f"{name}@1").template == template("One.")
    served = registry.prompts.get(f"{name}@production")
    assert (served.version, served.aliases, registry.prompts.get(name).version) == (2, ("production",), 3)
    for selector in ("4", "challenger", "0"):
        with pytest.raises(UnknownVersion, match=rf"no prompt version {name}@{selector}; there are {name}@1, {name}@2"):
            registry.prompts.get(f"{name}@{selector}")
    refs = [item.ref for item in registry.prompts.list_versions()]
    assert {f"{name}@1", f"{name}@2", f"{name}-other@1"} <= set(refs)
    assert len(refs) == len(set(refs))


def test_a_prompt_of_another_tool_is_left_out_and_a_malformed_ref_refused(registry, name):
    for ref in ("", "@1", "a@", "a b", "a@1@2", "a/1"):
        with pytest.raises(UsageError):
            registry.prompts.get(ref)
    registry.store.client.register_prompt(name=name, template="Hello {{ you }}")
    assert registry.prompts.versions(name) == []
    with pytest.raises(UnknownVersion, match="not registered by llmops"):
        registry.prompts.version(f"{name}@1")


def test_show_in_experiment_adds_each_experiment_once(registry, name):
    registry.prompts.register(name, template())
    for experiment_id in ("71", "72", "71"):
        registry.prompts.show_in_experiment(name, experiment_id)
    ids = registry.store.client.get_prompt(name).tags["_mlflow_experiment_ids"].strip(",").split(",")
    assert ids.count("71") == ids.count("72") == 1
