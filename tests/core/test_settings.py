from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from llmops.errors import UsageError
from llmops.settings import PREFIX, Settings, describe


def test_an_empty_environment_gives_the_defaults():
    settings = Settings.from_environment({})
    assert settings == dataclasses.replace(Settings(), home=Path(".llmops").resolve())


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("LLMOPS_TRACKING_URI", "postgresql://db/mlflow", "tracking_uri", "postgresql://db/mlflow"),
        ("LLMOPS_LOG_URL", "postgresql://db/log", "log_url", "postgresql://db/log"),
        ("LLMOPS_ARTIFACTS", "s3://bucket/a", "artifacts", "s3://bucket/a"),
        ("LLMOPS_PROMPTS", "/p", "prompts", Path("/p")),
        ("LLMOPS_EVAL_SETS", "/e", "eval_sets", Path("/e")),
        ("LLMOPS_ENGINE", "fake", "engine", "fake"),
        ("LLMOPS_ENGINE_SLOTS", "3", "engine_slots", 3),
        ("LLMOPS_ENGINE_TIMEOUT", "0.5", "engine_timeout", 0.5),
        ("LLMOPS_HOME", "~/state", "home", Path.home() / "state"),
        ("LLMOPS_REGISTRY_POLL", "2", "registry_poll", 2.0),
    ],
)
def test_a_variable_sets_its_field_and_no_other(variable, text, name, value):
    settings = Settings.from_environment({variable: text})
    assert settings == dataclasses.replace(Settings.from_environment({}), **{name: value})


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("ENGINE_PROMPT_CACHE", ("no", "slots", "template")),
        ("ENGINE_WEIGHTS", ("wide", "stored")),
        ("UPSTREAM_STREAM", ("auto", "always")),
        ("LOG_FAILURE", ("refuse", "serve")),
        ("SERVER_LOG", ("auto", "json", "text")),
    ],
)
def test_a_setting_of_few_words_takes_no_other(variable, words):
    for word in words:
        assert getattr(Settings.from_environment({PREFIX + variable: word}), variable.lower()) == word
    with pytest.raises(UsageError, match=f"must be {', '.join(words[:-1])} or {words[-1]}$"):
        Settings.from_environment({PREFIX + variable: "7"})


FEW_WORDS = ("engine_prompt_cache", "engine_weights", "upstream_stream", "log_failure", "server_log")


@pytest.mark.parametrize("variable", ["OTEL_SAMPLE", "TRACE_SAMPLE"])
def test_a_share_lies_between_none_and_all(variable):
    assert getattr(Settings.from_environment({PREFIX + variable: "0.25"}), variable.lower()) == 0.25
    for wrong in ("-0.1", "1.1", "nan", "half"):
        with pytest.raises(UsageError, match=variable):
            Settings.from_environment({PREFIX + variable: wrong})


def test_every_setting_can_be_given_by_its_variable():
    # "7" parses as a number, a path and a text alike.
    for variable, _, _ in describe():
        name = variable.removeprefix(PREFIX).lower()
        if name in (*FEW_WORDS, "judge") or "sample" in name:
            continue  # they take few words, a share, or a judge's form: tested apart
        value = getattr(Settings.from_environment({variable: "7"}), name)
        assert value in (7, "7", Path("7"), Path("7").resolve()), variable


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("LLMOPS_TRACKING_URL", "LLMOPS_TRACKING_URI"),
        ("LLMOPS_ENGINE_SLOT", "LLMOPS_ENGINE_SLOTS"),
        ("LLMOPS_LOG", "LLMOPS_LOG_URL"),
        ("LLMOPS_HOMES", "LLMOPS_HOME"),
    ],
)
def test_an_unknown_variable_names_the_nearest_setting(variable, nearest):
    with pytest.raises(UsageError) as caught:
        Settings.from_environment({variable: "x"})
    assert str(caught.value) == f"unknown setting {variable}; did you mean {nearest}?"


