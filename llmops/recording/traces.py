"""One row as an MLflow trace: inputs, output, expectations, scores, tags, links to run, prompt and model.

Ids come from the run and the row, so writing a row again replaces it and doubles nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmops.evaluation.results import Output, RowResult, Score
from llmops.recording.cell import CellIdentity

# PostgreSQL refuses NUL in a text; no UTF-8 database takes half a surrogate pair.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT = "\ufffd"


class TextCleaner:
    """Replaces, in any value made of JSON types, each character that a database refuses. cleaned: texts changed."""

    def __init__(self) -> None:
        self.cleaned = 0

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self(name): self(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self(item) for item in value]
        return value

    def _text(self, text: str) -> str:
        stored, changes = _UNSTORABLE.subn(_REPLACEMENT, text)
        self.cleaned += changes > 0
        return stored


ROW_ID_TAG = "row_id"
_SOURCE_RUN = "mlflow.assessment.sourceRunId"
_LONGEST_TAG = 8000
_SPAN_NAME = "answer"


@dataclass(frozen=True, slots=True)
class RowTrace:
    """MLflow's `TraceInfo` (with the assessments) and the one `Span` of a row."""

    info: Any
    span: Any

    @property
    def trace_id(self) -> str:
        return str(self.info.trace_id)


class TraceMaker:
    """Makes the traces of one run. Not safe to share between threads: it counts the texts it had to clean."""

    def __init__(self, cell: CellIdentity, run_id: str, experiment_id: str, started_ms: int, with_scores: bool) -> None:
        """started_ms: when the run began. with_scores: False leaves the scores to `mlflow.genai.evaluate`."""
        self._run_id, self._experiment_id, self._started_ms = run_id, experiment_id, started_ms
        self._model_id, self._with_scores = cell.model.model_id, with_scores
        self._linked_prompts = json.dumps([{"name": cell.prompt.name, "version": str(cell.prompt.version)}])
        self.clean = TextCleaner()

    def make(self, number: int, result: RowResult) -> RowTrace:
        """number: of the row in its run; later rows begin a millisecond later, so that MLflow keeps their order."""
        from mlflow.entities import TraceData, TraceInfo, TraceLocation, TraceState
        from mlflow.tracing.utils.truncation import set_request_response_preview

        key = hashlib.sha256(f"{self._run_id}|{result.row.id}".encode(errors="surrogatepass")).hexdigest()
        trace_id, span_id = f"tr-{key[:32]}", key[32:48]
        begin_ms = self._started_ms + number
        inputs, output = self.clean(dict(result.row.inputs)), self.clean(result.output.text)
        span = self._span(trace_id, span_id, begin_ms, result.output, inputs, output)
        info = TraceInfo(
            trace_id=trace_id,
            trace_location=TraceLocation.from_experiment_id(self._experiment_id),
            request_time=begin_ms,
            execution_duration=None if result.output.latency_ms is None else round(result.output.latency_ms),
            state=TraceState.OK if result.output.error is None else TraceState.ERROR,
            trace_metadata=self._metadata(result.output),
            tags=self._tags(result),
            assessments=self._assessments(trace_id, span_id, result),
        )
        set_request_response_preview(info, TraceData(spans=[span]))
        return RowTrace(info, span)

    def _span(self, trace_id: str, span_id: str, begin_ms: int, output: Output, inputs: Any, text: str) -> Any:
        from mlflow.entities import Span

        begin_ns = begin_ms * 1_000_000
        failed = output.error is not None
        return Span.from_dict(
            {
                "trace_id": trace_id,
                "span_id": span_id,
                "parent_span_id": None,
                "name": _SPAN_NAME,
                "start_time_unix_nano": begin_ns,
                "end_time_unix_nano": begin_ns + round((output.latency_ms or 0) * 1e6),  # a span must have an end
                "events": [],
                "status": {
                    "code": "STATUS_CODE_ERROR" if failed else "STATUS_CODE_OK",
                    "message": self.clean(output.error or ""),
                },
                "attributes": {
                    "mlflow.traceRequestId": json.dumps(trace_id),
                    "mlflow.spanType": json.dumps("CHAIN"),
                    "mlflow.spanInputs": json.dumps(inputs, ensure_ascii=False),
                    "mlflow.spanOutputs": json.dumps(text, ensure_ascii=False),
                },
            }
        )

    def _metadata(self, output: Output) -> dict[str, str]:
        metadata = {
            "mlflow.sourceRun": self._run_id,
            "mlflow.trace_schema.version": "3",
            **token_usage(output.tokens_in, output.tokens_out),
        }
        return {**metadata, "mlflow.modelId": self._model_id} if self._model_id else metadata

    def _tags(self, result: RowResult) -> dict[str, str]:
        tags: Mapping[str, str] = self.clean({**result.row.tags, ROW_ID_TAG: result.row.id})
        own = {"mlflow.traceName": _SPAN_NAME, "mlflow.linkedPrompts": self._linked_prompts}
        return {**{key[:250]: value[:_LONGEST_TAG] for key, value in tags.items()}, **own}

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
            kind = type(assessment).__name__
            key = hashlib.sha256(f"{trace_id}|{kind}|{assessment.name}".encode()).hexdigest()
            assessment.assessment_id, assessment.span_id = f"a-{key[:32]}", span_id
        return made


def token_usage(tokens_in: int | None, tokens_out: int | None) -> dict[str, str]:
    """The metadata that MLflow's pages read a trace's tokens from; none where they are not all known."""
    if tokens_in is None or tokens_out is None:
        return {}
    tokens = {"input_tokens": tokens_in, "output_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
    return {"mlflow.trace.tokenUsage": json.dumps(tokens)}


def feedback(name: str, score: Score, clean: TextCleaner, run_id: str) -> Any:
    """A score as MLflow's feedback; a failed one as its error."""
    from mlflow.entities import AssessmentError, AssessmentSource, Feedback

    source = AssessmentSource(source_type="CODE", source_id=name)
    metadata = {_SOURCE_RUN: run_id}
    if score.label is not None:
        metadata["llmops.label"] = clean(score.label)
    if score.error is not None:
        error = AssessmentError("SCORER_ERROR", clean(score.error))
        return Feedback(name=name, source=source, metadata=metadata, error=error)
    return Feedback(
        name=name, source=source, metadata=metadata, value=score.value, rationale=clean(score.rationale) or None
    )
