"""A sample of the production log as MLflow traces, with what users said of the answers as assessments.

Made from the log, never on a request's path, by one thread or process of a gateway. Which records are chosen, and the
ids of their traces, follow from the records' keys: a batch that is written again after a crash doubles nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from llmops.errors import CannotRun, LlmopsError, StoreUnavailable, UnknownVersion, UsageError
from llmops.production_log import Feedback, LogRecord, ProductionLog, in_batches
from llmops.production_log.record import VOTES
from llmops.recording.trace_writing import TraceWriter
from llmops.recording.traces import RowTrace, TextCleaner, make_trace, traces_in
from llmops.registry.store import Store, translated
from llmops.settings import Settings
from llmops.text_io import replace_text

logger = logging.getLogger("llmops.recording")

BATCH = 100
"""Records read, and spans written, together; the cursor is kept after each batch."""
MOST_PAUSE_SECONDS = 60.0
FEEDBACK_KEY = "llmops.feedback"
"""The metadata of an assessment that names the feedback it was made of."""
LOG_KEY_TAG = "log_key"
"""The tag of a trace that names its record."""
REVIEW = "review"
"""Caller of feedback that was an answer in MLflow's review queue: MLflow has it already."""
_SAID_BESIDE = ("refusal", "reasoning", "tool_calls")


def experiment_of(app: str) -> str:
    """The MLflow experiment with an app's traces; of bare models' where `app` is empty."""
    return f"production/{app}" if app else "production"


def is_sampled(key: str, share: float) -> bool:
    """Whether the record of that key is one of this share of all records: always the same ones."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) < share * 2**64


def trace_id_of(key: str) -> str:
    """The id of the trace of the record with that key."""
    return f"tr-{hashlib.sha256(f'production|{key}'.encode()).hexdigest()[:32]}"


class _Position(NamedTuple):
    """Cursors of the production log: everything up to them is exported."""

    records: int
    feedback: int


class TraceExporter:
    """Follows a production log into MLflow from the moment it is first started; then, from where it stopped.

    settings: `trace_sample` is the share exported. seconds: between two looks at the log.
    """

    def __init__(self, settings: Settings, log: ProductionLog, *, seconds: float = 2.0) -> None:
        self._settings, self._log, self._seconds = settings, log, seconds
        self._share, self._file = settings.trace_sample, settings.home / "trace_export.json"
        self._log_id = hashlib.sha256(log.url.encode()).hexdigest()  # another log's position is not this one's
        self._writer: _Writer | None = None

    def run(self, stop: threading.Event) -> None:
        """Exports until `stop` is set. A store that is away is tried again, ever more rarely; nothing is passed over.

        Returns at once where nothing is to be sampled.
        """
        pause = self._seconds
        while self._share > 0 and not stop.is_set():
            try:
                self.export(stop)
                pause = self._seconds
            except LlmopsError as error:
                logger.warning("traces are not exported: %s", error)
                pause = min(2 * pause, MOST_PAUSE_SECONDS)
            except Exception:
                logger.exception("traces are not exported")
                pause = MOST_PAUSE_SECONDS
            stop.wait(pause)

    def export(self, stop: threading.Event | None = None) -> int:
        """Exports everything new, once, or until `stop` is set between two batches; returns how many traces. Raises
        StoreUnavailable: of the log or of MLflow; what was written before stays, and is not written again."""
        position, written = self._position(), 0
        # Read before the records, so that the records it is about are exported before it.
        said, said_end = self._log.feedback_since(position.feedback, limit=BATCH)
        while not (stop is not None and stop.is_set()):
            records, end = self._log.records_since(position.records, limit=BATCH)
            chosen = [record for record in records if is_sampled(record.key, self._share)]
            if chosen:
                self._opened().write(chosen)
                written += len(chosen)
            if end != position.records:
                position = self._kept(position._replace(records=end))
            if records:
                continue
            for feedback in said:
                if is_sampled(feedback.record_key, self._share):
                    self._opened().attach(feedback)
            if said_end != position.feedback:
                position = self._kept(position._replace(feedback=said_end))
            if not said:
                break
            said, said_end = self._log.feedback_since(position.feedback, limit=BATCH)
        return written

    def _opened(self) -> _Writer:
        # MLflow takes seconds to load: not before there is something to write.
        if self._writer is None:
            self._writer = _Writer(Store(self._settings))
        return self._writer

    def _position(self) -> _Position:
        """Where the last export ended; the log's end, now kept, when there was none yet."""
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            if kept["log"] == self._log_id:
                return _Position(int(kept["records"]), int(kept["feedback"]))
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, OSError) as error:
            logger.warning("%s cannot be read (%s): traces begin at the log's end", self._file, error)
        return self._kept(_Position(self._log.records_end(), self._log.feedback_end()))

    def _kept(self, position: _Position) -> _Position:
        """The position, now in the file. Raises StoreUnavailable."""
        try:
            replace_text(self._file, json.dumps({"log": self._log_id, **position._asdict()}))
        except CannotRun as error:
            raise StoreUnavailable(str(error)) from error
        return position