def test_a_variable_like_no_setting_still_names_one():
    with pytest.raises(UsageError, match=r"did you mean LLMOPS_[A-Z]"):
        Settings.from_environment({"LLMOPS_ZZZ": "x"})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("LLMOPS_ENGINE_SLOTS", "many"),
        ("LLMOPS_ENGINE_SLOTS", "0"),
        ("LLMOPS_ENGINE_SLOTS", "1.5"),
        ("LLMOPS_ENGINE_SLOTS", ""),
        ("LLMOPS_HOME", ""),
        ("LLMOPS_MAX_BODY_BYTES", "-1"),
        ("LLMOPS_ENGINE_TIMEOUT", "0"),
        ("LLMOPS_ENGINE_TIMEOUT", "nan"),
        ("LLMOPS_DRAIN_SECONDS", "inf"),
        ("LLMOPS_REGISTRY_POLL", "soon"),
    ],
)
def test_a_value_that_does_not_parse_names_variable_and_value(variable, text):
    with pytest.raises(UsageError) as caught:
        Settings.from_environment({variable: text})
    assert str(caught.value).startswith(f"{variable}={text!r}: ")


def test_other_variables_are_left_alone():
    assert Settings.from_environment({"PATH": "/bin", "llmops_home": "/x", "XLLMOPS_HOME": "/y"}) == (
        Settings.from_environment({})
    )


def test_without_an_argument_the_process_environment_is_read(monkeypatch):
    for variable in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("LLMOPS_MAX_WAITING", "9")
    assert Settings.from_environment().max_waiting == 9


def test_a_home_with_a_tilde_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings.from_environment({"LLMOPS_HOME": "~/state"}).home == tmp_path / "state"


def test_a_relative_home_is_fixed_when_read(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_environment({"LLMOPS_HOME": "state"})
    monkeypatch.chdir("/")
    assert settings.models_dir == tmp_path / "state" / "models"


def test_all_state_lies_in_the_home_by_default():
    settings = Settings(home=Path("/state"))
    assert settings.resolved_tracking_uri == "sqlite:////state/mlflow.db"
    assert settings.resolved_log_url == "sqlite:////state/log.db"
    assert settings.artifact_root == "/state/artifacts"
    assert settings.models_dir == Path("/state/models")
    assert settings.generation_cache_dir == Path("/state/generation_cache")
    assert settings.reports_dir == Path("/state/reports")


def test_explicit_stores_win_over_the_home():
    settings = Settings(home=Path("/state"), tracking_uri="http://mlflow", log_url="sqlite://", artifacts="s3://b")
    assert settings.resolved_tracking_uri == "http://mlflow"
    assert settings.resolved_log_url == "sqlite://"
    assert settings.artifact_root == "s3://b"


def test_describe_names_every_field_with_default_and_meaning():
    rows = {variable: (default, meaning) for variable, default, meaning in describe()}
    assert list(rows) == [PREFIX + field.name.upper() for field in dataclasses.fields(Settings)]
    assert all(meaning for _, meaning in rows.values())
    assert rows["LLMOPS_ENGINE_CONTEXT"][0] == "2048"
    assert rows["LLMOPS_ENGINE"][0] == ""
    default, meaning = rows["LLMOPS_ENGINE_THREADS"]
    assert default == ""
    assert "idle" in meaning


@pytest.mark.parametrize("text", ["http://x", "openai:http://x", "openai:x#m", "gpt-4", "openai:http://x#"])
def test_a_judge_of_another_form_is_refused_with_the_form(text):
    with pytest.raises(UsageError, match=r"^LLMOPS_JUDGE=.*must be openai:URL#MODEL"):
        Settings.from_environment({"LLMOPS_JUDGE": text})


@pytest.mark.parametrize("text", ["openai:http://127.0.0.1:8001/v1#m", "https://api.example/v1#org/m"])
def test_a_judge_is_an_address_and_a_model(text):
    assert Settings.from_environment({"LLMOPS_JUDGE": text}).judge == text
