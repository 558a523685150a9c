"""DBOS as pipelines use it: quiet, without network, with JSON in its tables, and one queue for what goes on here."""

from __future__ import annotations

import json
import logging
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import URL

from llmops.errors import CannotRun
from llmops.pipelines.database import SCHEMA, prepare, translated
from llmops.pipelines.pipeline import told

if TYPE_CHECKING:
    from dbos import DBOSClient, DBOSConfig, Serializer

WORKFLOW = "llmops_pipeline"
_APPLICATION = "llmops"
_VERSION = "1"
"""Fixed: DBOS derives one from the code otherwise, and then goes on with nothing that older code began."""
_QUEUE_SECONDS = 0.05
_in_use = threading.Lock()
"""DBOS is one for the process."""
_TOLD_ALREADY = ("Exception encountered in background workflow", "Step being automatically retried")


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
def going_on(url: URL, run_id: str, from_step: int, *, ended: bool) -> Iterator[None]:
    """Puts a workflow, whose process has ended, into the queue that `launched` listens to within the block.

    from_step: the first that has not finished. ended: whether it failed; otherwise it was interrupted. Raises
    StoreUnavailable.
    """
    with client(url) as writer, translated(url):
        writer.register_queue(run_id, polling_interval_sec=_QUEUE_SECONDS)
        try:
            if not ended:
                writer.cancel_workflow(run_id)  # only an ended one can be rewound
            writer.rewind_workflow(run_id, start_step=from_step, queue_name=run_id)
            yield
        finally:
            writer.delete_queue(run_id)


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
