"""The production log's sample in a real MLflow store: what arrives, once, and linked to what."""

import itertools
import json
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from llmops.generation import GenerationParameters
from llmops.production_log import Feedback, LogRecord, ProductionLog
from llmops.recording.production_traces import TraceExporter, experiment_of, is_sampled, trace_id_of
from llmops.settings import Settings
from tests.at_once import wait_until

_numbers = itertools.count(1)


@pytest.fixture
def log(tmp_path):
    log = ProductionLog(f"sqlite:///{tmp_path / 'log.db'}")
    yield log
    log.close()


@pytest.fixture(scope="session")
def released(desk):
    prompt, model = desk.registry.prompts.get("qa@1"), desk.registry.models.get("tiny@1")
    made, _ = desk.registry.release_versions.create("assistant", prompt, model, GenerationParameters())
    return made


@pytest.fixture
def settings(desk, tmp_path):
    """The room's MLflow store, and a home of the test's own."""
    return Settings(home=tmp_path, tracking_uri=desk.store.uri, artifacts=str(tmp_path / "artifacts"), trace_sample=1.0)


@pytest.fixture
def exporter(settings, log):
    """One that was started while the log was empty."""
    exporter = TraceExporter(settings, log, seconds=0.02)
    exporter.export()
    return exporter


def record(**values: Any) -> LogRecord:
    number = next(_numbers)
    fields: dict[str, Any] = {
        "status": 200,
        "outcome": "ok",
        "input": f"What is {number}?",
        "output": "A \x00 number.",
        "release": "assistant@1",
        "prompt": "qa@1",
        "model": "tiny@1",
        "tokens_in": 7,
        "tokens_out": 5,
        "latency_ms": 125.0,
        "first_token_ms": 20.0,
        "details": {"user": "ada", "finish_reason": "stop", "parameters": {"max_tokens": 64}},
    }
    return LogRecord(f"req-{number}", datetime.now(UTC), **{**fields, **values})


def traces(desk: Any, app: str = "assistant") -> dict[str, Any]:
    """MLflow's traces of an app by the key of their record, with spans."""
    experiment = desk.client.get_experiment_by_name(experiment_of(app))
    if experiment is None:
        return {}
    found = desk.client.search_traces(locations=[experiment.experiment_id], max_results=500)
    by_key = {trace.info.tags["log_key"]: trace for trace in found}
    assert len(by_key) == len(found)
    return by_key


def test_a_record_becomes_a_trace_linked_to_its_prompt_and_release(desk, released, exporter, log):
    one = record()
    log.append([one])
    assert exporter.export() == 1

    trace = traces(desk)[one.key]
    assert trace.info.trace_id == trace_id_of(one.key)
    assert trace.info.client_request_id == one.request_id
    assert trace.info.execution_duration == 125
    assert trace.info.request_time == round(one.at.timestamp() * 1000)
    (span,) = trace.data.spans
    assert span.inputs == {"messages": [{"role": "user", "content": one.input}]}
    assert span.outputs == "A � number."
    assert span.attributes["finish_reason"] == "stop"
    metadata = trace.info.trace_metadata
    assert json.loads(metadata["mlflow.trace.tokenUsage"])["total_tokens"] == 12
    assert (metadata["mlflow.modelId"], metadata["mlflow.trace.user"]) == (released.model_id, "ada")
    assert {name: trace.info.tags[name] for name in ("release", "prompt", "model", "outcome", "status")} == {
        "release": "assistant@1", "prompt": "qa@1", "model": "tiny@1", "outcome": "ok", "status": "200",
    }  # fmt: skip
    experiment_id = trace.info.experiment_id
    of_prompt = desk.client.search_traces(locations=[experiment_id], filter_string="prompt = 'qa/1'")
    assert one.key in {found.info.tags["log_key"] for found in of_prompt}
    of_release = desk.client.search_traces(locations=[experiment_id], model_id=released.model_id)
    assert one.key in {found.info.tags["log_key"] for found in of_release}


def test_a_failed_request_a_bare_model_and_an_unregistered_release_become_traces_too(desk, exporter, log):
    failed = record(status=504, outcome="error", output="", details={"error": "EngineTimeout: too long"})
    bare = record(release=None, prompt=None)
    foreign = record(release="elsewhere@9", prompt="theirs@4", details={})
    log.append([failed, bare, foreign])
    assert exporter.export() == 3
    trace = traces(desk)[failed.key]
    assert trace.info.state == "ERROR"
    assert trace.data.spans[0].status.description == "EngineTimeout: too long"
    assert bare.key in traces(desk, "")
    assert "mlflow.modelId" not in traces(desk, "elsewhere")[foreign.key].info.trace_metadata


