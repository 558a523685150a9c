"""A process killed at any moment leaves nothing that looks like a run, and recording again gives the run, whole."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.services.servers import mlflow_server, s3_server
from llmops.recording.resuming import stored_traces, this_process
from llmops.settings import Settings
from tests.recording.conftest import open_desk, report, row

NEVER = 10**9
# Records a cell, and kills itself with SIGKILL just before its `kill_at`th transaction, of all or of those that insert
# into `table`, is committed.
KILLED = """
import itertools, os, signal, sys
from pathlib import Path
import sqlalchemy
from conftest import open_desk, report
from llmops.settings import Settings

home, recorder, rows, seed, kill_at = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6])
table = sys.argv[6]
desk = open_desk(Settings(home=home))
commits = itertools.count(1)

@sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "before_cursor_execute")
def note(connection, _cursor, statement, *_):
    if table and f"INSERT INTO {table}" in statement:
        connection.info["inserts"] = True

@sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "commit")
def kill(connection):
    if connection.info.pop("inserts", not table) and next(commits) == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

desk.recorder.record(desk.cell(seed=seed), report(rows), recorder)
print("commits", next(commits) - 1)
"""


def record_and_die(
    home: Path, recorder: str, rows: int, seed: int, kill_at: int, table: str = ""
) -> subprocess.CompletedProcess[str]:
    arguments = [str(home), recorder, *map(str, (rows, seed, kill_at)), table]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, env=environment, timeout=300
    )


def check_whole(desk: Any, cell: Any, rows: int, run: Any) -> None:
    """The run holds everything exactly once, and nothing else of its cell is left."""
    traces = desk.traces(run.run_id)
    assert traces.keys() == {f"row-{i}" for i in range(rows)}
    assert {len(trace.info.assessments) for trace in traces.values()} == {4}
    assert {len(trace.data.spans) for trace in traces.values()} == {1}
    assert desk.recorder.find(cell.suite, cell.hash) == run
    found = desk.client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert {len(desk.client.get_metric_history(run.run_id, name)) for name in found.data.metrics} == {1}
    for other in desk.runs(cell):
        if other.info.run_id != run.run_id:
            assert other.data.tags["llmops.complete"] == "abandoned"
            assert desk.traces(other.info.run_id) == {}


@pytest.mark.slow
@pytest.mark.parametrize("recorder", ["bulk", "evaluate"])
def test_a_killed_recording_is_completed_as_the_same_run(tmp_path, recorder):
    rows = 130  # two batches
    died = record_and_die(tmp_path, recorder, rows, 0, 2, "trace_info")
    assert died.returncode == -signal.SIGKILL, died.stderr
    desk = open_desk(Settings(home=tmp_path))
    cell = desk.cell(seed=0)
    [left] = desk.runs(cell)
    assert desk.recorder.find(cell.suite, cell.hash) is None
    assert 0 < len(list(stored_traces(desk.client, left.info.experiment_id, left.info.run_id))) < rows
    run = desk.recorder.record(cell, report(rows), recorder)
    assert run.run_id == left.info.run_id
    check_whole(desk, cell, rows, run)


@pytest.mark.slow
@pytest.mark.parametrize("recorder", ["bulk", "evaluate"])
def test_wherever_a_recording_is_killed_it_is_made_whole(tmp_path, recorder):
    rows = 6
    record_and_die(tmp_path, recorder, rows, 0, NEVER)  # makes the experiment, which the next ones find
    total = int(record_and_die(tmp_path, recorder, rows, 1, NEVER).stdout.split()[-1])
    desk = open_desk(Settings(home=tmp_path))
    for seed, kill_at in enumerate([1, 3, *range(6, total - 5, total // 5), *range(total - 5, total)], 2):
        died = record_and_die(tmp_path, recorder, rows, seed, kill_at)
        cell = desk.cell(seed=seed)
        assert died.returncode == -signal.SIGKILL, died.stderr
        known = desk.recorder.find(cell.suite, cell.hash)  # after the last write, the run is already there
        check_whole(desk, cell, rows, known or desk.recorder.record(cell, report(rows), recorder))


def stop_recording(desk: Any, cell: Any, rows: int | list[Any], recorder: str) -> None:
    """Stopped as soon as it tells of its progress."""

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        desk.recorder.record(cell, report(rows), recorder, progress=stop)


@pytest.mark.parametrize(("first", "second"), [("evaluate", "bulk"), ("bulk", "evaluate")])
def test_a_run_of_the_other_recorder_is_cleared_away(desk, first, second):
    cell = desk.cell()
    stop_recording(desk, cell, 3, first)
    [left] = desk.runs(cell)
    run = desk.recorder.record(cell, report(3), second)
    assert run.run_id != left.info.run_id
    check_whole(desk, cell, 3, run)


@pytest.mark.parametrize("recorder", ["bulk", "evaluate"])
def test_a_stopped_recording_with_new_results_shows_the_new_ones(desk, recorder):
    cell = desk.cell()
    stop_recording(desk, cell, [row(4), row(2)], recorder)
    run = desk.recorder.record(cell, report([replace(row(3), row=row(4).row), row(2)]), recorder)
    trace = desk.traces(run.run_id)["row-4"]
    given = {a.name: a for a in trace.info.assessments}
    assert (trace.info.state, trace.data.spans[0].outputs) == ("OK", row(3).output.text)
    assert (given["judge"].value, given["correct"].value) == (0.75, True)
    assert len(desk.traces(run.run_id)) == 2


def test_parameters_that_changed_make_a_new_run(desk):
    cell = desk.cell()
    first = desk.recorder.record(cell, report(2), "bulk", extra_params={"cache": "on"})
    desk.client.set_tag(first.run_id, "llmops.complete", "false")  # as if killed just before its last write
    second = desk.recorder.record(cell, report(2), "bulk", extra_params={"cache": "off"})
    assert second.run_id != first.run_id
    assert desk.traces(first.run_id) == {}


@pytest.mark.parametrize(
    ("writer", "taken"),
    [
        ("{host} {pid} 1.00", True),  # the process id was given away again
        ("{host} 999999999 1.00", True),
        ("{host} 1 {init}", False),
        ("elsewhere 1 1.00", False),
    ],
)
def test_only_a_run_whose_writer_is_gone_is_taken_up(desk, writer, taken):
    import psutil

    host, pid, _ = this_process().split()
    cell = desk.cell()
    first = desk.recorder.record(cell, report(2), "bulk")
    init = f"{psutil.Process(1).create_time():.2f}"
    desk.client.set_tag(first.run_id, "llmops.writer", writer.format(host=host, pid=pid, init=init))
    desk.client.set_tag(first.run_id, "llmops.complete", "false")
    second = desk.recorder.record(cell, report(2), "bulk")
    assert (second.run_id == first.run_id) is taken
    assert len(desk.traces(first.run_id)) == 2


ROWS = 230


@pytest.fixture
def server(tmp_path):
    """A tracking server of its own on loopback, and the store of its artifacts."""
    with s3_server(tmp_path, "files") as s3, mlflow_server(tmp_path, f"sqlite:///{tmp_path}/db", s3, "files") as uri:
        yield uri


@pytest.mark.slow
def test_a_tracking_server_holds_the_same_run(server, tmp_path):
    desk = open_desk(Settings(home=tmp_path, tracking_uri=server))
    cell = desk.cell()
    start = time.monotonic()
    run = desk.recorder.record(cell, report(ROWS), "bulk")
    per_row = 1000 * (time.monotonic() - start) / ROWS
    print(f"\nbulk over HTTP: {per_row:.1f} ms a row")  # noqa: T201 - the measurement
    assert per_row < 500
    assert list(desk.recorder.rows(run)) == [row(i) for i in range(ROWS)]
    traces = desk.traces(run.run_id)
    assert traces.keys() == {f"row-{i}" for i in range(ROWS)}
    assert traces["row-1"].data.spans[0].outputs == row(1).output.text
    assert desk.recorder.find(cell.suite, cell.hash) == run
    few = desk.recorder.record(desk.cell(), report(5), "evaluate")
    assert desk.traces(few.run_id).keys() == {f"row-{i}" for i in range(5)}
