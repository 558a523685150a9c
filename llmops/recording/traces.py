"""One row as an MLflow trace: inputs, output, expectations, scores, tags, links to run, prompt and model.

Ids come from the run and the row, so writing a row again replaces it and doubles nothing.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.evaluation.results import RowResult, Score
from llmops.recording.cell import CellIdentity

ROW_ID_TAG = "row_id"
_SOURCE_RUN = "mlflow.assessment.sourceRunId"
_LONGEST_TAG = 8000
_SPAN_NAME = "answer"
# PostgreSQL refuses NUL in a text; no UTF-8 database takes half a surrogate pair.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT = "\ufffd"


class TextCleaner:
    """Replaces, in any value made of JSON types, each character that a database refuses. cleaned: texts changed."""

    def __init__(self) -> None:
        self.cleaned = 0

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str):
            stored, changes = _UNSTORABLE.subn(_REPLACEMENT, value)
            self.cleaned += changes > 0
            return stored
        if isinstance(value, Mapping):
            return {self(name): self(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self(item) for item in value]
        return value


@dataclass(frozen=True, slots=True)
class RowTrace:
    """MLflow's `TraceInfo` (with the assessments) and the one `Span` of a row."""

    info: Any
    span: Any

    @property
    def trace_id(self) -> str:
        return str(self.info.trace_id)


def trace_ids(run_id: str, row_id: str) -> tuple[str, str]:
    """Ids of the trace, and of its span, of a row in a run."""
    key = hashlib.sha256(f"{run_id}|{row_id}".encode(errors="surrogatepass")).hexdigest()
    return f"tr-{key[:32]}", key[32:48]


