"""`Pipelines`: runs pipelines, and tells of their runs."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any, Self

from llmops.errors import StoreUnavailable, UnknownVersion, UsageError
from llmops.pipelines.database import database_url, has_tables, is_held, only_one, translated
from llmops.pipelines.dbos_runs import WORKFLOW, Execution, as_json, client, execute, going_on, launched
from llmops.pipelines.pipeline import (
    Pipeline,
    PipelineRun,
    Recorder,
    RunStatus,
    StepFailed,
    StepRun,
    StepStatus,
    parse_reference,
    reference,
)
from llmops.settings import Settings


class Pipelines:
    """Runs of pipelines, kept in a database: of the settings' home, or where `LLMOPS_PIPELINES_URL` says.

    One run at a time in a process; any number of processes. recorder: where steps are written down for people. tell:
    gets a line when a step begins, and when there is something else to wait for.
    """

    def __init__(
        self, settings: Settings, *, recorder: Recorder | None = None, tell: Callable[[str], None] | None = None
    ) -> None:
        """Opens nothing yet. Raises StoreUnavailable: the URL is none of a SQLite file or PostgreSQL."""
        self._url = database_url(settings.resolved_pipelines_url)
        self._recorder = recorder or Recorder()
        self._tell = tell or (lambda _text: None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left open: each run closes what it opened."""

    def run(self, pipeline: Pipeline, inputs: Mapping[str, Any] | None = None, *, cycle: str) -> PipelineRun:
        """Runs a cycle of a pipeline to its end; the same pipeline and cycle is the same run.

        One that has finished is not repeated: its result is given again. One that was interrupted or failed goes on
        after its last finished step, with the inputs it began with. Where another process is at it, waits for that one
        to end first. inputs: None for those it began with, or the defaults.

        Raises StepFailed: a step raised; run the same cycle again to go on from there. UsageError: wrong inputs, other
        inputs than the run began with, a name or cycle that cannot be one. StoreUnavailable.
        """
        ref = reference(pipeline.name, cycle)
        given = None if inputs is None else as_json(dict(pipeline.complete(inputs)), "inputs")
        with only_one(self._url, ref, lambda: self._tell(f"{ref}: another process is at it; waiting for it to end")):
            known = self._find(ref, done=())
            if known is not None:
                _refuse_other_inputs(known, given)
                if known.status == "finished":
                    return known
                finished = sum(step.status != "failed" for step in known.steps)
                self._tell(f"{ref}: going on; {finished} of its steps had finished")
            return self._run(pipeline, cycle, known, given)

    def _run(
        self, pipeline: Pipeline, cycle: str, known: PipelineRun | None, given: Mapping[str, Any] | None
    ) -> PipelineRun:
        """known: what is there of the run, which goes on; None: it begins."""
        execution = Execution(pipeline, cycle, self._recorder, self._tell)
        ref, failure = reference(pipeline.name, cycle), None
        made_ready = nullcontext() if known is None else going_on(self._url, known)
        with made_ready, launched(self._url, ref, execution.body) as workflow:
            begun_with = as_json(dict(pipeline.complete({})), "inputs") if given is None else given
            try:
                with translated(self._url):
                    execute(workflow, ref, begun_with, begun=known is not None)
            except Exception as error:  # noqa: BLE001 - raised below, with what became of the run
                failure = execution.failure or error
        run = self._find(ref, execution.done)
        if run is None:
            raise StoreUnavailable(f"{ref}: somebody has deleted this run while it was at work")
        if failure is not None:
            raise StepFailed(run, execution.step, failure) from failure
        return run

    def get(self, ref: str) -> PipelineRun:
        """The run of `NAME@CYCLE`. Raises UsageError, UnknownVersion, StoreUnavailable."""
        parse_reference(ref)
        run = self._find(ref)
        if run is None:
            raise UnknownVersion(f"no run {ref}: `llmops pipeline list` shows those there are")
        return self._with_holder(run)

    def runs(self, pipeline: str | None = None, *, limit: int = 20) -> list[PipelineRun]:
        """The latest runs, newest first, without their steps. Raises StoreUnavailable."""
        if not has_tables(self._url):
            return []
        with client(self._url) as reader:
            prefix = None if pipeline is None else f"{pipeline}@"
            workflows = reader.list_workflows(
                name=WORKFLOW, workflow_id_prefix=prefix, sort_desc=True, limit=limit, load_input=True
            )
        return [self._with_holder(_run_of(status, ())) for status in workflows]

    def _find(self, ref: str, done: Collection[int] | None = None) -> PipelineRun | None:
        """done: numbers of the steps that were done just now, others being skipped; None where that is not asked."""
        if not has_tables(self._url):
            return None
        with client(self._url) as reader:
            workflows = reader.list_workflows(workflow_ids=[ref])
            if not workflows:
                return None
            steps = reader.list_workflow_steps(ref)
        return _run_of(workflows[0], [_step_of(step, done) for step in steps])

    def _with_holder(self, run: PipelineRun) -> PipelineRun:
        """An unfinished run is running while a process holds its lock."""
        if run.status == "interrupted" and is_held(self._url, run.ref):
            return dataclasses.replace(run, status="running")
        return run


def _refuse_other_inputs(known: PipelineRun, given: Mapping[str, Any] | None) -> None:
    if given is None or given == known.inputs:
        return
    names = [name for name in sorted({*given, *known.inputs}) if given.get(name) != known.inputs.get(name)]
    began = ", ".join(f"{name}={known.inputs.get(name)}" for name in names)
    raise UsageError(f"{known.ref} began with {began}: leave the inputs out to go on, or begin another cycle")


def _run_of(status: Any, steps: Any) -> PipelineRun:
    pipeline, cycle = parse_reference(status.workflow_id)
    words: dict[str, RunStatus] = {"SUCCESS": "finished", "ERROR": "failed"}
    return PipelineRun(
        pipeline=pipeline,
        cycle=cycle,
        status=words.get(status.status, "interrupted"),
        steps=tuple(steps),
        result=status.output or {},
        inputs=status.input["args"][0] if status.input else {},
        error=None if status.error is None else str(status.error),
        started_at=_time(status.created_at),
    )


def _step_of(step: Any, done: Collection[int] | None) -> StepRun:
    begun, ended, error = step["started_at_epoch_ms"], step["completed_at_epoch_ms"], step["error"]
    status: StepStatus = "done" if done is None or step["function_id"] in done else "skipped"
    if error is not None:
        status = "failed"
    seconds = max(0, (ended or begun or 0) - (begun or 0)) / 1000
    return StepRun(step["function_name"], status, seconds, _time(begun), None if error is None else str(error))


def _time(milliseconds: int | None) -> datetime:
    return datetime.fromtimestamp((milliseconds or 0) / 1000, UTC)
