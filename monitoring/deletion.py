"""Takes what belongs to a user or a request out of the monitor's tables, and says how far texts may be deleted.

Rows leave the segments, and hours that had them are summed up anew. Request ids leave alarms, alerts, actions and
verdicts, and so do slices of that user. Counts that are part of a frozen reference stay: they name nobody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from llmops.production_log import Belongings, ProductionLog
from monitoring.act.action_tables import ID_COLUMNS, alarm_book
from monitoring.decide.references import reference_summaries
from monitoring.store.database import descriptor_segments, hourly_summaries, ingest_cursors, reading
from monitoring.store.ingest import positions, rebuild_hours
from monitoring.store.rows import HOUR
from monitoring.store.segments import holds, rewrite_without

_LOG_TABLES = frozenset(("log_records", "feedback", "idempotent_replies"))
_USER = "user"
_OURS = frozenset(
    name for table in (alarm_book, descriptor_segments, reference_summaries) for name in table.metadata.tables
)
_QUOTED = re.compile(r'(?:"((?:[^"\\]|\\.)*)"\s*:\s*)?"((?:[^"\\]|\\.)*)"')
"""A text in JSON, and the name it stands under, if any."""


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
        rows = sa.select(sa.func.coalesce(sa.func.sum(descriptor_segments.c.rows), 0))
        before = int(connection.execute(rows).scalar_one())
        hours = {app: set(rewrite_without(connection, app, keys)) for app, keys in found.keys.items() if app}
        for app, at in found.places:
            hours.setdefault(app, set()).add(int(at // HOUR))
        for app, affected in hours.items():
            if affected:
                rebuild_hours(connection, app, affected)
        changed[descriptor_segments.name] = before - int(connection.execute(rows).scalar_one())
        changed[hourly_summaries.name] = sum(map(len, hours.values()))
    if reference_summaries.name in tables and found.names:
        table = reference_summaries.c
        own = (table.dimension == _USER, table.value.in_(found.names))
        changed[reference_summaries.name] = connection.execute(sa.delete(reference_summaries).where(*own)).rowcount
    if alarm_book.name in tables:
        changed[alarm_book.name] = _forget_in_alarms(connection, found)
    return changed


def still_holds(connection: sa.Connection, found: Belongings) -> dict[str, int]:
    """What is left of it, by table: in each of the database but the log's own, known to this module or not.

    In segments, rows of its records; in the other tables, rows with its keys, request ids, or the user as such.
    """
    left: dict[str, int] = {}
    keys, ids, id_columns = (
        found.all_keys,
        found.request_ids,
        {table.name: names for table, names in ID_COLUMNS.items()},
    )
    for name in sorted(set(sa.inspect(connection).get_table_names()) - _LOG_TABLES):
        if name == descriptor_segments.name:
            left[name] = len(holds(connection, keys))
            continue
        table = sa.Table(name, sa.MetaData(), autoload_with=connection)
        texts = [column for column in table.columns if isinstance(column.type, (sa.String, sa.JSON))]
        left[name] = 0
        if texts:
            query = sa.select(*(sa.cast(column, sa.Text).label(column.name) for column in texts))
            rows = map(sa.Row._asdict, connection.execute(query, execution_options={"yield_per": 1000}))
            # In a table of ours request ids count only where it keeps them. Clients choose them: one may be called like
            # an app or a language, and would be found for ever.
            exact, with_ids = keys if name in _OURS else keys | ids, id_columns.get(name, ())
            left[name] = sum(_is_marked(row, found.names, exact, ids, with_ids) for row in rows)
    return left


def nameless(document: Any, found: Belongings, name: str = "") -> Any:
    """A JSON document of the monitor's, such as an action's evidence, without what belongs to the user or request.

    Clients choose request ids, and may choose `opened` or an app's name: only where ids stand are texts taken for them,
    which is in lists called `rows`, and in objects under `request_id`. name: what the document stands under.
    """
    if isinstance(document, list):
        ids = found.request_ids if name == "rows" else frozenset()
        kept = [item for item in document if not (isinstance(item, str) and item in ids) and not _is_about(item, found)]
        return [nameless(item, found, name) for item in kept]
    if isinstance(document, Mapping):
        return {key: nameless(item, found, str(key)) for key, item in document.items() if not _is_about(item, found)}
    return document


def _forget_in_alarms(connection: sa.Connection, found: Belongings) -> int:
    """Of alarms, alerts, actions and verdicts: those about the user's own slice go, the others lose what names it."""
    changed = 0
    for table in ID_COLUMNS:
        keys = list(table.primary_key.columns)
        documents = [column for column in table.columns if isinstance(column.type, sa.JSON)]
        for row in connection.execute(sa.select(*keys, *documents)).all():
            old = dict(zip((column.name for column in documents), row[len(keys) :], strict=True))
            same = sa.and_(*(key == value for key, value in zip(keys, row, strict=False)))
            new = {name: nameless(value, found, name) for name, value in old.items()}
            if any(_is_slice_of(value, found) for value in old.values()):
                changed += connection.execute(sa.delete(table).where(same)).rowcount
            elif new != old:
                changed += connection.execute(sa.update(table).where(same).values(new)).rowcount
    return changed


def _is_about(item: Any, found: Belongings) -> bool:
    """Whether it is a slice of the user, or something with such a slice, or with the request's id."""
    return _is_slice_of(item, found) or (isinstance(item, Mapping) and _text(item, "request_id") in found.request_ids)


def _is_slice_of(item: Any, found: Belongings) -> bool:
    if not isinstance(item, Mapping):
        return False
    parts = (item, item.get("slice"), *(item["slices"] if isinstance(item.get("slices"), list) else ()))
    return any(isinstance(part, Mapping) and _text(part, _USER) in found.names for part in parts)


def _text(item: Mapping[str, Any], name: str) -> str | None:
    value = item.get(name)
    return value if isinstance(value, str) else None


def _is_marked(
    row: Mapping[str, str | None],
    names: Collection[str],
    exact: Collection[str],
    ids: frozenset[str],
    with_ids: Collection[str],
) -> bool:
    """Whether a row of texts gives away that it is the user's or the request's.

    names: of the user.
    exact: texts that give it away wherever they stand.
    ids: of requests, which do so where the columns `with_ids` keep request ids.
    """
    if row.get("dimension") == _USER and row.get("value") in names:
        return True
    for column, value in row.items():
        if not value:
            continue
        if (
            column in with_ids
            and nameless(document := json.loads(value), Belongings(request_ids=ids), column) != document
        ):
            return True
        if value in exact or any(text in exact or (key == _USER and text in names) for key, text in _quoted(value)):
            return True
    return False


def _quoted(value: str) -> Iterator[tuple[str, str]]:
    """Texts in JSON, each with the name it stands under, if any; and those names."""
    for match in _QUOTED.finditer(value) if value[:1] in "[{" else ():
        yield _plain(match[1] or ""), _plain(match[2])
        if match[1]:
            yield "", _plain(match[1])


def _plain(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"')) if "\\" in text else text
    except ValueError:
        return text
