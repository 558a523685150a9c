"""Fact sheets of what a real registry holds: fake engine, real MLflow store and audit log."""

import json
import sqlite3
from dataclasses import replace

import pytest

from llmops.audit import AuditLog
from llmops.errors import UnknownVersion
from llmops.factsheet.collecting import make_factsheet, sheet_of
from llmops.factsheet.rendering import html, markdown
from llmops.generation import GenerationParameters
from llmops.recording import UsedData, record_monitoring_run, record_training, record_verdict
from llmops.recording.monitoring import monitoring_experiment, record_action
from llmops.recording.tabular import evaluate_tabular
from llmops.registry import Registry
from tests.tabular.fitted import REGRESSION, fitted, frame, target

APP = "helper"


@pytest.fixture(scope="module")
def story(workshop):
    """Two releases: the first passed its gate, the second was forced, monitored, and rolled back."""
    registry = workshop.registry
    book, model = registry.release_versions, registry.models.get("tiny@1")
    for prompt in ("qa@1", "qa@2"):
        version = registry.prompts.get(prompt)
        book.create(APP, version, model, version.template.parameters, {"redact_log": True})
    workshop.run(releases=[f"{APP}@1"])
    workshop.run(releases=[f"{APP}@1"], limit=5)
    workshop.evaluations.gate(f"{APP}@1", None, "sums")
    book.promote(book.get(f"{APP}@1"))
    workshop.run(releases=[f"{APP}@2"])
    workshop.evaluations.gate(f"{APP}@2", f"{APP}@1", "sums")
    book.promote(book.get(f"{APP}@2"), why="hot fix <b>now</b>")
    places = (("output.refusal", "release", f"{APP}@2"), ("requests", "app", APP), ("words", "release", f"{APP}@1"))
    alarms = [
        {"what": what, "why": "changed", "rows": ["r1"], "slices": [{kind: value}], "severity": "low"}
        for what, kind, value in places
    ]
    for day, found in ((1, []), (2, alarms)):
        slices = [{"slice": {"app": APP}}, {"slice": {"release": f"{APP}@1"}}, {"slice": {"release": f"{APP}@2"}}]
        window = {"since": f"2026-05-0{day}T00:00:00+00:00", "until": f"2026-05-0{day + 1}T00:00:00+00:00", "rows": 90}
        verdict = {"app": APP, "window": window, "slices": slices, "alarms": found}
        numbers = {"rows": 90.0, "expected_false_alarms_per_month": 0.1}
        record_monitoring_run(registry.store, APP, verdict, numbers)
    action = {"app": APP, "action": "rollback", "release": f"{APP}@2", "dry_run": False, "why": "refusals rose",
              "outcome": {"champion": f"{APP}@1"}}  # fmt: skip
    record_action(registry.store, monitoring_experiment(APP), "key", action, {})
    book.roll_back(APP)
    return workshop


@pytest.fixture(scope="module")
def first(story):
    return make_factsheet(story.registry, f"{APP}@1")


@pytest.fixture(scope="module")
def second(story):
    return make_factsheet(story.registry, f"{APP}@2")


def test_it_says_what_the_release_is_made_of_in_every_format(story, second):
    template = story.registry.prompts.get("qa@2").template
    assert second.prompt is not None
    assert second.model is not None
    assert (second.prompt.sha256, second.prompt.turns[0]) == (template.content_hash, ("system", "Be kind."))
    assert (second.model.ref, second.model.licence) == ("tiny@1", "MIT")
    assert second.parameters["max_tokens"] == 40
    assert second.guards == ("redact-pii",)
    assert [part.what for part in second.registered] == ["release", "prompt", "model"]
    assert second.registered[0].by, "the audit log knows who registered it"
    assert all(part.at for part in second.registered)
    assert json.loads(json.dumps(second.to_json()))["ref"] == f"{APP}@2"
    assert r"hot fix \<b\>now\</b\>" in markdown(second)
    assert "hot fix &lt;b&gt;now&lt;/b&gt;" in html(second)


def test_the_run_of_all_rows_is_told_with_its_data_and_a_part_of_it_is_counted(first, story):
    (run,) = first.evaluations
    assert (run.suite, run.rows, run.whole, first.further_runs) == ("sums", 24, True, 1)
    metrics = {metric.name: metric for metric in run.metrics}
    assert metrics["correct"].mean == 0.5
    assert metrics["correct"].ci95 is not None
    assert (metrics["fields"].mean, metrics["fields"].n_failed) == (None, 24)
    assert run.deciding == ("correct",)
    assert [(part.name, part.metric.mean) for part in run.slices] == [("parity=0", 0.0), ("parity=1", 1.0)]
    (eval_set,) = story.evaluations.suite("sums").eval_sets
    assert [(data.name, data.sha256, data.rows) for data in first.data] == [("sums-rows", eval_set.content_hash, 24)]
    assert "the licence of the evaluation data sums-rows" in first.unknown


