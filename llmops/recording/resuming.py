"""Recording that survives a kill: what was stored of an eval run is counted, and runs that a killed process left behind
are taken up again."""

import os
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from llmops.errors import RecordingIncomplete
from llmops.evaluation.results import RowResult
from llmops.production_log import in_batches
from llmops.recording.cell import CELL_TAG, COMPLETE_TAG, RECORDER_TAG, WRITER_TAG, find_runs
from llmops.registry.store import Store, pages

_PAGE, _DELETED_AT_A_TIME = 500, 100
_TRACES, _SPANS = ("traces", ""), ("spans", "")
_EXPECTATION = "expectation"


def parts_of(result: RowResult) -> Iterator[tuple[str, str]]:
    """What the store must hold of a row, each thing once."""
    yield from (_TRACES, _SPANS)
    yield from ((_EXPECTATION, name) for name in result.row.expectations)
    yield from ((_kind(score.error), name) for name, score in result.scores.items())


def check_complete(client: Any, experiment_id: str, run_id: str, expected: Counter[tuple[str, str]]) -> None:
    """Raises RecordingIncomplete when anything is missing, or there twice. MLflow's errors pass through.

    expected: the parts of all rows.
    """
    stored: Counter[tuple[str, str]] = Counter()
    for trace in stored_traces(client, experiment_id, run_id):
        stored[_TRACES] += 1
        # Set by the store when the trace's spans have arrived.
        stored[_SPANS] += "mlflow.trace.spansLocation" in trace.info.tags
        for assessment in trace.info.assessments:
            kind = _EXPECTATION if assessment.expectation is not None else _kind(assessment.error)
            stored[kind, assessment.name] += 1
    wrong = [
        f"{' '.join(filter(None, key))} {stored[key]} of {expected[key]}"
        for key in sorted(stored | expected)
        if stored[key] != expected[key]
    ]
    if wrong:
        raise RecordingIncomplete(
            f"MLflow run {run_id} holds {', '.join(wrong)}; run the command again (nothing is generated twice)"
        )


def _kind(error: object | None) -> str:
    """MLflow turns whatever goes wrong while it scores into a failed score, so those are counted apart."""
    return "score" if error is None else "failed score"


def stored_traces(client: Any, experiment_id: str, run_id: str) -> Iterator[Any]:
    """MLflow's traces of a run, without their spans, page by page."""
    own = f"metadata.`mlflow.sourceRun` = '{run_id}'"
    return pages(client.search_traces, _PAGE, locations=[experiment_id], filter_string=own, include_spans=False)


def this_process() -> str:
    """Names this process beyond doubt: host, process id, and when it began, since ids are used again."""
    import psutil

    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.2f}"


def take_up(store: Store, experiment_id: str, cell_hash: str, recorder: str, params: Mapping[str, str]) -> str | None:
    """Id of an unfinished run that can be completed; None when a new one must be begun.

    Ids of traces and assessments are fixed, so that what is there already is replaced. Whatever else a dead process
    left of this cell loses its traces and is marked abandoned. MLflow's errors pass through.
    """
    runs = find_runs(store, [experiment_id], {CELL_TAG: cell_hash, COMPLETE_TAG: "false"})
    client, left = store.client, [run for run in runs if writer_is_gone(run.data.tags[WRITER_TAG])]
    usable = [
        run
        for run in left
        if run.data.tags[RECORDER_TAG] == recorder
        # MLflow's parameters cannot be changed: those that were written must be the same now.
        and all(params.get(name, value) == value for name, value in run.data.params.items())
    ]
    for run in left:
        if run in usable[:1]:
            continue
        run_id = run.info.run_id
        traces = [trace.info.trace_id for trace in stored_traces(client, experiment_id, run_id)]
        for some in in_batches(traces, _DELETED_AT_A_TIME):
            client.delete_traces(experiment_id, trace_ids=some)
        client.set_terminated(run_id, "FAILED")
        client.set_tag(run_id, COMPLETE_TAG, "abandoned")  # last, so that a run which is left on the way is met again
    return str(usable[0].info.run_id) if usable else None


def writer_is_gone(writer: str) -> bool:
    """Whether the run's writer is surely not writing any more: dead, or this very process, which asks before it writes.

    A writer on another host may be alive; its run is left alone.
    """
    import psutil

    host, pid, began = writer.split(" ")
    if host != socket.gethostname():
        return False
    try:
        return writer == this_process() or f"{psutil.Process(int(pid)).create_time():.2f}" != began
    except psutil.NoSuchProcess:
        return True