def write_traces(store: Store, records: Sequence[LogRecord]) -> None:
    """Writes the traces of these records, sampled or not, with their feedback. Those that are there already stay as
    they are. Raises StoreUnavailable."""
    with translated("production traces"):
        there = traces_in(store.uri, [trace_id_of(record.key) for record in records])
    writer = _Writer(store)
    for batch in in_batches((each for each in records if trace_id_of(each.key) not in there), BATCH):
        writer.write(batch)
    for record in records:
        for feedback in record.feedback:
            writer.attach(feedback)


class _Prompt(NamedTuple):
    """As much of a prompt version as MLflow needs to link it."""

    name: str
    version: str


class _Writer:
    """Writes traces into one store."""

    def __init__(self, store: Store) -> None:
        from mlflow.tracing.client import TracingClient

        self._store, self._writer = store, TraceWriter(store)
        self._tracing = TracingClient(store.uri)
        self._models: dict[str, str] = {}
        self._clean = TextCleaner()

    def write(self, records: Iterable[LogRecord]) -> None:
        """Writes the records' traces, replacing those already there. Raises StoreUnavailable."""
        by_experiment: dict[str, list[LogRecord]] = {}
        for record in records:
            by_experiment.setdefault(experiment_of(record.app), []).append(record)
        for name, items in by_experiment.items():
            experiment_id = self._store.experiment(name)
            try:
                self._write(experiment_id, items)
            except UsageError:
                # One record that MLflow does not take must not hold up the others for ever.
                for item in items:
                    try:
                        self._write(experiment_id, [item])
                    except UsageError as error:
                        logger.warning("record %s becomes no trace: %s", item.key, error)

    def attach(self, feedback: Feedback) -> None:
        """Adds what a user said to the answer's trace, once; nothing where there is no such trace, or where it was said
        there. Raises StoreUnavailable."""
        trace_id = trace_id_of(feedback.record_key)
        if feedback.caller == REVIEW:
            return
        try:
            with translated(f"trace {trace_id}"):
                there = self._tracing.get_trace_info(trace_id).assessments
                known = {(item.name, (item.metadata or {}).get(FEEDBACK_KEY)) for item in there}
                for assessment in _assessments(feedback, self._clean):
                    if (assessment.name, feedback.key) not in known:
                        self._tracing.log_assessment(trace_id, assessment)
        except UnknownVersion:
            logger.debug("feedback on an answer that is not among the traces: %s", feedback.request_id)

    def _write(self, experiment_id: str, records: Sequence[LogRecord]) -> None:
        traces = [self._trace(experiment_id, record) for record in records]
        with translated("production traces"):
            by_trace = {trace_id_of(record.key): _prompt_of(record) for record in records}
            prompts = {trace_id: prompt for trace_id, prompt in by_trace.items() if prompt is not None}
            self._writer.write(experiment_id, traces, prompts)

    def _trace(self, experiment_id: str, record: LogRecord) -> RowTrace:
        trace_id, details, prompt = trace_id_of(record.key), record.details, _prompt_of(record)
        inputs = {"messages": details.get("messages") or [{"role": "user", "content": record.input}]}
        if variables := details.get("prompt_variables"):
            inputs["prompt_variables"] = variables
        tags = {
            "mlflow.linkedPrompts": json.dumps([prompt._asdict()]) if prompt is not None else "",
            "release": record.release,
            "prompt": record.prompt,
            "model": record.model,
            "outcome": record.outcome,
            "status": str(record.status),
            LOG_KEY_TAG: record.key,
        }
        return make_trace(
            trace_id,
            trace_id[3:19],
            experiment_id,
            begin_ms=round(record.at.timestamp() * 1000),
            latency_ms=record.latency_ms,
            error=self._clean(str(details.get("error", ""))) if record.outcome == "error" else None,
            attributes={
                "mlflow.spanInputs": self._clean(inputs),
                "mlflow.spanOutputs": self._clean(record.output),
                "parameters": details.get("parameters"),
                "finish_reason": details.get("finish_reason"),
                **{name: self._clean(said) for name in _SAID_BESIDE if (said := details.get(name))},
                "first_token_ms": record.first_token_ms,
            },
            metadata={
                "mlflow.modelId": self._model_id(record.release),
                "mlflow.trace.user": self._clean(str(details.get("user") or ""))[:250],
            },
            tags={name: self._clean(value) for name, value in tags.items() if value},
            tokens=(record.tokens_in, record.tokens_out),
            client_request_id=record.request_id,
        )

    def _model_id(self, release: str | None) -> str:
        """MLflow's id of the release's own model; empty for a bare model, and for a release that is not registered."""
        if release is None:
            return ""
        if release not in self._models:
            source, (app, _, version) = "", release.partition("@")
            with contextlib.suppress(UnknownVersion, UsageError), translated(f"release {release}"):
                source = str(self._store.client.get_model_version(app, version).source)
            self._models[release] = source.removeprefix("models:/") if source.startswith("models:/") else ""
        return self._models[release]