def test_a_gate_is_told_with_its_comparison_and_is_the_one_on_record(first, second):
    (floors,), (compared,) = first.gates, second.gates
    assert (floors.against, floors.differences, floors.attested) == (None, (), True)
    assert (compared.against, compared.attested, compared.current) == (f"{APP}@1", True, True)
    assert {each.slice for each in compared.differences} == {None, "parity=0", "parity=1"}
    assert "correct" in compared.power
    assert any("no champion to compare with" in limit for limit in first.limits)


def test_times_as_champion_and_who_moved_it(first, second):
    began, again = first.history.periods
    assert (began.forced, began.then, again.began, again.lasts) == (False, f"{APP}@2", "rollback", True)
    (forced,) = second.history.periods
    assert (forced.forced, forced.why, forced.ended) == (True, "hot fix <b>now</b>", "rollback")
    assert [move.what for move in second.history.moves] == ["register", "gate", "promote", "rollback"]
    assert all(move.by for move in second.history.moves)
    assert (second.history.source, second.history.complete, second.history.whole) == ("audit log", True, True)
    assert any("promoted without a passing gate" in limit for limit in second.limits)


def test_alarms_and_actions_are_those_of_the_version_or_of_all_traffic(first, second):
    found = second.monitoring
    assert found is not None
    assert (found.windows, found.rows, found.alarmed, found.expected_false_alarms) == (2, 180, 1, 0.1)
    assert [(window.state, window.rows, window.alarms) for window in found.latest] == [("alarm", 90, 3), ("ok", 90, 0)]
    assert [(alarm.what, alarm.of_version) for alarm in found.alarms] == [("output.refusal", True), ("requests", False)]
    assert [(action.what, action.outcome) for action in found.actions] == [("rollback", f"champion {APP}@1")]
    assert first.monitoring is not None
    assert [alarm.what for alarm in first.monitoring.alarms] == ["requests", "words"]
    assert first.monitoring.actions == ()


def test_what_nothing_is_known_of_says_so_and_unknown_versions_are_refused_by_name(story):
    registry, prompt = story.registry, story.registry.prompts.get("qa@1")
    registry.release_versions.create("bare", prompt, registry.models.get("tiny@1"), GenerationParameters(max_tokens=7))
    known = {experiment.name for experiment in registry.store.client.search_experiments()}
    sheet = make_factsheet(registry, "bare@1")
    assert {experiment.name for experiment in registry.store.client.search_experiments()} == known, "it only reads"
    assert (sheet.evaluations, sheet.gates, sheet.monitoring, sheet.history.periods) == ((), (), None, ())
    assert sheet.other_parameters == 2, "runs with other parameters say nothing of it"
    assert {"No gate has judged this version.", "No evaluation of this version is on record."} <= set(sheet.limits)
    with pytest.raises(UnknownVersion, match=r"no app or tabular model 'nobody' is registered; there are: .*helper"):
        make_factsheet(story.registry, "nobody@1")
    with pytest.raises(UnknownVersion, match=r"helper@9; there are helper@1"):
        make_factsheet(story.registry, f"{APP}@9")


def test_a_broken_chain_and_an_unreadable_log_are_told(story, second):
    settings = replace(story.settings, log_url=f"sqlite:///{story.folder}/sums.toml")
    sheet = make_factsheet(Registry(settings), f"{APP}@2")
    assert [period.forced for period in sheet.history.periods] == [True]
    assert sheet.history.source == "registry"
    assert any(limit.startswith("The audit log cannot be read") for limit in sheet.limits)
    assert sheet.gates[0].attested is None
    assert sheet.registered[0].by is None
    assert [move.what for move in sheet.history.moves] == ["promote", "rollback"]
    assert second.history.whole
    url = f"sqlite:///{story.folder}/broken.db"
    log = AuditLog(url)
    log.open("helper", {"champion": "helper@1"})
    log.open("other", {"champion": "other@1"})
    with sqlite3.connect(f"{story.folder}/broken.db") as connection:
        connection.execute("DROP TRIGGER audit_log_no_update")
        connection.execute("UPDATE audit_log SET actor = 'nobody' WHERE seq = 2")
    sheet = make_factsheet(Registry(replace(story.settings, log_url=url)), f"{APP}@2")
    assert any("tampered with or damaged at entry 2" in limit for limit in sheet.limits)
    assert sheet.history.whole is False


