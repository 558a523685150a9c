"""Takes what belongs to a user or a request out of the monitor's tables, and says how far texts may be deleted.

Rows leave the segments, and hours that had them are summed up anew. Request ids leave alarms, alerts, actions and
verdicts, and so do slices of that user. Counts that are part of a frozen reference stay: they name nobody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from llmops.production_log import Belongings, ProductionLog
from monitoring.act import action_tables
from monitoring.decide.references import reference_summaries
from monitoring.store.database import descriptor_segments, hourly_summaries, ingest_cursors, reading
from monitoring.store.ingest import positions, rebuild_hours
from monitoring.store.rows import HOUR
from monitoring.store.segments import holds, rewrite_without

_LOG_TABLES = frozenset(("log_records", "feedback", "idempotent_replies"))
_USER = "user"
_ALARMS = action_tables.alarm_book
_OURS = frozenset(
    name for table in (_ALARMS, descriptor_segments, reference_summaries) for name in table.metadata.tables
)
_ID_COLUMNS = {table.name: names for table, names in action_tables.ID_COLUMNS.items()}


def described_up_to(engine: sa.Engine) -> int | None:
    """The cursor up to which the log is described, by the newest version; None where nothing was ever described.

    Raises StoreUnavailable.
    """
    with reading(engine) as connection:
        if not sa.inspect(connection).has_table(ingest_cursors.name):
            return None
        found = positions(connection)
    return found[0].cursor if found else None


def retain(
    log: ProductionLog, engine: sa.Engine, days: int | None, *, now: datetime | None = None, dry_run: bool = False
) -> int:
    """Deletes the texts of records older than `days` that are described; returns of how many. None: deletes nothing.

    Raises StoreUnavailable.
    """
    if days is None:
        return 0
    before = (now or datetime.now(UTC)) - timedelta(days=days)
    cursor = described_up_to(engine) or 0  # nothing described yet, such as after an ingest that failed: nothing is due
    return log.delete_texts(before, described_up_to=cursor, dry_run=dry_run)


def forget(connection: sa.Connection, found: Belongings) -> dict[str, int]:
    """Takes it out, in the transaction that deletes it from the log and after that; rows changed, by table."""
    tables = set(sa.inspect(connection).get_table_names())
    changed: dict[str, int] = {}
    if ingest_cursors.name in tables:
        before = _rows(connection)
        hours = {app: set(rewrite_without(connection, app, keys)) for app, keys in found.keys.items() if app}
        for app, at in found.places:
            hours.setdefault(app, set()).add(int(at // HOUR))
        for app, affected in hours.items():
            if affected:
                rebuild_hours(connection, app, affected)
        changed[descriptor_segments.name] = before - _rows(connection)
        changed[hourly_summaries.name] = sum(map(len, hours.values()))
    if reference_summaries.name in tables and found.names:
        table = reference_summaries.c
        own = (table.dimension == _USER, table.value.in_(found.names))
        changed[reference_summaries.name] = connection.execute(sa.delete(reference_summaries).where(*own)).rowcount
    if _ALARMS.name in tables:
        changed |= _forget_in_alarms(connection, found)
    return changed


def still_holds(connection: sa.Connection, found: Belongings) -> dict[str, int]:
    """What is left of it, by table: in each of the database but the log's own, known to this module or not.

    In segments, rows of its records; in the other tables, rows with its keys, request ids, or the user as such.
    """
    left: dict[str, int] = {}
    for name in sorted(set(sa.inspect(connection).get_table_names()) - _LOG_TABLES):
        if name == descriptor_segments.name:
            left[name] = len(holds(connection, found.all_keys))
        else:
            left[name] = _rows_with(connection, name, found)
    return left


def nameless(document: Any, found: Belongings) -> Any:
    """A JSON document of the monitor's, such as an action's evidence, without what belongs to the user or request."""
    return _without(action_tables.without_requests(document, found.request_ids), found.names)


def _rows(connection: sa.Connection) -> int:
    total = connection.execute(sa.select(sa.func.sum(descriptor_segments.c.rows))).scalar_one()
    return int(total or 0)


def _forget_in_alarms(connection: sa.Connection, found: Belongings) -> dict[str, int]:
    slices = _forget_slices(connection, found.names) if found.names else 0
    rows = action_tables.forget_requests(connection, found.request_ids) if found.request_ids else 0
    return {_ALARMS.name: slices + rows}


def _forget_slices(connection: sa.Connection, names: frozenset[str]) -> int:
    """Of alarms and verdicts, those about the user's own slice."""
    changed = 0
    for name in (_ALARMS.name, "alert_outbox", "monitor_actions", "tested_windows"):
        table = action_tables.metadata.tables[name]
        keys, documents = list(table.primary_key.columns), [c for c in table.columns if isinstance(c.type, sa.JSON)]
        for row in connection.execute(sa.select(*keys, *documents)).all():
            old = dict(zip((each.name for each in documents), row[len(keys) :], strict=True))
            same = sa.and_(*(key == value for key, value in zip(keys, row, strict=False)))
            if any(_is_about(value, names) for value in old.values()):
                changed += connection.execute(sa.delete(table).where(same)).rowcount
                continue
            new = {column: _without(value, names) for column, value in old.items()}
            if new != old:
                changed += connection.execute(sa.update(table).where(same).values(new)).rowcount
    return changed


