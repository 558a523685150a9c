"""Runs of pipelines in DBOS: begun, gone on with after an interruption or a failure, or found finished.

DBOS is used quietly: without network, with JSON in its tables, and with one queue for what goes on here.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sqlalchemy.engine import URL

from llmops.errors import CannotRun, UsageError
from llmops.pipelines.database import SCHEMA, prepare, translated
from llmops.pipelines.pipeline import Pipeline, PipelineRun, Recorder, StepRecord, told

if TYPE_CHECKING:
    from dbos import DBOSClient, DBOSConfig, Serializer, StepOptions, WorkflowHandle

T = TypeVar("T")
WORKFLOW = "llmops_pipeline"
_APPLICATION = "llmops"
_VERSION = "1"
"""Fixed: DBOS derives one from the code otherwise, and then goes on with nothing that older code began."""
_QUEUE_SECONDS = 0.05
_in_use = threading.Lock()
"""DBOS is one for the process."""
_TOLD_ALREADY = ("Exception encountered in background workflow", "Step being automatically retried")
_RESULT_SECONDS = 0.1
_log = logging.getLogger(__name__)


@dataclass
class Execution:
    """A run in this process: the steps that its pipeline does its work through, whose results DBOS keeps.

    done: numbers of the steps done here; the others had finished before.
    """

    pipeline: Pipeline
    cycle: str
    recorder: Recorder
    tell: Callable[[str], None]
    done: set[int] = field(default_factory=set)
    step: str | None = None
    failure: BaseException | None = None
    _workflow: str | None = None
    _number: int = 0

    def body(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The workflow. What it raises is kept, for DBOS keeps only the text."""
        from dbos import DBOS

        self._workflow = DBOS.workflow_id
        try:
            self.recorder.begin(self.pipeline.name, self.cycle, inputs)
            complete = self.pipeline.complete(inputs)  # a cycle that older code began lacks newer inputs
            result = as_json(dict(self.pipeline.function(self, complete)), "the pipeline's result")
            self.recorder.end(result, None)
        except Exception as error:
            self.failure = error
            where = f"step {self.step}" if self.step else "between its steps"
            try:
                self.recorder.end(None, f"{where}: {told(error)}")
            except CannotRun as also:
                _log.warning("the failure of %s@%s is not recorded: %s", self.pipeline.name, self.cycle, also)
            raise
        return cast("Mapping[str, Any]", result)

    def do(self, name: str, function: Callable[..., T], *arguments: Any, retries: int = 0) -> T:
        """As `Steps.do`."""
        from dbos import DBOS
        from dbos import error as dbos_errors

        if self._workflow != DBOS.workflow_id or DBOS.step_status is not None:
            raise RuntimeError(f"step {name}: only the pipeline's own function may begin a step, in its own thread")
        self._number += 1
        self.step, number = name, self._number
        given = as_json(list(arguments), "an argument")

        def work() -> T:
            self.done.add(number)
            self.tell(f"{self.pipeline.name}@{self.cycle}: {name}")
            at, begun = datetime.now(UTC), time.monotonic()
            try:
                result = as_json(function(*given), "its result")
            except Exception as error:
                self.recorder.step(StepRecord(number, name, given, None, time.monotonic() - begun, at, told(error)))
                raise
            # Inside the step: should the process end before DBOS has it, the step is done and written down again.
            self.recorder.step(StepRecord(number, name, given, result, time.monotonic() - begun, at))
            return cast("T", result)

        options: StepOptions = {
            "name": name,
            "retries_allowed": retries > 0,
            "max_attempts": retries + 1,
            "should_retry": lambda error: not isinstance(error, UsageError),
        }
        try:
            result = DBOS.run_step(options, work)
        except dbos_errors.DBOSMaxStepRetriesExceeded as error:
            raise (error.errors[-1] if error.errors else error) from error
        except dbos_errors.DBOSUnexpectedStepError as error:
            raise CannotRun(
                f"step {number} had another name than {name!r} when this cycle began: the pipeline has changed; "
                "begin another cycle"
            ) from error
        self.step = None
        return result


def execute(workflow: Any, run_id: str, inputs: Mapping[str, Any], *, begun: bool) -> None:
    """Returns when the workflow has finished. Raises whatever it raises. begun: it is in the queue already."""
    from dbos import DBOS, SetWorkflowID

    handle: WorkflowHandle[Any]
    if begun:
        handle = DBOS.retrieve_workflow(run_id)
    else:
        with SetWorkflowID(run_id):
            handle = DBOS.start_workflow(workflow, inputs)
    handle.get_result(polling_interval_sec=_RESULT_SECONDS)


