import dataclasses
import os
from pathlib import Path

import pytest

import llmops
from llmops.errors import CannotRun, UsageError
from llmops.settings import PREFIX, Settings, data_folder, describe, describe_folder, with_samples


def test_without_variables_of_ours_the_defaults_hold_and_without_an_argument_the_process_environment(monkeypatch):
    defaults = dataclasses.replace(Settings(), home=Path(".llmops").resolve())
    assert Settings.from_environment({}) == defaults
    assert Settings.from_environment({"PATH": "/bin", "llmops_home": "/x", "XLLMOPS_HOME": "/y"}) == defaults
    for variable in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("LLMOPS_MAX_WAITING", "9")
    assert Settings.from_environment() == dataclasses.replace(defaults, max_waiting=9)


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
        ("LLMOPS_OTEL_SAMPLE", "0.25", "otel_sample", 0.25),
        ("LLMOPS_TRACE_SAMPLE", "0.25", "trace_sample", 0.25),
        ("LLMOPS_JUDGE", "openai:http://127.0.0.1:8001/v1#m", "judge", "openai:http://127.0.0.1:8001/v1#m"),
        ("LLMOPS_JUDGE", "https://api.example/v1#org/m", "judge", "https://api.example/v1#org/m"),
    ],
)
def test_a_variable_sets_its_field_and_no_other(variable, text, name, value):
    settings = Settings.from_environment({variable: text})
    assert settings == dataclasses.replace(Settings.from_environment({}), **{name: value})


FEW_WORDS = {
    "engine_prompt_cache": ("no", "slots", "template"),
    "engine_weights": ("wide", "stored"),
    "upstream_stream": ("auto", "always"),
    "log_failure": ("refuse", "serve"),
    "server_log": ("auto", "json", "text"),
}


def test_every_setting_can_be_given_by_its_variable_and_one_of_few_words_takes_no_other():
    for name, words in FEW_WORDS.items():
        variable = PREFIX + name.upper()
        assert [getattr(Settings.from_environment({variable: word}), name) for word in words] == list(words)
        with pytest.raises(UsageError, match=f"must be {', '.join(words[:-1])} or {words[-1]}$"):
            Settings.from_environment({variable: "7"})
    # "7" parses as a number, a path and a text alike.
    for variable, _, _ in describe():
        name = variable.removeprefix(PREFIX).lower()
        if name in (*FEW_WORDS, "judge") or "sample" in name:
            continue  # they take few words, a share, or a judge's form: tested apart
        value = getattr(Settings.from_environment({variable: "7"}), name)
        assert value in (7, "7", Path("7"), Path("7").resolve()), variable


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("TRACKING_URL", "x", "^unknown setting LLMOPS_TRACKING_URL; did you mean LLMOPS_TRACKING_URI\\?$"),
        ("ENGINE_SLOT", "x", "^unknown setting LLMOPS_ENGINE_SLOT; did you mean LLMOPS_ENGINE_SLOTS\\?$"),
        ("LOG", "x", "^unknown setting LLMOPS_LOG; did you mean LLMOPS_LOG_URL\\?$"),
        ("HOMES", "x", "^unknown setting LLMOPS_HOMES; did you mean LLMOPS_HOME\\?$"),
        ("ZZZ", "x", "did you mean LLMOPS_[A-Z]"),
        ("ENGINE_SLOTS", "many", "^LLMOPS_ENGINE_SLOTS='many': must be a whole number"),
        ("ENGINE_SLOTS", "0", "^LLMOPS_ENGINE_SLOTS='0': must be 1 or more"),
        ("ENGINE_SLOTS", "1.5", "^LLMOPS_ENGINE_SLOTS='1.5': "),
        ("ENGINE_SLOTS", "", "^LLMOPS_ENGINE_SLOTS='': "),
        ("HOME", "", "^LLMOPS_HOME='': must name a folder"),
        ("MAX_BODY_BYTES", "-1", "^LLMOPS_MAX_BODY_BYTES='-1': "),
        ("ENGINE_TIMEOUT", "0", "^LLMOPS_ENGINE_TIMEOUT='0': "),
        ("ENGINE_TIMEOUT", "nan", "^LLMOPS_ENGINE_TIMEOUT='nan': "),
        ("DRAIN_SECONDS", "inf", "^LLMOPS_DRAIN_SECONDS='inf': "),
        ("REGISTRY_POLL", "soon", "^LLMOPS_REGISTRY_POLL='soon': "),
        *((name, text, name) for name in ("OTEL_SAMPLE", "TRACE_SAMPLE") for text in ("-0.1", "1.1", "nan", "half")),
        *(
            ("JUDGE", text, "^LLMOPS_JUDGE=.*must be openai:URL#MODEL")
            for text in ("http://x", "openai:http://x", "openai:x#m", "gpt-4", "openai:http://x#")
        ),
    ],
)
def test_what_is_no_setting_or_no_value_of_one_is_named(variable, text, problem):
    with pytest.raises(UsageError, match=problem):
        Settings.from_environment({PREFIX + variable: text})


