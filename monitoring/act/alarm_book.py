"""The book of alarms: one entry for each alarm of one release while it lasts, however often it is seen.

A window or a tick that finds an alarm opens an entry or counts one more sighting; a quiet window resolves it. Whoever
must be told is told in the same transaction (`alerts.outbox`), so that no crash comes between the two.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from llmops.errors import UsageError
from llmops.hashing import content_hash
from monitoring.act.action_tables import alarm_book as table
from monitoring.act.action_tables import alone, ensure_tables
from monitoring.act.alerts.message import row_links, run_url
from monitoring.act.alerts.outbox import Outbox
from monitoring.act.alerts.settings import AlertSettings
from monitoring.store.database import reading

_MOST_ROWS = 50
_SEEN_AHEAD = 2 * 86_400.0


@dataclass(frozen=True, slots=True)
class Cure:
    """Whether going back to the previous release can help, and why (not)."""

    helps: bool
    why: str


@dataclass(frozen=True, slots=True)
class Finding:
    """An alarm as the book takes it.

    what: the descriptor. kind: `drift`, `sequential`, `limit`, `volume` or `canary`. side: `input`, `output` or
    `service`. release: the one it is about; None where it cannot be told. rows: request ids, most telling first. cure:
    None where nobody has judged it.
    """

    app: str
    what: str
    kind: str
    why: str
    side: str
    release: str | None = None
    severity: str = "high"
    slice: Mapping[str, str] | None = None
    rows: tuple[str, ...] = ()
    cure: Cure | None = None
    source: str = ""

    @property
    def label(self) -> dict[str, str]:
        return dict(self.slice or ({"release": self.release} if self.release else {"app": self.app}))

    @property
    def identity(self) -> str:
        """The same for the same alarm of the same release, whenever it is found."""
        return content_hash({"app": self.app, "release": self.release, "what": self.what, "kind": self.kind,
                             "slice": self.label})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """An alarm on the book. told: how often its receivers were told that it is there. source: the newest sighting."""

    id: int
    app: str
    release: str | None
    what: str
    kind: str
    side: str
    severity: str
    slice: Mapping[str, str]
    why: str
    rows: tuple[str, ...]
    cure: Cure | None
    run_id: str | None
    source: str
    first_at: datetime
    last_at: datetime
    times: int
    told: int
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    resolved_at: datetime | None

    @property
    def state(self) -> str:
        """`open`, `acknowledged` or `resolved`."""
        if self.resolved_at is not None:
            return "resolved"
        return "open" if self.acknowledged_at is None else "acknowledged"

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__}
        for name, value in values.items():
            if isinstance(value, datetime):
                values[name] = value.isoformat()
        return {**values, "slice": dict(self.slice), "rows": list(self.rows), "state": self.state,
                "cure": None if self.cure is None else asdict(self.cure)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Booked:
    """What one verdict did to the book."""

    opened: tuple[Entry, ...] = ()
    lasting: tuple[Entry, ...] = ()
    resolved: tuple[Entry, ...] = ()


class AlarmBook:
    """The entries of one database; makes the tables when absent. Raises StoreUnavailable from every method."""

    def __init__(self, engine: sa.Engine, settings: AlertSettings, outbox: Outbox) -> None:
        ensure_tables(engine)
        self._engine, self._settings, self._outbox = engine, settings, outbox

    def record(
        self,
        app: str,
        source: str,
        findings: Sequence[Finding],
        at: datetime,
        *,
        closes: datetime | None = None,
        run_id: str | None = None,
    ) -> Booked:
        """Books one verdict over one app; booking the same one again changes nothing.

        source: names the verdict, such as `window until 2026-01-02T00:00:00+00:00`. at: up to when it looked. closes:
        since when it looked at everything, so that open alarms which it did not find are over; None when it did not. A
        sequential alarm is over with the first whole window after it in which its descriptor is quiet. run_id: of the
        verdict's run in MLflow, for links.
        """
        found = {finding.identity: finding for finding in findings}
        opened, lasting, resolved = [], [], []
        told = _Told()
        with alone(self._engine) as connection:
            known = {str(row.identity): row for row in connection.execute(_open_entries(app))}
            for identity, finding in found.items():
                row, sighting = known.get(identity), finding.source or source
                if row is None:
                    if not _is_booked(connection, identity, sighting):
                        opened.append(self._open(connection, identity, finding, sighting, at, run_id, told))
                elif row.source != sighting:
                    lasting.append(self._again(connection, row, finding, sighting, at, run_id, told))
            for identity, row in known.items():
                if closes is not None and identity not in found and _is_over(row, closes, at, findings):
                    resolved.append(self._resolve(connection, row, at, told))
            for event, entries in told.items():
                self._outbox.put(connection, alert_of(entries, event, self._settings))
        return Booked(tuple(opened), tuple(lasting), tuple(resolved))

    def entries(self, *, app: str | None = None, resolved: bool = False, limit: int | None = None) -> list[Entry]:
        """Entries, newest first: those that last, or with `resolved` all."""
        query = sa.select(table).order_by(table.c.id.desc()).limit(limit)
        query = query if app is None else query.where(table.c.app == app)
        query = query if resolved else query.where(table.c.resolved_at.is_(None))
        with reading(self._engine) as connection:
            return [_entry(row) for row in connection.execute(query)]

    def acknowledge(self, entry_id: int, by: str, at: datetime) -> Entry:
        """Notes that somebody sees to it: it is told no more, and nothing is done about it by itself, while it lasts.

        Raises:
            UsageError: there is no such entry, or it is over.
        """
        with alone(self._engine) as connection:
            row = connection.execute(sa.select(table).where(table.c.id == entry_id)).one_or_none()
            if row is None:
                raise UsageError(f"there is no alarm {entry_id}; see `llmops monitor alarms list --all`")
            if row.resolved_at is not None:
                raise UsageError(f"alarm {entry_id} was over already ({_moment(row.resolved_at)})")
            if row.acknowledged_at is None:
                values = {"acknowledged_at": at.timestamp(), "acknowledged_by": by}
                connection.execute(sa.update(table).where(table.c.id == entry_id).values(values))
            return _entry(connection.execute(sa.select(table).where(table.c.id == entry_id)).one())

    def _open(
        self,
        connection: sa.Connection,
        identity: str,
        finding: Finding,
        source: str,
        at: datetime,
        run_id: str | None,
        told: _Told,
    ) -> Entry:
        moment = at.timestamp()
        tell = self._cooled_down(connection, identity, moment)
        values = {
            **_seen(finding, source, at, run_id),
            "open_key": identity, "identity": identity, "app": finding.app, "release": finding.release,
            "what": finding.what, "kind": finding.kind, "side": finding.side, "slice": finding.label,
            "first_at": moment, "times": 1, "told": int(tell), "told_at": moment if tell else None,
        }  # fmt: skip
        row = connection.execute(sa.insert(table).values(values).returning(table)).one()
        return told.add("opened", _entry(row)) if tell else _entry(row)

    def _again(
        self, connection: sa.Connection, row: sa.Row[Any], finding: Finding, source: str, at: datetime,
        run_id: str | None, told: _Told,
    ) -> Entry:  # fmt: skip
        moment = at.timestamp()
        tell = row.acknowledged_at is None and self._cooled_down(connection, row.identity, moment)
        values = {**_seen(finding, source, at, run_id), "times": row.times + 1}
        values["last_at"] = max(moment, row.last_at)
        if tell:
            values |= {"told": row.told + 1, "told_at": moment}
        new = connection.execute(sa.update(table).where(table.c.id == row.id).values(values).returning(table)).one()
        return told.add("lasting" if new.told > 1 else "opened", _entry(new)) if tell else _entry(new)

    def _resolve(self, connection: sa.Connection, row: sa.Row[Any], at: datetime, told: _Told) -> Entry:
        values = {"open_key": None, "resolved_at": at.timestamp()}
        new = connection.execute(sa.update(table).where(table.c.id == row.id).values(values).returning(table)).one()
        return told.add("resolved", _entry(new)) if new.told and self._settings.tell_resolved else _entry(new)

    def _cooled_down(self, connection: sa.Connection, identity: str, now: float) -> bool:
        """Whether the alarm was last told long enough ago, in this entry or in an earlier one: a flapping alarm is
        told no more often than a lasting one."""
        told = (table.c.identity == identity, table.c.told_at.is_not(None))
        newest = sa.select(table.c.told_at).where(*told).order_by(table.c.id.desc()).limit(1)
        last = connection.execute(newest).scalar()
        # A time far ahead was noted by a clock that was wrong: it must not silence the alarm until then.
        return last is None or abs(now - float(last)) >= self._settings.cool_down


class _Told(dict[str, list[Entry]]):
    """What receivers are to be told of one verdict, by event."""

    def add(self, event: str, entry: Entry) -> Entry:
        self.setdefault(event, []).append(entry)
        return entry


def alert_of(entries: Sequence[Entry], event: str, settings: AlertSettings) -> dict[str, Any]:
    """One alert of all that a verdict found of one app, in the shape of `monitoring.act.alerts.message`."""
    parts = sorted((_part(entry, settings) for entry in entries), key=lambda part: part["severity"] != "high")
    first = parts[0]
    (told,) = (entry.told for entry in entries if entry.id == first["alarm"])
    shown = {name: value for name, value in first.items() if name != "alarm"}
    return {
        "id": f"alarm-{first['alarm']}-{event}-{told}", "event": event, "app": entries[0].app, **shown, "parts": parts
    }  # fmt: skip


def _part(entry: Entry, settings: AlertSettings) -> dict[str, Any]:
    return {
        "alarm": entry.id,
        "release": entry.release,
        "what": entry.what,
        "kind": entry.kind,
        "severity": entry.severity,
        "slice": dict(entry.slice),
        "why": entry.why,
        "first_at": entry.first_at.isoformat(),
        "last_at": entry.last_at.isoformat(),
        "times": entry.times,
        "rows": row_links(settings, entry.rows),
        "run_url": run_url(settings, entry.run_id),
    }


def findings_of(result: Any, *, leave_out: Collection[str] = ()) -> Iterator[Finding]:
    """The alarms of a `MonitorResult` as findings: one for each release that an alarm shows in; where it shows in none,
    one for the part of the traffic it is seen in. leave_out: kinds of alarm."""
    sole = _sole_release(result)
    judged = getattr(result, "cure", None)
    whole = None if judged is None else Cure(bool(judged.helps), str(judged.why))
    for alarm in result.alarms:
        kind = getattr(alarm, "kind", "drift")
        if kind in leave_out:
            continue
        explained = getattr(alarm, "explained", None)
        cure = Cure(False, "changed questions explain it, which no rollback cures") if explained else whole
        for label in _places(result.app, alarm.slices):
            yield Finding(
                app=result.app,
                what=alarm.what,
                kind=kind,
                why=alarm.why,
                side=alarm.side,
                release=label.get("release", sole),
                severity=getattr(alarm, "severity", "high"),
                slice=label,
                rows=tuple(alarm.rows),
                cure=cure,
            )


def _places(app: str, slices: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    labels = [dict(label) for label in slices] or [{"app": app}]
    releases = [label for label in labels if "release" in label]
    whole = [label for label in labels if "app" in label]
    return releases or whole[:1] or labels


def _sole_release(result: Any) -> str | None:
    """The release that answered the whole window, where a single one did."""
    parts = [part for part in result.slices if "release" in part.label]
    return parts[0].label["release"] if len(parts) == 1 and parts[0].rows == result.window.rows else None


def _seen(finding: Finding, source: str, at: datetime, run_id: str | None) -> dict[str, Any]:
    return {
        "severity": finding.severity,
        "why": finding.why.replace("\0", ""),
        "rows": list(finding.rows[:_MOST_ROWS]),
        "cure": None if finding.cure is None else asdict(finding.cure),
        "run_id": run_id,
        "source": source,
        "last_at": at.timestamp(),
    }


def _is_booked(connection: sa.Connection, identity: str, source: str) -> bool:
    """Whether this very sighting made an entry that is over."""
    same = (table.c.identity == identity, table.c.source == source)
    return connection.execute(sa.select(table.c.id).where(*same).limit(1)).first() is not None


def _is_over(row: sa.Row[Any], closes: datetime, at: datetime, findings: Sequence[Finding]) -> bool:
    if row.kind != "sequential":
        return True
    still = any(finding.what == row.what and finding.release == row.release for finding in findings)
    # One seen days after the window's end was seen by a clock that was wrong.
    return not still and not closes.timestamp() < row.last_at <= at.timestamp() + _SEEN_AHEAD


def _open_entries(app: str) -> sa.Select[Any]:
    return sa.select(table).where(table.c.app == app, table.c.resolved_at.is_(None)).order_by(table.c.id)


def _entry(row: sa.Row[Any]) -> Entry:
    values = dict(row._mapping)
    cure = values["cure"]
    moments = ("first_at", "last_at", "acknowledged_at", "resolved_at")
    values |= {name: _moment(values[name]) for name in moments}
    values |= {"rows": tuple(values["rows"]), "cure": None if cure is None else Cure(**cure)}
    return Entry(**{name: values[name] for name in Entry.__slots__})


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
