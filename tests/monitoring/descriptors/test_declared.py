import json

import pytest

from llmops.errors import BadFile
from llmops.settings import Settings
from monitoring.descriptors import DescriptorSet
from monitoring.descriptors.descriptor_set import KINDS
from monitoring.descriptors.model import TEXTS
from tests.monitoring.described import default_descriptors


def one(**table):
    declared = DescriptorSet.from_config([{"name": "d", **table}], file="monitor.toml")
    return declared.descriptors["d"]


def problem_of(*tables, settings=None, file="monitor.toml"):
    with pytest.raises(BadFile) as caught:
        DescriptorSet.from_config(list(tables), settings, file=file)
    return str(caught.value)


def test_today_names_and_what_they_mean_are_kept():
    descriptors = default_descriptors().descriptors
    for side in TEXTS:
        for name in ("length", "words", "sentences", "non_letter", "sentiment"):
            assert (descriptors[f"{side}.{name}"].kind, descriptors[f"{side}.{name}"].side) == ("numeric", side)
        assert descriptors[f"{side}.language"].kind == "label"
        assert not descriptors[f"{side}.link"].harmful
        for sort in ("email", "phone", "card", "iban", "ssn", "ip"):
            assert descriptors[f"{side}.pii_{sort}"].harmful
    assert {name for name, each in descriptors.items() if each.side == "service"} == {
        "tokens_in", "latency_ms", "first_token_ms", "error"
    }  # fmt: skip
    assert descriptors["tokens_out"].side == "output"
    assert all(descriptors[name].harmful for name in ("output.refusal", "output.empty", "output.profanity", "error"))
    assert (descriptors["latency_ms"].unit, descriptors["output.non_letter"].unit) == ("ms", "%")


BEGINS = {"kind": "begins", "of": "output", "texts": ["I"]}
REPETITION = {"kind": "repetition", "of": "output"}


@pytest.mark.parametrize(
    ("table", "change", "same"),
    [
        (BEGINS, {"unit": "x", "harmful": True}, True),
        (REPETITION, {"n": 4}, True),  # the default
        *((BEGINS, {key: value}, False) for key, value in (
            ("texts", ["You"]), ("case_sensitive", False), ("of", "input"), ("sampled", 0.5), ("kind", "ends")
        )),
    ],
)  # fmt: skip
def test_versions_are_of_what_decides_the_values_and_not_of_name_unit_or_defaults(table, change, same):
    before, after = one(**table).version, one(**{**table, **change}).version
    assert (len(before), int(before, 16) >= 0) == (16, True)
    assert (before == after) == same


def test_the_content_of_a_word_list_is_part_of_the_version(tmp_path):
    def version(words):
        (tmp_path / "words.txt").write_text(words)
        tables = [{"name": "d", "kind": "oov", "of": "output", "words": "words.txt"}]
        return DescriptorSet.from_config(tables, file=tmp_path / "monitor.toml").version

    assert version("a\nb\n") == version("b\na\n") != version("a\nc\n")


def test_the_sets_version_changes_with_any_descriptor():
    tables = [{"name": "a", "kind": "length", "of": "input"}, {"name": "b", "kind": "words", "of": "input"}]
    first, again, fewer = (DescriptorSet.from_config(given).version for given in (tables, tables, tables[:1]))
    assert first == again != fewer


