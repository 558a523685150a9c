"""MLflow's review queues: traces of eval rows and of log records that people are asked about, and what they answered.

MLflow keeps whatever is written as an answer; `llmops.eval_runs.reviewing` checks it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from llmops.errors import UnknownVersion
from llmops.recording.production_traces import LOG_KEY_TAG
from llmops.recording.traces import ROW_ID_TAG, traces_in
from llmops.registry.store import Store, pages, translated

CORRECT = "Is the answer correct?"
"""The question that is answered with pass or fail: a judge's label."""
EXPECTED = "What would be a right answer?"
"""The question that is answered with a text: an expectation."""


@dataclass(frozen=True, slots=True)
class ReviewAnswer:
    """What a person said of a trace. question: `CORRECT` or `EXPECTED`. value: as MLflow holds it, unchecked."""

    question: str
    value: Any
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ReviewedItem:
    """A trace in the queue. status: `pending`, `complete` or `declined`. source: the run, or the request, it is of;
    row: the id of its row there, or the key of its log record. Both are None where the trace is gone or is of neither.
    """

    trace_id: str
    status: str
    source: str | None
    row: str | None
    answers: Sequence[ReviewAnswer]


@dataclass(frozen=True, slots=True)
class ReviewQueue:
    """users: who is asked, in lower case; empty for anybody. items: the first to be reviewed first."""

    name: str
    users: Sequence[str]
    items: Sequence[ReviewedItem]


def put_into_queue(
    store: Store, experiment_id: str, name: str, trace_ids: Sequence[str], users: Sequence[str]
) -> tuple[str, list[str], list[str]]:
    """Puts traces into the queue of that name, which is made when absent with both questions, in the order in which
    they are to be reviewed. What is in it already stays as it is.

    users: who is asked besides those who were. Returns the queue's id, the traces that were put in, and those that
    are not in the store. Raises StoreUnavailable, UsageError.
    """
    from mlflow.genai import label_schemas, review_queues

    store.make_current()
    with translated(f"review queue {name}"):
        schemas = {
            schema.name: schema.schema_id for schema in label_schemas.list_label_schemas(experiment_id=experiment_id)
        }
        passes = label_schemas.InputPassFail(positive_label="Correct", negative_label="Wrong")
        questions: Mapping[str, tuple[Any, Any]] = {
            CORRECT: ("feedback", passes),
            EXPECTED: ("expectation", label_schemas.InputText()),
        }
        for question, (kind, asked) in questions.items():
            if question not in schemas:
                made = label_schemas.create_label_schema(
                    question, type=kind, input=asked, enable_comment=kind == "feedback", experiment_id=experiment_id
                )
                schemas[question] = made.schema_id
        queue = find_queue(experiment_id, name)
        if queue is None:
            queue = review_queues.create_review_queue(
                name,
                queue_type="custom",
                users=list(users),
                schema_ids=[schemas[question] for question in questions],
                experiment_id=experiment_id,
            )
        elif users:
            review_queues.update_review_queue(queue.queue_id, users=sorted({*queue.users, *users}))
        items = {item.item_id: str(item.status) for item in _items(queue.queue_id)}
        known = traces_in(store.uri, trace_ids)
        added = [trace_id for trace_id in trace_ids if trace_id in known and trace_id not in items]
        waiting = [trace_id for trace_id, status in items.items() if status == "pending"] if added else []
        # Pages show the newest first, to the millisecond: what waited before is put in again, above.
        for trace_id in [*reversed(added), *reversed(waiting)]:
            if trace_id in items:
                review_queues.remove_items_from_review_queue(queue.queue_id, item_ids=[trace_id])
            review_queues.add_items_to_review_queue(queue.queue_id, item_ids=[trace_id])
            time.sleep(0.002)
    return str(queue.queue_id), added, [trace_id for trace_id in trace_ids if trace_id not in known]


def read_queue(store: Store, experiment: str, name: str) -> ReviewQueue:
    """The queue, in the experiment of that name, with what people have answered. Raises UnknownVersion,
    StoreUnavailable."""
    store.make_current()
    with translated(f"review queue {name}"):
        queue = next(filter(None, (find_queue(each, name) for each in store.experiment_ids(experiment))), None)
        if queue is None:
            raise UnknownVersion("there is none; `llmops review open` makes it")
        items = _items(queue.queue_id)
        traces = traces_in(store.uri, [item.item_id for item in items])
        return ReviewQueue(name, tuple(queue.users), [_reviewed(item, traces.get(item.item_id)) for item in items])


def find_queue(experiment_id: str, name: str) -> Any | None:
    """MLflow's review queue of that name, in the current store. MLflow's errors pass through."""
    from mlflow.genai.review_queues import list_review_queues

    queues = pages(list_review_queues, 100, experiment_id=experiment_id)
    return next((queue for queue in queues if queue.name.lower() == name.lower()), None)


def _items(queue_id: str) -> list[Any]:
    from mlflow.genai.review_queues import list_review_queue_items

    return list(pages(list_review_queue_items, 100, queue_id=queue_id))


def _reviewed(item: Any, trace: Any | None) -> ReviewedItem:
    if trace is None:
        return ReviewedItem(item.item_id, str(item.status), None, None, ())
    answers = [
        ReviewAnswer(
            each.name, each.value, each.source.source_id, datetime.fromtimestamp(each.create_time_ms / 1000, UTC)
        )
        for each in trace.assessments
        if each.name in (CORRECT, EXPECTED) and each.source.source_type == "HUMAN" and getattr(each, "valid", True)
    ]
    source, row = trace.trace_metadata.get("mlflow.sourceRun"), trace.tags.get(ROW_ID_TAG)
    if (key := trace.tags.get(LOG_KEY_TAG)) is not None:
        source, row = trace.client_request_id, key
    return ReviewedItem(item.item_id, str(item.status), source, row, answers)
