"""Runs that a killed process left behind: taken up again where that is safe, else cleared away."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from llmops.recording.cell import CELL_TAG, COMPLETE_TAG, RECORDER_TAG, WRITER_TAG
from llmops.recording.completeness import stored_traces

_DELETED_AT_A_TIME = 100


def this_process() -> str:
    """Names this process beyond doubt: host, process id, and when it began, since ids are used again."""
    import psutil

    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.2f}"


def take_up(client: Any, experiment_id: str, cell_hash: str, recorder: str, params: Mapping[str, str]) -> str | None:
    """Id of an unfinished run that can be completed; None when a new one must be begun.

    Only `bulk` can complete a run: its ids are fixed, so that what is there already is replaced. Whatever else a dead
    process left of this cell loses its traces and is marked abandoned. MLflow's errors pass through.
    """
    condition = f"tags.`{CELL_TAG}` = '{cell_hash}' and tags.`{COMPLETE_TAG}` = 'false'"
    found = client.search_runs([experiment_id], condition, order_by=["attributes.start_time DESC"])
    left = [run for run in found if _writer_is_gone(run.data.tags[WRITER_TAG])]
    usable = [run for run in left if recorder == "bulk" and _can_complete(run, params)]
    for run in left:
        if run not in usable[:1]:
            _abandon(client, experiment_id, run.info.run_id)
    return str(usable[0].info.run_id) if usable else None


def _can_complete(run: Any, params: Mapping[str, str]) -> bool:
    """MLflow's parameters cannot be changed: those that were written must be the same now."""
    unchanged = all(params.get(name, value) == value for name, value in run.data.params.items())
    return unchanged and run.data.tags[RECORDER_TAG] == "bulk"


def _writer_is_gone(writer: str) -> bool:
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


def _abandon(client: Any, experiment_id: str, run_id: str) -> None:
    """The tag comes last, so that a process killed on the way leaves a run that is abandoned again."""
    traces = [trace.info.trace_id for trace in stored_traces(client, experiment_id, run_id)]
    for start in range(0, len(traces), _DELETED_AT_A_TIME):
        client.delete_traces(experiment_id, trace_ids=traces[start : start + _DELETED_AT_A_TIME])
    client.set_terminated(run_id, "FAILED")
    client.set_tag(run_id, COMPLETE_TAG, "abandoned")
