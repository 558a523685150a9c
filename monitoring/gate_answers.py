"""What a gate saw of a release: its answers to the eval set, as records that the monitor can describe."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from llmops.production_log import LogRecord
from llmops.recording import EvalRecorder

if TYPE_CHECKING:
    from llmops.evaluation.results import RowResult
    from llmops.registry import Registry
    from llmops.versions import Release


def gate_answers(registry: Registry, release: Release) -> list[LogRecord]:
    """One record for each row of the newest gate's eval run of the release; none when no gate is on record.

    Raises UnknownVersion when the run is gone, StoreUnavailable.
    """
    gates = registry.release_versions.gates(release)
    newest = max(gates.values(), key=lambda gate: str(gate["at"]), default=None)
    if newest is None:
        return []
    recorder = EvalRecorder(registry.store)
    rows = recorder.rows(recorder.get(_run_of(newest)))
    at = datetime.fromisoformat(newest["at"])
    return [_record(release, result, at) for result in rows]


def _run_of(gate: dict[str, Any]) -> str:
    return str(gate["runs"]["b"])


def _record(release: Release, result: RowResult, at: datetime) -> LogRecord:
    output, messages = result.output, result.row.messages
    asked = messages[-1]["content"] if messages else result.row.inputs.get(release.prompt.template.input_variable, "")
    failed = output.error is not None
    return LogRecord(
        request_id=result.row.id,
        at=at,
        status=500 if failed else 200,
        outcome="error" if failed else "ok",
        input=str(asked),
        output=output.text,
        release=release.ref,
        prompt=release.prompt.ref,
        model=release.model.ref,
        tokens_in=output.tokens_in,
        tokens_out=output.tokens_out,
        latency_ms=output.latency_ms,
        details={name: said for name in ("refusal", "tool_calls") if (said := getattr(output, name))},
    )