def test_an_alias_moved_around_the_log_and_a_gate_that_was_rewritten_are_told(story):
    registry, client = story.registry, story.registry.store.client
    book, prompt = registry.release_versions, registry.prompts.get("qa@1")
    for tokens in (11, 12):
        book.create("moved", prompt, registry.models.get("tiny@1"), GenerationParameters(max_tokens=tokens))
    book.record_gate(book.get("moved@1"), "sums", {"verdict": "fail", "reasons": ["worse"], "against": None})
    client.set_model_version_tag(
        "moved", "1", "llmops.gate", json.dumps({"sums": {"verdict": "pass", "reasons": [], "against": None}})
    )
    book.promote(book.get("moved@1"), why="a test")
    client.set_registered_model_alias("moved", "champion", "2")
    sheet = make_factsheet(registry, "moved@1")
    assert sheet.gates[0].attested is False
    assert sheet.history.whole is False
    assert any("champion stands at moved@2, and by the audit log at moved@1" in limit for limit in sheet.limits)
    assert [(period.lasts, period.until) for period in sheet.history.periods] == [(False, None)]


@pytest.fixture(scope="module")
def bike(story):
    registry = story.registry
    data = frame(60)
    labelled = data.assign(**{REGRESSION.output.name: target(data, REGRESSION)})
    used = [UsedData("bike-2011", labelled, "a" * 64, "pypi:bikes#hour.csv"),
            UsedData("bike-2011-12", labelled[:20], "b" * 64, "pypi:bikes#hour.csv", "test")]  # fmt: skip
    logged = record_training(
        registry.store,
        experiment="bike",
        run_name="ridge on bike-2011",
        estimator=fitted("ridge", REGRESSION),
        schema=REGRESSION,
        example=data[:2],
        parameters={"candidate": "ridge", "alpha": 0.5},
        metrics={"rmse": 40.5, "rmse_low": 38, "rmse_high": 43.5, "max_error": 200},
        datasets=used,
    )
    provenance = {"data_sha256": "c" * 64, "licence": "CC BY 4.0", "data_source": "pypi:bikes#hour.csv"}
    book = registry.tabular_versions
    version, _ = book.register("bike", logged, cycle="c1", provenance=provenance)
    verdict = {"verdict": "pass", "reasons": ["absolute_error at most 60"], "against": None, "suite": "bike",
               "rules": {"primary": "rmse", "rule": "better", "margin": 0.0}}  # fmt: skip
    book.record_gate(version, "bike", verdict)
    book.promote(version)
    window = {"since": "2012-01-01T00:00:00+00:00", "until": "2012-02-01T00:00:00+00:00", "rows": 700}
    found = {"state": "alarm", "window": window, "alarms": [{"rule": "error", "what": "rmse", "why": "rose"}],
             "slices": [{"slice": {"release": "bike@1"}}]}  # fmt: skip
    record_monitoring_run(registry.store, "bike", found, {"rows": 700, "error": 61.5, "estimated_error": 58.0})
    return make_factsheet(registry, "bike")


def test_a_tabular_model_is_told_by_signature_training_data_and_held_out_metrics(bike):
    assert (bike.ref, bike.kind, bike.parameters) == ("bike@1", "tabular", {"alpha": "0.5"})
    model = bike.tabular
    assert model is not None
    assert (model.algorithm, model.task, model.cycle) == ("ridge", "regression", "c1")
    assert [column.name for column in model.inputs] == list(REGRESSION.names)
    assert [part.what for part in bike.registered] == ["tabular model", "training run"]
    assert bike.registered[0].by
    assert [(data.use, data.sha256, data.licence, data.rows) for data in bike.data] == [
        ("training", "a" * 64, "CC BY 4.0", 60),
        ("test", "b" * 64, "CC BY 4.0", 20),
    ]
    assert {data.source_sha256 for data in bike.data} == {"c" * 64}, (
        "the file they were taken from is no data of its own"
    )
    assert not [missing for missing in bike.unknown if "data" in missing]
    (run,) = bike.evaluations
    assert (run.suite, run.rows, run.deciding) == ("bike-2011-12", 20, ("rmse",))
    assert [(metric.name, metric.mean, metric.ci95) for metric in run.metrics] == [
        ("rmse", 40.5, (38.0, 43.5)),
        ("max_error", 200.0, None),
    ]
    assert "Without an interval in bike-2011-12: max_error." in bike.limits


def test_a_training_run_that_is_gone_is_named(story, bike):
    version = story.registry.tabular_versions.get(bike.ref)
    with pytest.raises(UnknownVersion, match="0" * 32):
        sheet_of(story.registry, replace(version, run_id="0" * 32))


def test_its_gate_and_times_as_champion_and_windows_with_their_errors_are_told(bike):
    assert [(gate.verdict, gate.attested) for gate in bike.gates] == [("pass", True)]
    assert [(period.lasts, period.forced) for period in bike.history.periods] == [(True, False)]
    assert "| algorithm | ridge |" in markdown(bike)
    assert "ridge" in html(bike)
    found = bike.monitoring
    assert found is not None
    assert [(alarm.what, alarm.of_version) for alarm in found.alarms] == [("rmse", True)]
    assert [(window.rows, window.error, window.estimated_error) for window in found.latest] == [(700, 61.5, 58.0)]