def test_a_declaration_of_several_texts_or_sorts_gives_a_descriptor_for_each_and_none_twice():
    tables = [{"name": "{of}.private", "kind": "pii", "of": ["input", "output"], "sorts": ["email", "ip"]}]
    assert list(DescriptorSet.from_config(tables).descriptors) == [
        "input.private_email", "input.private_ip", "output.private_email", "output.private_ip"
    ]  # fmt: skip
    assert "declared twice" in problem_of(*tables, *tables)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"kind": "lenght", "of": "input"}, "descriptor 'd': kind: must be"),
        ({"kind": "length"}, "descriptor 'd': of: is missing"),
        ({"kind": "length", "of": "answer"}, "of: length reads input or output, not 'answer'"),
        ({"kind": "length", "of": ["input", "output"]}, "name: must hold {of}"),
        ({"kind": "length", "of": "input", "n": 3}, "n: unknown key; did you mean"),
        ({"kind": "length", "of": "input", "harmful": True}, "harmful: goes with flags"),
        ({"kind": "length", "of": "input", "sampled": 2}, "sampled: must be a number from 0 to 1"),
        ({"kind": "length", "of": "input", "side": "outptu"}, "did you mean output?"),
        ({"kind": "pii", "of": "input", "sorts": ["mail"]}, "sorts: there is no 'mail'; did you mean email?"),
        ({"kind": "pii", "of": "input", "sort": "email"}, "sort: unknown key; did you mean sorts?"),
        ({"kind": "regex", "of": "input"}, "pattern: is missing"),
        ({"kind": "regex", "of": "input", "pattern": "("}, "pattern: is no regular expression"),
        ({"kind": "regex", "of": "input", "pattern": "a", "timeout": 0}, "timeout: must be a number from"),
        ({"kind": "contains", "of": "input", "items": ["a"], "mode": "some"}, "mode: must be any or all"),
        ({"kind": "json_schema", "of": "input", "schema": {"type": "objekt"}}, "schema.type: not a valid JSON schema"),
        (
            {"kind": "json_schema", "of": "input", "schema": {"$ref": "http://127.0.0.1:9/schema.json"}},
            "not a valid JSON schema",
        ),
        ({"kind": "oov", "of": "input", "words": "absent.txt"}, "words: there is no file"),
        ({"kind": "oov", "of": "input", "words_package": "absent:words.txt"}, "words_package: there is no"),
        ({"kind": "oov", "of": "input", "words_package": "llmops:../setup.py"}, "words_package: there is no"),
        ({"kind": "trigger_words", "of": "input", "words": ["a"], "lemmatise": True, "wordnet": "x"}, "wordnet:"),
        ({"kind": "python", "of": "input", "function": "no.such:f", "returns": "flag", "revision": 1}, "function:"),
        ({"kind": "python", "of": "input", "function": "json:nope", "returns": "flag", "revision": 1}, "function:"),
        ({"kind": "python", "of": "input", "function": "json:dumps", "returns": "flag"}, "revision: is missing"),
        ({"kind": "evidently", "of": "input", "class": "HuggingFaceToxicity", "returns": "numeric"}, "downloads"),
        ({"kind": "evidently", "of": "input", "class": "ToxicityLLMEval", "returns": "label"}, "use the kind judge"),
        ({"kind": "evidently", "of": "input", "class": "SemanticSimilarity", "returns": "numeric"}, "similarity"),
        ({"kind": "judge", "instructions": "Is it polite?"}, "give base_url and model"),
        ({"kind": "judge", "endpoint": {"base_url": "http://x/v1", "model": "m"}}, "instructions: is missing"),
    ],
)
def test_a_wrong_declaration_names_file_descriptor_and_key(table, problem):
    found = problem_of({"name": "d", **table})
    assert found.startswith("monitor.toml: descriptor 'd': ")
    assert problem in found


def test_a_schema_may_stand_in_a_file_of_its_own(tmp_path):
    (tmp_path / "answer.json").write_text(json.dumps({"type": "array"}))
    table = {"name": "d", "kind": "json_schema", "of": "output", "schema_file": "answer.json"}
    inline = one(kind="json_schema", of="output", schema={"type": "array"})
    filed = DescriptorSet.from_config([table], file=tmp_path / "monitor.toml").descriptors["d"]
    assert filed.kind == inline.kind == "flag"
    (tmp_path / "answer.json").write_text("[1")
    assert "not JSON" in problem_of(table, file=tmp_path / "monitor.toml")


def test_a_word_list_may_lie_in_a_package_and_a_judge_in_the_settings():
    words = {"name": "words", "kind": "oov", "of": "output", "words_package": "vaderSentiment:vader_lexicon.txt"}
    judge = {"name": "judge", "kind": "judge", "instructions": "Is it polite?"}
    settings = Settings(judge="openai:http://127.0.0.1:9/v1#small")
    made = DescriptorSet.from_config([words, judge], settings).descriptors
    assert [each.kind for each in made.values()] == ["numeric", "flag"]


def test_every_kind_says_what_it_reads():
    assert all(set(kind.of) <= {"input", "output", "pair", "record"} and kind.of for kind in KINDS.values())