def _prompt_of(record: LogRecord) -> _Prompt | None:
    name, _, version = (record.prompt or "").partition("@")
    return _Prompt(name, version) if name and version.isdecimal() else None


def _assessments(feedback: Feedback, clean: TextCleaner) -> list[Any]:
    """What a user said, as MLflow's feedback: a score, a label or vote, and the comment as rationale, or by itself."""
    from mlflow.entities import AssessmentSource
    from mlflow.entities import Feedback as Assessment

    is_vote = feedback.label in VOTES and feedback.compared_to is not None
    values = {"user_score": feedback.score, "vote" if is_vote else "user_label": feedback.label}
    said = {name: value for name, value in values.items() if value is not None}
    comment = clean(feedback.comment) if feedback.comment else None
    if not said and comment is not None:
        said, comment = {"user_comment": comment}, None
    metadata = {FEEDBACK_KEY: feedback.key}
    if is_vote and feedback.compared_key is not None:
        metadata["compared_to"] = trace_id_of(feedback.compared_key)
        metadata["compared_release"] = feedback.compared_release or ""
    made = []
    for name, value in said.items():
        assessment = Assessment(
            name=name,
            value=clean(value),
            rationale=comment,
            source=AssessmentSource("HUMAN", clean(feedback.user or feedback.caller)[:250]),
            metadata=dict(metadata),
            create_time_ms=round(feedback.at.timestamp() * 1000),
        )
        assessment.assessment_id = f"a-{hashlib.sha256(f'{feedback.key}|{name}'.encode()).hexdigest()[:32]}"
        made.append(assessment)
    return made
