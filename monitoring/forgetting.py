"""Forgets a user or a request everywhere, and proves it: log, its archives, monitor, MLflow's traces, and the files'
bytes.

In the monitor's tables rows leave the segments, and hours that had them are summed up anew. Request ids leave alarms,
alerts, actions and verdicts, and so do slices of that user. Counts that are part of a frozen reference stay: they name
nobody.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from llmops.audit import AuditLog
from llmops.errors import CannotRun
from llmops.production_log import Belongings, ProductionLog, open_engine
from llmops.production_log.forgetting import Erased, names_of
from llmops.recording.forgetting import Traces
from llmops.settings import Settings
from monitoring.act.action_tables import ID_COLUMNS, alarm_book
from monitoring.act.actions import evidence_folder
from monitoring.decide.references import reference_summaries
from monitoring.store.database import descriptor_segments, hourly_summaries, ingest_cursors, reading
from monitoring.store.ingest import rebuild_hours
from monitoring.store.rows import HOUR
from monitoring.store.segments import holds, rewrite_without
from monitoring.stores import opened_archives

if TYPE_CHECKING:
    from llmops.production_log.archive import Archive
    from llmops.production_log.archive_layout import Partition

_LOG_TABLES = frozenset(("log_records", "feedback", "idempotent_replies"))
_USER = "user"
_OURS = frozenset(
    name for table in (alarm_book, descriptor_segments, reference_summaries) for name in table.metadata.tables
)
_QUOTED = re.compile(r'(?:"((?:[^"\\]|\\.)*)"\s*:\s*)?"((?:[^"\\]|\\.)*)"')
"""A text in JSON, and the name it stands under, if any."""
_PASSES = 5
_EVIDENCE, _LEARNED = "evidence_files", "rows_to_learn_from"
NOT_REACHED = (
    "backups, exported files, eval sets made from the log, OpenTelemetry's backend",
    "what MLflow and pipelines keep of the monitor's alarms: request ids, and no text and no user",
    "weights and prompts that were made with its rows",
)
"""What nobody here can find."""


@dataclass(slots=True)
class Receipt:
    """What was deleted (or, with `dry_run`, would be), by table, and what a second look found left of it."""

    asked: Mapping[str, str]
    dry_run: bool
    at: datetime
    deleted: Counter[str] = field(default_factory=Counter)
    left: dict[str, int] = field(default_factory=dict)
    erased: Erased | None = None
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether nothing is left; a dry run leaves everything, and is complete all the same."""
        found = self.erased.found if self.erased is not None else 0
        return self.dry_run or not (any(self.left.values()) or found)

    def to_json(self) -> dict[str, Any]:
        names = sorted(self.deleted.keys() | self.left.keys())
        return {
            **self.asked,
            "dry_run": self.dry_run,
            "at": self.at.isoformat(),
            "tables": {name: {"deleted": self.deleted.get(name, 0), "left": self.left.get(name, 0)} for name in names},
            "files": dataclasses.asdict(self.erased) if self.erased is not None else None,
            "complete": self.complete,
            "not_reached": list(NOT_REACHED),
            "seconds": round(self.seconds, 3),
        }


def forget(
    settings: Settings,
    *,
    user: str | None = None,
    request_id: str | None = None,
    dry_run: bool = False,
    waiting: Callable[[], None] = lambda: None,
) -> Receipt:
    """Deletes all of a user's records, or of a request's, and everything made of them.

    First MLflow's traces, then the log's archives, then log and monitor in one transaction: a forgetting that is cut
    short finds everything again. Then it looks a second time, and deletes what a request, an ingest or an export under
    way has written since. The audit log gets the counts, and no name.

    waiting: called when another process writes to the archives, which is waited for.

    Raises:
        StoreUnavailable: the log, an archive or MLflow cannot be reached.
        CannotRun: the database's files are in use all the time.
    """
    asked = {name: value for name, value in (("user", user), ("request_id", request_id)) if value is not None}
    start, receipt = time.monotonic(), Receipt(asked, dry_run, datetime.now(UTC))
    with closing(ProductionLog(settings.resolved_log_url)) as log, opened_archives(log, waiting) as archives:
        search = _ArchiveSearch(archives, names_of(user), request_id)
        found = search.completed(log.belongings(user=user, request_id=request_id, archived=search.rows))
        if dry_run:
            receipt.deleted.update({**log.still_holds(found), **_monitor_holds(settings, found), **search.counts})
            receipt.deleted[_EVIDENCE] = _forget_evidence(settings, found, dry_run=True)
            receipt.deleted[_LEARNED] = _forget_rows(settings, found, dry_run=True)
        else:
            _forget(settings, log, found, receipt, search)
            deleted = {name: count for name, count in receipt.deleted.items() if count}
            counts = {"asked": sorted(asked), "deleted": deleted, "left": sum(receipt.left.values())}
            AuditLog(log.url).append("forget", "production log", counts)
    receipt.seconds = time.monotonic() - start
    return receipt