def traces_in(uri: str, trace_ids: Sequence[str]) -> dict[str, Any]:
    """By id, the `TraceInfo` of those that are in the store. MLflow's errors pass through."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracing.client import TracingClient

    client, found = TracingClient(uri), {}
    for trace_id in trace_ids:
        try:
            found[trace_id] = client.get_trace_info(trace_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    return found


def make_trace(
    trace_id: str,
    span_id: str,
    experiment_id: str,
    *,
    begin_ms: int,
    latency_ms: float | None,
    error: str | None,
    attributes: Mapping[str, Any],
    metadata: Mapping[str, str],
    tags: Mapping[str, str],
    tokens: tuple[int | None, int | None],
    assessments: Sequence[Any] = (),
    client_request_id: str | None = None,
) -> RowTrace:
    """A trace of one span, with every text already such that a database takes it.

    begin_ms: since the epoch.
    error: what went wrong; None where nothing did.
    attributes: of the span; None is left out.
    tokens: of the question and the answer; MLflow's pages show them where both are known.
    """
    from mlflow.entities import Span, TraceData, TraceInfo, TraceLocation, TraceState
    from mlflow.tracing.utils.truncation import set_request_response_preview

    given = {"mlflow.traceRequestId": trace_id, "mlflow.spanType": "CHAIN", **attributes}
    span = Span.from_dict(
        {
            "trace_id": trace_id,
            "span_id": span_id,
            "parent_span_id": None,
            "name": _SPAN_NAME,
            "start_time_unix_nano": begin_ms * 1_000_000,
            "end_time_unix_nano": begin_ms * 1_000_000 + round((latency_ms or 0) * 1e6),  # a span must have an end
            "events": [],
            "status": {"code": "STATUS_CODE_OK" if error is None else "STATUS_CODE_ERROR", "message": error or ""},
            "attributes": {
                name: json.dumps(value, ensure_ascii=False) for name, value in given.items() if value is not None
            },
        }
    )
    shown = {"mlflow.trace_schema.version": "3", **metadata}
    tokens_in, tokens_out = tokens
    if tokens_in is not None and tokens_out is not None:
        usage = {"input_tokens": tokens_in, "output_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
        shown["mlflow.trace.tokenUsage"] = json.dumps(usage)
    info = TraceInfo(
        trace_id=trace_id,
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=begin_ms,
        execution_duration=None if latency_ms is None else round(latency_ms),
        state=TraceState.OK if error is None else TraceState.ERROR,
        client_request_id=client_request_id,
        trace_metadata={name: value for name, value in shown.items() if value},
        tags={"mlflow.traceName": _SPAN_NAME, **tags},
        assessments=list(assessments),
    )
    set_request_response_preview(info, TraceData(spans=[span]))
    return RowTrace(info, span)


class TraceMaker:
    """Makes the traces of one run. Not safe to share between threads: it counts the texts it had to clean."""

    def __init__(self, cell: CellIdentity, run_id: str, experiment_id: str, started_ms: int, with_scores: bool) -> None:
        """started_ms: when the run began. with_scores: False leaves the scores to `mlflow.genai.evaluate`."""
        self._run_id, self._experiment_id, self._started_ms = run_id, experiment_id, started_ms
        self._model_id, self._with_scores = cell.model.model_id, with_scores
        prompt = cell.prompt
        linked = None if prompt is None else json.dumps([{"name": prompt.name, "version": str(prompt.version)}])
        self._linked_prompts = {} if linked is None else {"mlflow.linkedPrompts": linked}
        self.clean = TextCleaner()

    def make(self, number: int, result: RowResult) -> RowTrace:
        """number: of the row in its run; later rows begin a millisecond later, so that MLflow keeps their order."""
        trace_id, span_id = trace_ids(self._run_id, result.row.id)
        output = result.output
        inputs, text = self.clean(dict(result.row.inputs)), self.clean(output.text)
        tags: Mapping[str, str] = self.clean({**result.row.tags, ROW_ID_TAG: result.row.id})
        return make_trace(
            trace_id,
            span_id,
            self._experiment_id,
            begin_ms=self._started_ms + number,
            latency_ms=output.latency_ms,
            error=None if output.error is None else self.clean(output.error),
            attributes={"mlflow.spanInputs": inputs, "mlflow.spanOutputs": text},
            metadata={"mlflow.sourceRun": self._run_id, "mlflow.modelId": self._model_id},
            tags={
                **{name[:250]: value[:_LONGEST_TAG] for name, value in tags.items()},
                "mlflow.traceName": _SPAN_NAME,
                **self._linked_prompts,
            },
            tokens=(output.tokens_in, output.tokens_out),
            assessments=self._assessments(trace_id, span_id, result),
        )

    def _assessments(self, trace_id: str, span_id: str, result: RowResult) -> list[Any]:
        from mlflow.entities import AssessmentSource, Expectation

        source = AssessmentSource(source_type="HUMAN", source_id="eval set")
        made = [
            Expectation(name=name, value=value, source=source, metadata={_SOURCE_RUN: self._run_id})
            for name, value in self.clean(dict(result.row.expectations)).items()
        ]
        if self._with_scores:
            made += [feedback(name, score, self.clean, self._run_id) for name, score in result.scores.items()]
        for assessment in made:
            assessment.assessment_id, assessment.span_id = assessment_id(trace_id, assessment), span_id
        return made


def assessment_id(trace_id: str, assessment: Any) -> str:
    """Id of a row's only assessment of this kind and name."""
    key = f"{trace_id}|{type(assessment).__name__}|{assessment.name}"
    return f"a-{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def feedback(name: str, score: Score, clean: TextCleaner, run_id: str | None) -> Any:
    """A score as MLflow's feedback; a failed one as its error. run_id: of the run that it belongs to, where MLflow does
    not say so itself."""
    from mlflow.entities import AssessmentError, AssessmentSource, Feedback

    source = AssessmentSource(source_type="CODE", source_id=name)
    metadata = {} if run_id is None else {_SOURCE_RUN: run_id}
    if score.label is not None:
        metadata["llmops.label"] = clean(score.label)
    if score.error is not None:
        error = AssessmentError("SCORER_ERROR", clean(score.error))
        return Feedback(name=name, source=source, metadata=metadata, error=error)
    return Feedback(
        name=name, source=source, metadata=metadata, value=score.value, rationale=clean(score.rationale) or None
    )
