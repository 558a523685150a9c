"""The bulk recorder: a row's trace with all its scores in one transaction, spans and links in batches.

`TracingClient` is what MLflow's own exporter writes through. Unlike the exporter it raises when a write fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from llmops.recording.cell import CellIdentity
from llmops.recording.traces import RowTrace
from llmops.registry.store import Store

BATCH = 100
"""Rows written before the next progress report; MLflow links no more traces than that at a time."""

LISTED_BY_PROMPT = 100
"""Rows of a run that the prompt's page lists. MLflow links a prompt to one trace at a time, which takes a quarter of
the time of writing it; the page needs some rows of each run to lead there, not all of them."""

_THREADS = 4

Written = Callable[[int], None]


def write_traces(
    store: Store, cell: CellIdentity, run_id: str, experiment_id: str, traces: Iterable[RowTrace], written: Written
) -> None:
    """Writes traces, replacing those already there. written: is told of each batch's size.

    SQLite takes one writer at a time; a server, or another database, four. MLflow's errors pass through.
    """
    from mlflow.tracing.client import TracingClient

    tracing = TracingClient(store.uri)

    def write(numbered: tuple[int, RowTrace]) -> None:
        number, trace = numbered
        tracing.start_trace(trace.info)
        # The tag `mlflow.linkedPrompts` shows the link; only this makes the prompt's page find the trace.
        if number < LISTED_BY_PROMPT:
            tracing.store.link_prompts_to_trace(trace.trace_id, [cell.prompt])

    threads = 1 if store.uri.startswith("sqlite:") else _THREADS
    remaining = enumerate(traces)
    with ThreadPoolExecutor(threads, thread_name_prefix="llmops-record") as pool:
        while batch := list(islice(remaining, BATCH)):
            list(pool.map(write, batch))
            tracing.log_spans(experiment_id, [trace.span for _, trace in batch])
            store.client.link_traces_to_run([trace.trace_id for _, trace in batch], run_id)
            written(len(batch))
