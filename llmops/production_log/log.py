"""Appends, reads and follows the production log."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from llmops.production_log.budgets import TokenBudgets
from llmops.production_log.database import LogDatabase
from llmops.production_log.forgetting import (
    Belongings,
    Erased,
    belongings_of,
    count,
    delete,
    delete_texts,
    erase_from_file,
)
from llmops.production_log.record import (
    SHADOW,
    VOTES,
    Feedback,
    LogRecord,
    PredictionBatch,
    VoteCounts,
    count_votes,
    in_batches,
    is_prediction,
    new_key,
    prediction_of,
)
from llmops.production_log.replies import IdempotentReplies, ReplyRow
from llmops.production_log.tables import RecordInsert, feedback_of_row, insert_into, log_archives, record_of_row
from llmops.production_log.tables import feedback as feedback_table
from llmops.production_log.tables import log_records as records_table
from llmops.state_files import FileIdentity, identity_of

HOUR_SECONDS = 3600
_MOST_NAMED = 500  # values in one query's list
_PREDICTIONS_AT_ONCE = 50  # each may hold ten thousand rows
_WITHOUT_TEXTS: Mapping[str, Any] = MappingProxyType({"input": "", "output": "", "details": {}})


class ProductionLog:
    """Appends and reads records. Safe to share between threads; several processes may write to one log.

    Every method raises StoreUnavailable when the database cannot be reached or written.
    """

    def __init__(self, url: str, file: FileIdentity | None = None) -> None:
        """Opens the log and makes its tables when absent. file: the SQLite file that it must be; None: any, or a new
        one. Raises StoreUnavailable."""
        self.url = url
        self._database = LogDatabase(url, file)
        self._insert = RecordInsert(self._database.engine.dialect)
        insert_feedback = insert_into(self._database.engine.dialect, feedback_table)
        self._insert_feedback = insert_feedback.on_conflict_do_nothing(index_elements=["key"]).inline()
        self.replies = IdempotentReplies(self._database)
        self.budgets = TokenBudgets(self._database)

    def append(self, records: Sequence[LogRecord], replies: Sequence[ReplyRow] = ()) -> None:
        """Writes all records, and settles the claims of idempotent requests, in one transaction; all is durable then.

        Raises RecordRefused: one of them cannot be stored; none was.
        """
        if not records and not replies:
            return
        alone = not replies and self._insert.takes_one_statement(len(records))
        with self._database.inserting(one_statement=alone) as cursor:
            if records:
                self._insert(cursor, records)
            self.replies.settle(cursor, replies)

    def import_records(self, records: Sequence[LogRecord]) -> int:
        """Appends those whose request id is not in the log yet; returns how many. A key that another request's record
        has, in the log or among these, is replaced by a new one."""
        known = self._known(records_table.c.request_id, [record.request_id for record in records])
        new: dict[str, LogRecord] = {}
        for record in records:
            if record.request_id not in known:
                new.setdefault(record.request_id, record)
        taken, owned = self._known(records_table.c.key, [record.key for record in new.values()]), []
        for record in new.values():
            owned.append(replace(record, key=new_key()) if record.key in taken else record)
            taken.add(owned[-1].key)
        self.append(owned)
        return len(new)

    def _known(self, column: sa.ColumnElement[str], values: Sequence[str]) -> set[str]:
        """Those of the values that the column holds."""
        known: set[str] = set()
        for part in in_batches(values, _MOST_NAMED):
            with self._database.reading() as connection:
                known.update(connection.execute(sa.select(column).where(column.in_(part))).scalars())
        return known

    def count(self, **window: Any) -> int:
        """Number of records in the window; arguments as `read`."""
        query = _within(sa.select(sa.func.count()).select_from(records_table), **window)
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def read(
        self,
        *,
        limit: int | None = None,
        newest: bool = False,
        feedback: bool = False,
        texts: bool = True,
        **window: Any,
    ) -> list[LogRecord]:
        """Records of the window `since <= at < until`, oldest first.

        app: only that app's. limit: at most so many, from the start, or from the end with `newest`.
        request_id: only those of that id. shadow: shadow requests' too, which are else left out. feedback: with what
        users said of the answers. texts: False leaves input, output and details empty, which may be megabytes.
        """
        table = records_table.c
        order = (table.at.desc(), table.key.desc()) if newest else (table.at, table.key)
        columns = [column for column in table if texts or column.name not in _WITHOUT_TEXTS]
        query = _within(sa.select(*columns), **window).order_by(*order).limit(limit)
        with self._database.reading() as connection:
            rows = connection.execute(query).mappings()
            records = [record_of_row(row if texts else {**row, **_WITHOUT_TEXTS}) for row in rows]
        records = self.with_feedback(records) if feedback else records
        return records[::-1] if newest else records

    def request_ids(self, beginning: str, *, limit: int) -> list[str]:
        """Ids of requests that begin so, at most so many. Reads every record's id unless one is just that."""
        column = records_table.c.request_id
        same = sa.select(column).where(column == beginning).limit(1)
        # Not LIKE, which takes `a` for `A` in SQLite.
        begins = sa.select(column).where(sa.func.substr(column, 1, len(beginning)) == beginning).distinct().limit(limit)
        with self._database.reading() as connection:
            return list(connection.execute(same).scalars()) or list(connection.execute(begins).scalars())

    def iterate(self, *, batch: int = 1000, feedback: bool = False, **window: Any) -> Iterator[LogRecord]:
        """As `read`, but streams in batches: bounded memory for any number of rows."""
        query = _within(sa.select(records_table), **window).order_by(records_table.c.at, records_table.c.key)
        streamed = {"yield_per": batch}
        with self._database.reading() as connection, connection.execute(query, execution_options=streamed) as result:
            for rows in result.mappings().partitions():
                records = [record_of_row(row) for row in rows]
                yield from self.with_feedback(records) if feedback else records

    def records_since(self, cursor: int, *, limit: int = 1000) -> tuple[list[LogRecord], int]:
        """Records written after the cursor, in the order of their writing, and the cursor after them.

        No record is ever passed over, also with several processes writing. cursor: 0 for the beginning, or what
        `records_end` or an earlier call gave.
        """
        rows, cursor = self._rows_since(records_table, cursor, limit)
        return [record_of_row(row) for row in rows], cursor

    def records_end(self) -> int:
        """The cursor after everything written so far."""
        return self._database.settled(records_table)

    def add_feedback(self, feedback: Feedback) -> Feedback:
        """Writes it unless its key is there already; returns what stands under the key."""
        with self._database.writing() as connection:
            known = sa.select(feedback_table).where(feedback_table.c.key == feedback.key)
            self._database.hold_sequence(connection)
            values = {**asdict(feedback), "at": feedback.at.timestamp()}
            if connection.execute(self._insert_feedback, values).rowcount == 1:
                return feedback
            return feedback_of_row(connection.execute(known).mappings().one())

    def with_feedback(self, records: Sequence[LogRecord]) -> list[LogRecord]:
        """The records, each with what users said of its answer, oldest first."""
        said: dict[str, list[Feedback]] = {}
        column = feedback_table.c.record_key
        for part in in_batches(records, _MOST_NAMED):
            keys = [record.key for record in part]
            query = sa.select(feedback_table).where(column.in_(keys)).order_by(feedback_table.c.seq)
            with self._database.reading() as connection:
                for row in connection.execute(query).mappings():
                    said.setdefault(row["record_key"], []).append(feedback_of_row(row))
        return [replace(record, feedback=tuple(said.get(record.key, ()))) for record in records]

    def feedback_since(self, cursor: int, *, limit: int = 1000) -> tuple[list[Feedback], int]:
        """As `records_since`, of feedback; its cursors are its own."""
        rows, cursor = self._rows_since(feedback_table, cursor, limit)
        return [feedback_of_row(row) for row in rows], cursor

    def feedback_end(self) -> int:
        """The cursor after all feedback so far."""
        return self._database.settled(feedback_table)

    def votes(self, app: str) -> dict[tuple[str, str], VoteCounts]:
        """Votes between releases of the app, by pair, the lower version first.

        A vote is feedback with the label `better`, `worse` or `tie` and a `compared_to`. Of several by one user on one
        pair of answers the last one counts.
        """
        table = feedback_table.c
        chosen = (table.app == app, table.label.in_(VOTES), table.compared_release.is_not(None))
        names = ("record_key", "compared_key", "caller", "user", "label", "release", "compared_release")
        query = sa.select(*(table[name] for name in names)).where(*chosen).order_by(table.seq)
        with self._database.reading() as connection:
            return count_votes(iter(connection.execute(query).mappings()))

    def delete_texts(self, before: datetime, *, described_up_to: int | None = None, dry_run: bool = False) -> int:
        """Deletes the texts of records from before that time; returns of how many.

        Input, output, comments and stored replies go, and of the details all that may be a text; the record stays, with
        `text_deleted_at`.

        described_up_to: only records written up to this cursor, as far as the monitor has come. dry_run: only counts.
        """
        return delete_texts(self._database, before, described_up_to=described_up_to, dry_run=dry_run)

    def hours(
        self, *, app: str | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> dict[tuple[int, str], tuple[int, ...]]:
        """Hours (since the epoch) with records of the window, by app, from 1970 on, in order of time.

        Values change whenever a record or feedback on one comes or goes; the first is the number of records.
        """
        table, said = records_table.c, feedback_table.c
        since = max(since or datetime.min.replace(tzinfo=UTC), datetime.fromtimestamp(0, UTC))
        hour = sa.cast(sa.func.floor(table.at / HOUR_SECONDS), sa.BigInteger).label("hour")
        hours: dict[tuple[int, str], tuple[int, ...]] = {}
        of_feedback = records_table.join(feedback_table, said.record_key == table.key)
        for source, column in ((records_table, table.seq), (of_feedback, said.seq)):
            query = sa.select(hour, table.app, sa.func.count(), sa.func.sum(column)).select_from(source)
            query = _within(query, app=app, since=since, until=until, shadow=True).group_by(hour, table.app)
            with self._database.reading() as connection:
                for number, of_app, count, total in connection.execute(query):
                    place = (int(number), str(of_app))
                    hours[place] = (*hours.get(place, ()), int(count), int(total))
        return dict(sorted(hours.items()))

    def delete_archived(
        self,
        archived: Mapping[str, Collection[str]],
        *,
        described_up_to: int | None = None,
        feedback_up_to: int | None = None,
    ) -> int:
        """Deletes records and their feedback; returns how many records. One whose feedback is not all archived stays.

        archived: keys of the feedback in the archive, by the record's key. described_up_to, feedback_up_to: only what
        was written up to these cursors of records and feedback, as far as the monitor has come.
        """
        table, said = records_table.c, feedback_table.c
        keys = list(archived)
        with self._database.writing() as connection:
            self._database.hold_writers(connection)  # feedback under way would be left without its record
            due = [table.key.in_(keys)] + ([] if described_up_to is None else [table.seq <= described_up_to])
            gone = set(connection.execute(sa.select(table.key).where(*due)).scalars())
            for key, record_key, seq in connection.execute(
                sa.select(said.key, said.record_key, said.seq).where(said.record_key.in_(keys))
            ):
                if key not in archived[record_key] or (feedback_up_to is not None and seq > feedback_up_to):
                    gone.discard(record_key)
            connection.execute(sa.delete(feedback_table).where(said.record_key.in_(gone)))
            connection.execute(sa.delete(records_table).where(table.key.in_(gone)))
        return len(gone)

    def archives(self) -> list[str]:
        """Where records were archived, and where deletion must reach."""
        with self._database.reading() as connection:
            return list(connection.execute(sa.select(log_archives.c.url).order_by(log_archives.c.url)).scalars())

    def add_archive(self, url: str) -> None:
        """Remembers it; do so before anything is written there."""
        if url not in self.archives():
            with self._database.writing() as connection:
                connection.execute(sa.insert(log_archives).values(url=url))

    def drop_archive(self, url: str) -> bool:
        """Remembers it no longer; whether it did."""
        with self._database.writing() as connection:
            return connection.execute(sa.delete(log_archives).where(log_archives.c.url == url)).rowcount == 1

    def belongings(
        self, *, user: str | None = None, request_id: str | None = None, archived: Sequence[Mapping[str, Any]] = ()
    ) -> Belongings:
        """What the log holds of a user, or of a request. Reads the whole log once. archived: rows of records that are
        theirs and may be in the log no longer, as `Archive.find` gives them."""
        with self._database.reading() as connection:
            return belongings_of(connection, user, request_id, archived)

    @contextmanager
    def forgetting(self, belongings: Belongings) -> Iterator[tuple[sa.Connection, dict[str, int]]]:
        """Deletes it; gives the transaction and the rows deleted by table. The caller may delete more in it."""
        with self._database.writing() as connection:
            yield connection, delete(connection, belongings)

    def still_holds(self, belongings: Belongings) -> dict[str, int]:
        """Rows that belong to it, by table: all 0 when it is forgotten."""
        with self._database.reading() as connection:
            return count(connection, belongings)

    def erase(self, belongings: Belongings, tables: Iterable[str] = ()) -> Erased | None:
        """Erases what was deleted from the database's files, and searches them. tables: others that were changed.

        None where the files are not ours to read: PostgreSQL is told to remove the rows from its own.
        Raises CannotRun.
        """
        database = self._database
        if database.file is not None:
            return erase_from_file(database.alone, database.file, belongings.all_keys, belongings.pieces)
        if database.is_postgresql:
            with database.alone() as connection:  # copies in its write-ahead log end with the log's segments
                for table in sorted({"log_records", "feedback", "idempotent_replies", *tables}):
                    connection.exec_driver_sql(f'VACUUM "{table}"')
        return None

    @property
    def file(self) -> FileIdentity | None:
        """Which SQLite file is at the log's path now; None: a server's database, or none."""
        return None if self._database.file is None else identity_of(self._database.file)

    def check(self) -> None:
        """Raises StoreUnavailable when the log cannot be reached."""
        with self._database.reading() as connection:
            connection.execute(sa.text("SELECT 1"))

    def close(self) -> None:
        self._database.close()

    def _rows_since(self, table: sa.Table, cursor: int, limit: int) -> tuple[Sequence[sa.RowMapping], int]:
        end = self._database.settled(table)
        if end <= cursor:
            return [], cursor
        query = sa.select(table).where(table.c.seq > cursor, table.c.seq <= end).order_by(table.c.seq).limit(limit)
        with self._database.reading() as connection:
            rows = connection.execute(query).mappings().all()
        return rows, int(rows[-1]["seq"]) if len(rows) == limit else end


def read_predictions(log: ProductionLog, name: str, *, request_id: str | None = None) -> Iterator[PredictionBatch]:
    """The predictions of a tabular model, all versions, oldest first; with a request_id, only those of that request.
    Those whose rows retention has taken are left out. Memory is bounded.

    Raises StoreUnavailable. Corrupted: a record says that it is a prediction, and holds none; names the record.
    """
    for record in log.iterate(batch=_PREDICTIONS_AT_ONCE, feedback=True, app=name, request_id=request_id):
        if is_prediction(record) and record.text_deleted_at is None:
            yield prediction_of(record)


def _within(
    query: sa.Select[Any],
    *,
    app: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    request_id: str | None = None,
    shadow: bool = False,
) -> sa.Select[Any]:
    table = records_table.c
    if not shadow and request_id is None:
        query = query.where(table.outcome != SHADOW)
    if app is not None:
        query = query.where(table.app == app)
    if since is not None:
        query = query.where(table.at >= since.timestamp())
    if until is not None:
        query = query.where(table.at < until.timestamp())
    if request_id is not None:
        query = query.where(table.request_id == request_id)
    return query