@pytest.fixture(scope="module")
def wine(story):
    """As a lab leaves it: windows with names, a verdict kept with the training run, MLflow's own evaluation."""
    registry, store = story.registry, story.registry.store
    data = frame(60)
    labelled = data.assign(**{REGRESSION.output.name: target(data, REGRESSION)})
    source = "package:wines#wine.csv"
    logged = record_training(
        store,
        experiment="wine",
        run_name="ridge on batch 08",
        estimator=fitted("ridge", REGRESSION),
        schema=REGRESSION,
        example=data[:2],
        parameters={"candidate": "ridge"},
        metrics={"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95},
        datasets=[UsedData("batch 08", labelled, "a" * 64, f"{source}, drawn with seed 0"),
                  UsedData("batch 08, held out", labelled[:20], "b" * 64, f"{source}, drawn with seed 0", "test")],
    )  # fmt: skip
    evaluate_tabular(store, logged.run_id, logged, labelled[:20], REGRESSION.output.name, "regression")
    provenance = {"data_sha256": "c" * 64, "licence": "CC BY 4.0", "data_source": source, "trained_on": "batch 09",
                  "candidate": "ridge", "parameters": {}}  # fmt: skip
    version, _ = registry.tabular_versions.register("wine", logged, cycle="first/batch 09", provenance=provenance)
    verdict = {"verdict": "pass", "reasons": ["correct rose"], "against": None}
    registry.tabular_versions.record_gate(version, "wine", verdict)
    effect = {"a": 0.4, "b": 0.9, "difference": 0.5, "ci95": [0.3, 0.7], "p_value": 0.001, "n": 20,
              "higher_is_better": True}  # fmt: skip
    comparison = {"metrics": {"correct": effect}, "slices": {}, "power": {"correct": "with 20 rows 30 points"}}
    check = {"name": "correct better", "kind": "superiority", "metric": "correct"}
    filed = {**verdict, "suite": "wine", "compared_with": "majority", "comparison": comparison, "checks": [check]}
    record_verdict(store, version.run_id, filed)
    for name, alarms in (("batch 09", []), ("batch 10", [{"rule": "drift", "what": "hue", "why": "drifted"}])):
        window = {"since": name, "until": None, "rows": 90}
        found = {"window": window, "alarms": alarms, "slices": [{"slice": {"release": "wine@1"}}],
                 "metric": "error_rate", "expected_false_alarms": 0.1, "windows_in_budget": 12}  # fmt: skip
        record_monitoring_run(store, "wine", found, {"rows": 90, "error": 0.25, "expected_false_alarms_per_month": 0.1})
    return make_factsheet(registry, "wine@1")


def test_a_labs_model_has_windows_by_name_its_rows_once_and_the_comparison_of_its_training_run(wine):
    found = wine.monitoring
    assert found is not None
    assert [(window.name, window.since, window.until) for window in found.latest] == [
        ("batch 10", None, None),
        ("batch 09", None, None),
    ]
    assert (found.first, found.last, found.since, found.until) == ("batch 09", "batch 10", None, None)
    assert [alarm.window for alarm in found.alarms] == ["batch 10"]
    assert "None" not in markdown(wine)
    assert "| window | rows | state | alarms | error_rate |" in markdown(wine)
    assert (found.expected_false_alarms, found.expected_over) == (0.1, "12 windows")
    assert any("0.1 false alarms in 12 windows" in limit for limit in wine.limits)
    assert [(data.use, data.sha256, data.licence, data.source_sha256) for data in wine.data] == [
        ("training", "a" * 64, "CC BY 4.0", "c" * 64),
        ("test", "b" * 64, "CC BY 4.0", "c" * 64),
    ]
    (gate,) = wine.gates
    assert wine.tabular is not None
    assert (gate.against, gate.other, gate.run_id, gate.attested) == (None, "majority", wine.tabular.run_id, True)
    assert [(each.metric, each.difference, each.ci95) for each in gate.differences] == [("correct", 0.5, (0.3, 0.7))]
    assert gate.checks == ("correct better",)
    assert "The gate of wine had no champion to compare with: it was compared with majority." in wine.limits
    assert "What wine can see: with 20 rows 30 points." in wine.limits
    assert "| pipeline run | cycle first, trained after batch 09 |" in markdown(wine)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://anna:p@ss@db.example/mlflow", "postgresql://db.example/mlflow"),
        ("https://user:secret@mlflow.example:5000", "https://mlflow.example:5000"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
    ],
)
def test_a_store_is_shown_without_its_password(story, monkeypatch, uri, shown):
    monkeypatch.setattr(story.registry.store, "uri", uri)
    assert make_factsheet(story.registry, f"{APP}@2").store == shown
