"""Prompt versions in a real MLflow store."""

from __future__ import annotations

import pytest

from llmops.errors import UnknownVersion, UsageError
from llmops.prompt_file import parse_prompt
from llmops.registry import Registry


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


def test_the_same_content_is_the_same_version(registry, name, template):
    first, first_is_new = registry.prompts.register(name, template())
    second, second_is_new = registry.prompts.register(name, template(description="Told otherwise."))
    assert (first.version, first_is_new) == (1, True)
    assert (second.version, second_is_new) == (1, False)
    assert [item.version for item in registry.prompts.versions(name)] == [1]


def test_changed_content_is_a_new_version_and_old_content_its_old_one(registry, name, template):
    texts = [template("One."), template("Two."), template("One.", parameters="{max_tokens: 17}"), template("One.")]
    registered = [registry.prompts.register(name, item) for item in texts]
    assert [(item.version, is_new) for item, is_new in registered] == [(1, True), (2, True), (3, True), (1, False)]
    assert [item.version for item in registry.prompts.versions(name)] == [1, 2, 3]


def test_get_by_version_by_alias_and_the_newest(registry, name, template):
    for text in ("One.", "Two.", "Three."):
        registry.prompts.register(name, template(text))
    registry.store.client.set_prompt_alias(name, "production", 2)
    assert registry.prompts.get(f"{name}@1").template == template("One.")
    assert registry.prompts.get(f"{name}@production").version == 2
    assert registry.prompts.get(f"{name}@production").aliases == ("production",)
    assert registry.prompts.get(name).version == 3


def test_an_unknown_version_or_alias_names_those_there_are(registry, name, template):
    registry.prompts.register(name, template("One."))
    registry.prompts.register(name, template("Two."))
    for selector in ("3", "production", "0"):
        with pytest.raises(UnknownVersion, match=rf"no prompt version {name}@{selector}; there are {name}@1, {name}@2"):
            registry.prompts.get(f"{name}@{selector}")


def test_an_unknown_prompt_says_how_to_register(registry, name):
    assert registry.prompts.versions(name) == []
    with pytest.raises(UnknownVersion, match="llmops prompts register"):
        registry.prompts.get(name)


@pytest.mark.parametrize("ref", ["", "@1", "a@", "a b", "a@1@2", "a/1"])
def test_a_malformed_ref_is_a_usage_error(registry, ref):
    with pytest.raises(UsageError):
        registry.prompts.get(ref)


def test_list_versions_holds_every_version_of_every_prompt(registry, name, template):
    registry.prompts.register(name, template("One."))
    registry.prompts.register(name, template("Two."))
    registry.prompts.register(f"{name}-other", template("One."))
    refs = [item.ref for item in registry.prompts.list_versions()]
    assert {f"{name}@1", f"{name}@2", f"{name}-other@1"} <= set(refs)
    assert len(refs) == len(set(refs))


def test_a_prompt_of_another_tool_is_left_out(registry, name):
    registry.store.client.register_prompt(name=name, template="Hello {{ you }}")
    assert registry.prompts.versions(name) == []
    with pytest.raises(UnknownVersion, match="not registered by llmops"):
        registry.prompts.version(f"{name}@1")


def test_show_in_experiment_adds_each_experiment_once(registry, name, template):
    registry.prompts.register(name, template())
    for experiment_id in ("71", "72", "71"):
        registry.prompts.show_in_experiment(name, experiment_id)
    ids = registry.store.client.get_prompt(name).tags["_mlflow_experiment_ids"].strip(",").split(",")
    assert ids.count("71") == ids.count("72") == 1
