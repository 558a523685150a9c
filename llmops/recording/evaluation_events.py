"""The results of an eval run as OpenTelemetry events, `gen_ai.evaluation.result`, one for each scorer.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-events/ names the event, the scorer and its score. What the
conventions have no name for begins with `llmops.`: the interval, the failed rows, the eval sets' hashes, the judge and
how far it agrees with people. No text of a row is sent.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import llmops
from llmops.hashing import content_hash
from llmops.recording.cell import CellIdentity, EvalRun, find_calibration
from llmops.registry.store import Store

EVENT = "gen_ai.evaluation.result"
_SEND_SECONDS = 5


def send_results(store: Store, cell: CellIdentity, run: EvalRun) -> None:
    """Sends a run's results to `otel_endpoint`, where there is one. A receiver that is away costs the run a few seconds
    and a warning, never the results. Raises StoreUnavailable: the judges' calibrations cannot be read."""
    if (url := store.settings.otel_url("logs")) is None:
        return
    from opentelemetry._logs import LogRecord
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.resources import Resource

    resource = Resource.create({"service.name": "llmops", "service.version": llmops.__version__})
    provider = LoggerProvider(resource, shutdown_on_exit=False)
    provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(url, timeout=_SEND_SECONDS)))
    logger = provider.get_logger("llmops.evaluation", llmops.__version__)
    at = int(run.at * 1e9)
    for attributes in results_of(store, cell, run):
        logger.emit(LogRecord(timestamp=at, observed_timestamp=at, event_name=EVENT, attributes=attributes))
    provider.shutdown()


def results_of(store: Store, cell: CellIdentity, run: EvalRun) -> Iterator[dict[str, Any]]:
    """The attributes of each scorer's event. Raises StoreUnavailable."""
    common: dict[str, Any] = {
        "llmops.suite": run.suite,
        "llmops.prompt": run.prompt or None,
        "gen_ai.request.model": run.model,
        "llmops.run_id": run.run_id,
        "llmops.eval_sets": [f"{name}@{digest}" for name, digest in cell.eval_sets.items()],
    }
    judges: Mapping[str, Mapping[str, Any]] = cell.content.get("judges", {})
    for name, metric in run.metrics.items():
        attributes: dict[str, Any] = {
            **common,
            "gen_ai.evaluation.name": name,
            "gen_ai.evaluation.score.value": metric.mean,
            "llmops.evaluation.scored_rows": metric.n_scored,
            "llmops.evaluation.failed_rows": metric.n_failed,
        }
        if metric.ci95 is not None:
            attributes |= {"llmops.evaluation.ci95.low": metric.ci95[0], "llmops.evaluation.ci95.high": metric.ci95[1]}
        if (identity := judges.get(name)) is not None:
            judge = content_hash(dict(identity))
            calibration = find_calibration(store, judge) or {}
            attributes |= {"llmops.judge": judge, "llmops.judge.model": (identity.get("judge") or {}).get("model")}
            attributes |= {f"llmops.judge.{key}": calibration.get(key) for key in ("kappa", "kappa_low", "kappa_high")}
        yield {key: value for key, value in attributes.items() if value is not None}