def _without(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, list):
        return [_without(item, names) for item in value if not _is_about(item, names)]
    if isinstance(value, Mapping):
        return {name: _without(item, names) for name, item in value.items() if not _is_about(item, names)}
    return value


def _is_about(item: Any, names: frozenset[str]) -> bool:
    """Whether it is a slice of the user, or something with such a slice."""
    if not isinstance(item, Mapping):
        return False
    parts = (item, item.get("slice"), *(item["slices"] if isinstance(item.get("slices"), list) else ()))
    return any(isinstance(part, Mapping) and part.get(_USER) in names for part in parts)


def _rows_with(connection: sa.Connection, name: str, found: Belongings) -> int:
    """Rows of a table in which a key, a request id or the user is named."""
    table = sa.Table(name, sa.MetaData(), autoload_with=connection)
    texts = [c for c in table.columns if isinstance(c.type, (sa.String, sa.JSON))]
    if not texts:
        return 0
    query = sa.select(*(sa.cast(column, sa.Text) for column in texts))
    marks = _Marks(found, name)
    columns = [column.name for column in texts]
    rows = connection.execute(query, execution_options={"yield_per": 1000})
    return sum(marks.are_in(dict(zip(columns, row, strict=True))) for row in rows)


class _Marks:
    """What gives a user's or request's rows away.

    table: in one of ours request ids count only where it keeps them. Clients choose them: one may be called like an app
    or a language, and would be found for ever.
    """

    def __init__(self, found: Belongings, table: str) -> None:
        ours = table in _OURS
        self._exact = found.all_keys if ours else found.all_keys | found.request_ids
        self._names, self._ids = found.names, found.request_ids
        self._with_ids = _ID_COLUMNS.get(table, ())

    def are_in(self, row: Mapping[str, str | None]) -> bool:
        values = [value for value in row.values() if value]
        if any(self._names_request(column, row[column]) for column in self._with_ids if row.get(column)):
            return True
        if row.get("dimension") == _USER and row.get("value") in self._names:
            return True
        return any(value in self._exact or any(map(self._is_mark, _quoted(value))) for value in values)

    def _names_request(self, column: str, text: str | None) -> bool:
        value = json.loads(text or "null")
        return bool(action_tables.without_requests(value, self._ids, column) != value)

    def _is_mark(self, found: tuple[str, str]) -> bool:
        name, text = found
        return text in self._exact or (name == _USER and text in self._names)


_QUOTED = re.compile(r'(?:"((?:[^"\\]|\\.)*)"\s*:\s*)?"((?:[^"\\]|\\.)*)"')


def _quoted(value: str) -> Iterator[tuple[str, str]]:
    """Texts in JSON, each with the name it stands under, if any."""
    if value[:1] not in "[{":
        return
    for match in _QUOTED.finditer(value):
        yield _plain(match[1] or ""), _plain(match[2])
        if match[1]:
            yield "", _plain(match[1])


def _plain(text: str) -> str:
    if "\\" not in text:
        return text
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text
