"""Deletes what people wrote from old records, and keeps what happened: release, status, tokens, times, route."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from llmops.production_log.database import LogDatabase
from llmops.production_log.tables import feedback, idempotent_replies, log_records

BATCH = 500
"""Records of one transaction, so that the gateway's never wait for long."""

_MOST_CHARACTERS = 255
_FACTS = ("route", "stream", "finish_reason", "arm", "queue_ms", "key", "user", "shadow_of", "texts", "rows")
_GUARD_FACTS = ("guard", "where", "index", "count", "pattern", "asked")
_UNSAID: Mapping[str, Any] = {"comment": None, "truth": None}
_ERROR_KIND = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,63}\Z")


def delete_texts(
    database: LogDatabase,
    before: datetime,
    *,
    described_up_to: int | None = None,
    batch: int = BATCH,
    dry_run: bool = False,
) -> int:
    """See `ProductionLog.delete_texts`."""
    if dry_run:
        query = sa.select(sa.func.count()).select_from(log_records).where(*_due(before, described_up_to))
        with database.reading() as connection:
            return int(connection.execute(query).scalar_one())
    deleted = 0
    for rows in _in_batches(database, before, described_up_to, batch):
        with database.writing() as connection:
            deleted += _delete(connection, rows)
    with database.writing() as connection:
        # What was said of an answer after its own texts had gone.
        old = feedback.c.at < before.timestamp()
        connection.execute(sa.update(feedback).where(old, _said_something()).values(_UNSAID))
    return deleted


def facts_of(details: Mapping[str, Any]) -> dict[str, Any]:
    """Of a record's details, what is known to hold no text of a person. What is not known is taken for a text."""
    kept = {name: details[name] for name in _FACTS if name in details and _is_fact(details[name])}
    if isinstance(parameters := details.get("parameters"), Mapping):
        kept["parameters"] = {
            name: value for name, value in parameters.items() if value is None or isinstance(value, (int, float))
        }
    kind = str(details.get("error") or "").partition(":")[0]
    if _ERROR_KIND.match(kind):
        kept["error"] = kind
    if isinstance(guards := details.get("guards"), Sequence) and not isinstance(guards, str):
        kept["guards"] = [_guard_facts(action) for action in guards if isinstance(action, Mapping)]
    return kept


def _guard_facts(action: Mapping[str, Any]) -> dict[str, Any]:
    return {name: action[name] for name in _GUARD_FACTS if name in action and _is_fact(action[name])}


def _is_fact(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _MOST_CHARACTERS
    return value is None or isinstance(value, (int, float))


def _said_something() -> sa.ColumnElement[bool]:
    return sa.or_(*(feedback.c[name].is_not(sa.null()) for name in _UNSAID))


def _due(before: datetime, described_up_to: int | None) -> list[sa.ColumnElement[bool]]:
    table = log_records.c
    due = [table.at < before.timestamp(), table.text_deleted_at.is_(None)]
    return due if described_up_to is None else [*due, table.seq <= described_up_to]


def _in_batches(
    database: LogDatabase, before: datetime, described_up_to: int | None, size: int
) -> Iterator[Sequence[sa.RowMapping]]:
    # From where the last batch ended: looking from the start each time would pass by all that is done already.
    table = log_records.c
    columns = (table.seq, table.at, table.key, table.request_id, table.caller, table.details)
    place = sa.tuple_(table.at, table.seq)
    after: list[sa.ColumnElement[bool]] = []
    while True:
        query = sa.select(*columns).where(*_due(before, described_up_to), *after)
        with database.reading() as connection:
            rows = connection.execute(query.order_by(table.at, table.seq).limit(size)).mappings().all()
        if not rows:
            return
        yield rows
        after = [place > sa.tuple_(sa.literal(rows[-1]["at"]), sa.literal(rows[-1]["seq"]))]


def _delete(connection: sa.Connection, rows: Sequence[sa.RowMapping]) -> int:
    table = log_records.c
    emptied = (
        sa.update(log_records)
        .where(table.seq == sa.bindparam("this"), table.text_deleted_at.is_(None))
        .values(input="", output="", details=sa.bindparam("facts"), text_deleted_at=sa.bindparam("now"))
    )
    now = time.time()
    values = [{"this": row["seq"], "facts": facts_of(row["details"]), "now": now} for row in rows]
    deleted = connection.execute(emptied, values).rowcount
    about = feedback.c.record_key.in_([row["key"] for row in rows])
    connection.execute(sa.update(feedback).where(about, _said_something()).values(_UNSAID))
    ids = {row["request_id"] for row in rows}
    connection.execute(sa.delete(idempotent_replies).where(idempotent_replies.c.request_id.in_(ids)))
    return deleted