def as_json(value: Any, what: str) -> Any:
    """The value as it would be read from a JSON file. Raises CannotRun: it is none, such as NaN."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise CannotRun(f"{what} is no JSON: {told(error)}") from error


@contextmanager
def launched(url: URL, queue: str, body: Callable[..., Any]) -> Iterator[Any]:
    """Gives the workflow that calls `body`, with DBOS running until the block ends.

    DBOS would go on by itself with every workflow of a dead process, and would share its queue with every process of
    the application. Neither is wanted: who goes on with a cycle holds its lock. So each process is an executor of its
    own, and listens to the queue of its cycle alone.

    Raises StoreUnavailable; CannotRun: a pipeline runs in this process already.
    """
    from dbos import DBOS

    if not _in_use.acquire(blocking=False):
        raise CannotRun("a pipeline runs in this process already: run one after the other")
    _write_warnings_in_one_line()
    try:
        prepare(url)
        with translated(url):
            config: DBOSConfig = {
                "name": _APPLICATION,
                "system_database_url": url.render_as_string(hide_password=False),
                "dbos_system_schema": SCHEMA,
                "application_version": _VERSION,
                "executor_id": uuid.uuid4().hex,
                "serializer": _serializer(),
                "use_listen_notify": False,
                "notification_listener_polling_interval_sec": 0.1,  # nothing is listened for, and closing waits for it
                "enable_otlp": False,
                "log_level": "WARNING",
            }
            DBOS(config=config)
            DBOS.listen_queues([queue])
            workflow = DBOS.workflow(name=WORKFLOW)(lambda inputs: body(inputs))  # DBOS marks the function: no method
            DBOS.launch()
        yield workflow
    finally:
        DBOS.destroy(destroy_registry=True)
        _in_use.release()


@contextmanager
def client(url: URL) -> Iterator[DBOSClient]:
    """Reads what DBOS has stored, without running anything. The tables must be there. Raises StoreUnavailable."""
    from dbos import DBOSClient

    _write_warnings_in_one_line()
    with translated(url):
        opened = DBOSClient(
            system_database_url=url.render_as_string(hide_password=False),
            dbos_system_schema=SCHEMA,
            serializer=_serializer(),
            application_name=_APPLICATION,
            retry_connection_errors=False,
        )
        try:
            yield opened
        finally:
            opened.destroy()


@contextmanager
def going_on(url: URL, known: PipelineRun) -> Iterator[None]:
    """Queues an ended run for `launched`, from its first unfinished step. Raises StoreUnavailable."""
    failed = [number for number, step in enumerate(known.steps, 1) if step.status == "failed"]
    with client(url) as writer, translated(url):
        writer.register_queue(known.ref, polling_interval_sec=_QUEUE_SECONDS)
        try:
            if known.status != "failed":
                writer.cancel_workflow(known.ref)  # only an ended one can be rewound
            start = min(failed, default=len(known.steps) + 1)
            writer.rewind_workflow(known.ref, start_step=start, queue_name=known.ref)
            yield
        finally:
            writer.delete_queue(known.ref)


class RecordedError(Exception):
    """What is known of an error of an earlier attempt: its text."""


def _serializer() -> Serializer:
    from dbos import Serializer

    class _Json(Serializer):
        """JSON instead of DBOS's pickles: who can write to the database must not be able to run code here."""

        def serialize(self, data: Any) -> str:
            return json.dumps({"error": told(data)} if isinstance(data, Exception) else {"value": data})

        def deserialize(self, serialized_data: str) -> Any:
            stored: Mapping[str, Any] = json.loads(serialized_data)
            return RecordedError(stored["error"]) if "error" in stored else stored["value"]

        def name(self) -> str:
            return "llmops_json"

    return _Json()


def _write_warnings_in_one_line() -> None:
    """DBOS makes a handler of its own, with tracebacks, where its logger has none."""
    logger = logging.getLogger("dbos")
    if not any(isinstance(handler, _OneLine) for handler in logger.handlers):
        logger.handlers[:] = [_OneLine()]
        logger.propagate = False


class _OneLine(logging.Handler):
    """Warnings to stderr, but for those that are told as errors of the run anyway."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if not text.startswith(_TOLD_ALREADY):
            cause = f": {record.exc_info[1]}" if record.exc_info else ""
            sys.stderr.write(" ".join(f"pipelines: {text}{cause}".split()) + "\n")