@dataclass(slots=True)
class _ArchiveSearch:
    """What the archives hold of the names and the request."""

    archives: Sequence[Archive]
    names: frozenset[str]
    request_id: str | None
    rows: list[Mapping[str, Any]] = field(init=False)
    opinions: Belongings = field(init=False)
    places: list[tuple[Archive, set[Partition]]] = field(init=False)

    def __post_init__(self) -> None:
        self.look()

    def look(self, keys: Collection[str] = ()) -> None:
        """Searches every file. keys: of records that are theirs too, as the log knows."""
        self.rows, self.opinions, self.places = [], Belongings(), []
        for archive in self.archives:
            rows, opinions, partitions = archive.find(self.names, self.request_id, keys)
            self.rows += rows
            self.opinions |= opinions
            self.places.append((archive, partitions))

    def completed(self, found: Belongings) -> Belongings:
        """With the opinions in the archives, also those that compare with records which only the log has."""
        if self.archives:
            self.look(found.all_keys)
        return found | self.opinions

    @property
    def counts(self) -> dict[str, int]:
        """What was found, by table of the receipt."""
        counts = {"archived_records": len(self.rows), "archived_feedback": len(self.opinions.opinions)}
        return counts if self.archives else {}


def _forget(
    settings: Settings, log: ProductionLog, found: Belongings, receipt: Receipt, search: _ArchiveSearch
) -> None:
    traces = Traces(settings)
    of_monitor: dict[str, int] = {}
    for _ in range(_PASSES):
        exported = traces.forget(found)
        receipt.deleted.update(exported)
        for archive, partitions in search.places:
            receipt.deleted.update(archive.forget(found, partitions))
        with log.forgetting(found) as (connection, deleted):
            receipt.deleted.update(deleted)
            receipt.deleted.update(forget_in_database(connection, found))
        receipt.deleted[_EVIDENCE] += _forget_evidence(settings, found)
        receipt.deleted[_LEARNED] += _forget_rows(settings, found)
        found = search.completed(found | log.belongings(user=receipt.asked.get("user"), request_id=search.request_id))
        of_monitor = _monitor_holds(settings, found)
        receipt.left = {**log.still_holds(found), **of_monitor, **search.counts, **traces.forget(found)}
        receipt.left[_EVIDENCE] = _forget_evidence(settings, found)
        receipt.left[_LEARNED] = _forget_rows(settings, found, dry_run=True)
        receipt.deleted.update({name: receipt.left[name] for name in exported})
        if not any(receipt.left.values()):
            break
    receipt.erased = log.erase(found, receipt.deleted.keys() & of_monitor.keys())  # not all that is counted is a table
    if receipt.deleted["traces"] + receipt.deleted["assessments"]:
        traces.erase(found)


def _forget_evidence(settings: Settings, found: Belongings, *, dry_run: bool = False) -> int:
    """Takes it out of the files that retrain commands were given; returns of how many."""
    changed = 0
    for path in sorted(evidence_folder(settings.home).glob("*.json")):
        try:
            old = json.loads(path.read_bytes())
            new = nameless(old, found)
            if new == old:
                continue
            if not dry_run:
                path.write_text(json.dumps(new, ensure_ascii=False, indent=2), encoding="utf-8")
        except FileNotFoundError:
            continue
        except ValueError:  # the half of a file; its order, which has the whole, writes it again
            if not dry_run:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise CannotRun(f"{path}: cannot be read and written: {error.strerror}") from error
        changed += 1
    return changed


def _forget_rows(settings: Settings, found: Belongings, *, dry_run: bool = False) -> int:
    """Takes its rows out of what models learn from: review files, training sets, rows of fine-tunes; returns how many.

    A line that is no row is nobody's known row, and stays."""
    ids = {f"log-{key}" for key in found.all_keys}
    files = [path for path in settings.improve_dir.rglob("*") if path.is_file()]
    gone = 0
    for path in [*files, *settings.finetunes_dir.glob("*/rows.jsonl")]:
        try:
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if _id_in(line) not in ids]
            gone += len(lines) - len(kept)
            if len(kept) < len(lines) and not dry_run:
                part = path.with_suffix(".part")
                part.write_bytes(b"".join(kept))
                part.replace(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CannotRun(f"{path}: cannot be read and written: {error.strerror}") from error
    return gone


def _id_in(line: bytes) -> Any:
    with contextlib.suppress(ValueError, AttributeError):
        return json.loads(line).get("id")
    return None


def _monitor_holds(settings: Settings, found: Belongings) -> dict[str, int]:
    engine = open_engine(settings.resolved_log_url)
    try:
        with reading(engine) as connection:
            return still_holds(connection, found)
    finally:
        engine.dispose()


def forget_in_database(connection: sa.Connection, found: Belongings) -> dict[str, int]:
    """Takes it out of the monitor's tables, in the transaction that deletes it from the log and after that.

    Returns rows changed, by table.
    """
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
    keys, id_columns = found.all_keys, {table.name: names for table, names in ID_COLUMNS.items()}
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
            exact = keys if name in _OURS else keys | found.request_ids
            left[name] = sum(_is_marked(row, found, exact, id_columns.get(name, ())) for row in rows)
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
    row: Mapping[str, str | None], found: Belongings, exact: Collection[str], id_columns: Collection[str]
) -> bool:
    """Whether a row of texts gives away that it is the user's or the request's.

    exact: texts that give it away wherever they stand. id_columns: those that keep request ids.
    """
    if row.get("dimension") == _USER and row.get("value") in found.names:
        return True
    ids = Belongings(request_ids=found.request_ids)
    for column, value in row.items():
        if not value:
            continue
        if column in id_columns and nameless(document := json.loads(value), ids, column) != document:
            return True
        quoted = _quoted(value)
        if value in exact or any(text in exact or (key == _USER and text in found.names) for key, text in quoted):
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