def test_a_relative_home_is_fixed_when_read(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_environment({"LLMOPS_HOME": "state"})
    monkeypatch.chdir("/")
    assert settings.models_dir == tmp_path / "state" / "models"


def test_state_lies_in_the_home_but_for_explicit_stores():
    def places(**given: str) -> tuple[str, ...]:
        settings = Settings(home=Path("/state"), **given)
        folders = (settings.models_dir, settings.generation_cache_dir, settings.reports_dir)
        assert folders == tuple(Path("/state") / name for name in ("models", "generation_cache", "reports"))
        return settings.resolved_tracking_uri, settings.resolved_log_url, settings.artifact_root

    assert places() == ("sqlite:////state/mlflow.db", "sqlite:////state/log.db", "/state/artifacts")
    elsewhere = {"tracking_uri": "http://mlflow", "log_url": "sqlite://", "artifacts": "s3://b"}
    assert places(**elsewhere) == tuple(elsewhere.values())


def test_describe_names_every_field_with_default_and_meaning():
    rows = {variable: (default, meaning) for variable, default, meaning in describe()}
    assert list(rows) == [PREFIX + field.name.upper() for field in dataclasses.fields(Settings)]
    assert all(meaning for _, meaning in rows.values())
    assert (rows["LLMOPS_ENGINE_CONTEXT"][0], rows["LLMOPS_ENGINE"][0]) == ("2048", "")
    assert rows["LLMOPS_ENGINE_THREADS"][0] == ""
    assert "idle" in rows["LLMOPS_ENGINE_THREADS"][1]


each_kind = pytest.mark.parametrize(("name", "other"), [("prompts", "eval_sets"), ("eval_sets", "prompts")])


@each_kind
def test_an_explicit_folder_goes_before_the_working_folders_and_the_samples_and_must_be_there(
    name, other, tmp_path, monkeypatch
):
    explicit = tmp_path / "explicit" / name
    explicit.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    settings = Settings(**{name: explicit})
    assert data_folder(settings, name) == data_folder(with_samples(settings), name) == explicit
    (tmp_path / name).mkdir()
    assert data_folder(settings, name) == data_folder(with_samples(settings), name) == explicit
    (tmp_path / "file").touch()
    for none in ("none", "file"):
        with pytest.raises(CannotRun, match=f"^LLMOPS_{name.upper()}={tmp_path}/{none}: no such folder$"):
            data_folder(Settings(**{name: tmp_path / none}), name)


@each_kind
def test_a_working_folder_uses_its_own_or_else_the_samples_which_never_fill_up_a_project(
    name, other, tmp_path, monkeypatch
):
    samples = Path(llmops.__file__).parents[1] / name
    monkeypatch.chdir(tmp_path)
    assert data_folder(Settings(), name) == samples
    assert "llmops' own samples" in describe_folder(samples)
    assert str(tmp_path / name) in describe_folder(samples)
    (tmp_path / other).mkdir()
    with pytest.raises(CannotRun, match=f"has {other}/ but no {name}/: make it, or set LLMOPS_{name.upper()}$"):
        data_folder(Settings(), name)
    (tmp_path / name).mkdir()
    assert data_folder(Settings(), name) == tmp_path / name
    assert describe_folder(tmp_path / name) == f"{name}: {tmp_path / name}"
    assert data_folder(with_samples(Settings()), name) == samples


@each_kind
def test_an_installed_package_uses_the_copy_inside_it_and_none_beside_it(name, other, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "site-packages" / "llmops"
    monkeypatch.setattr("llmops.settings._SAMPLES", (package / "_data", package.parent))
    with pytest.raises(CannotRun, match=f"set LLMOPS_{name.upper()}$"):
        data_folder(Settings(), name)
    (package / "_data" / name).mkdir(parents=True)
    (package.parent / name).mkdir()  # another package's
    assert data_folder(Settings(), name) == package / "_data" / name