def test_what_a_user_said_becomes_an_assessment_once(desk, exporter, log):
    better, worse = record(), record()
    log.append([better, worse])
    scored = Feedback(better.request_id, better.key, "k1", user="ada", score=0.5, label="fine", comment="Why \x00 not")
    vote = Feedback(better.request_id, better.key, "k1", label="better", compared_to=worse.request_id,
                    compared_key=worse.key, compared_release="assistant@2")  # fmt: skip
    comment = Feedback(worse.request_id, worse.key, "k1", comment="Too short")
    for said in (scored, vote, comment):
        log.add_feedback(said)
    exporter.export()
    exporter.export()

    found = {item.name: item for item in traces(desk)[better.key].info.assessments}
    assert {name: item.value for name, item in found.items()} == {
        "user_score": 0.5, "user_label": "fine", "vote": "better",
    }  # fmt: skip
    assert (found["user_score"].rationale, found["user_score"].source.source_id) == ("Why � not", "ada")
    assert found["vote"].metadata["compared_to"] == trace_id_of(worse.key)
    (other,) = traces(desk)[worse.key].info.assessments
    assert (other.name, other.value) == ("user_comment", "Too short")


def test_nothing_is_exported_twice_and_feedback_that_comes_later_finds_its_trace(desk, settings, log, exporter):
    first, second = record(), record()
    log.append([first])
    assert exporter.export() == 1
    assert exporter.export() == 0
    log.append([second])
    restarted = TraceExporter(settings, log)
    assert restarted.export() == 1
    assert {first.key, second.key} <= traces(desk).keys()
    one = record()
    log.append([one])
    exporter.export()
    log.add_feedback(Feedback(one.request_id, one.key, "k1", score=1.0))
    exporter.export()
    assert [item.value for item in traces(desk)[one.key].info.assessments] == [1.0]


def test_a_batch_written_again_after_a_crash_doubles_nothing(desk, settings, log, exporter):
    one = record()
    place = settings.home / "trace_export.json"
    before = place.read_text()
    log.append([one])
    log.add_feedback(Feedback(one.request_id, one.key, "k1", score=1.0, label="fine"))
    exporter.export()
    place.write_text(before)  # as if the process had died before it kept its position
    assert TraceExporter(settings, log).export() == 1
    trace = traces(desk)[one.key]
    assert len(trace.data.spans) == 1
    assert sorted(item.name for item in trace.info.assessments) == ["user_label", "user_score"]


def test_an_export_without_a_position_begins_at_the_logs_end(desk, settings, log, caplog):
    old = record()
    log.append([old])
    assert TraceExporter(settings, log).export() == 0
    assert old.key not in traces(desk)
    log.append([record()])
    (settings.home / "trace_export.json").write_text("{")
    assert TraceExporter(settings, log).export() == 0
    assert "cannot be read" in caplog.text


def test_the_sample_is_a_share_and_always_the_same_records_and_without_one_it_ends_at_once(settings, log):
    keys = [f"{number:032x}" for number in range(4000)]
    chosen = {key for key in keys if is_sampled(key, 0.1)}
    assert 300 < len(chosen) < 500
    assert chosen <= {key for key in keys if is_sampled(key, 0.2)}
    assert not any(is_sampled(key, 0) for key in keys)
    assert all(is_sampled(key, 1) for key in keys)
    TraceExporter(Settings(**{**settings.__dict__, "trace_sample": 0.0}), log).run(threading.Event())


def test_only_the_sample_is_exported(desk, settings, log):
    exporter = TraceExporter(Settings(**{**settings.__dict__, "trace_sample": 0.5}), log)
    exporter.export()
    records = [record() for _ in range(30)]
    log.append(records)
    for one in records:
        log.add_feedback(Feedback(one.request_id, one.key, "k1", score=1.0))
    wanted = {one.key for one in records if is_sampled(one.key, 0.5)}
    assert exporter.export() == len(wanted)
    found = traces(desk)
    assert {one.key for one in records} & found.keys() == wanted
    assert all(len(found[key].info.assessments) == 1 for key in wanted)


def test_it_follows_the_log_until_it_is_stopped(desk, exporter, log):
    stop, one = threading.Event(), record()
    thread = threading.Thread(target=exporter.run, args=(stop,))
    thread.start()
    log.append([one])
    wait_until(lambda: one.key in traces(desk))
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_store_that_is_away_costs_no_record(desk, settings, log, exporter, caplog, tmp_path):
    one, stop = record(), threading.Event()
    log.append([one])
    nowhere = Settings(**{**settings.__dict__, "tracking_uri": f"sqlite:////proc/nowhere/{tmp_path.name}.db"})
    thread = threading.Thread(target=TraceExporter(nowhere, log, seconds=0.02).run, args=(stop,))
    thread.start()
    wait_until(lambda: "traces are not exported" in caplog.text)
    stop.set()
    thread.join(20)
    assert TraceExporter(settings, log).export() == 1
    assert one.key in traces(desk)
