"""The book of alarms: one entry for each alarm of one release while it lasts, however often it is seen.

A window or a tick that finds an alarm opens an entry or counts one more sighting; a quiet window resolves it. Whoever
must be told is told in the same transaction (`outbox`), so that no crash comes between the two.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from llmops.errors import UsageError
from llmops.hashing import content_hash
from llmops.text_io import json_fields
from monitoring.act.action_tables import alarm_book as table
from monitoring.act.action_tables import change, ensure_tables
from monitoring.act.alerts import AlertSettings
from monitoring.act.outbox import Outbox
from monitoring.store.database import reading, writing_alone

if TYPE_CHECKING:  # loading it takes numpy, which lists of alarms can do without
    from monitoring.decide.result import Cure, MonitorResult

_MOST_ROWS = 50
_SEEN_AHEAD = 2 * 86_400.0
_TOLD = ("release", "what", "kind", "severity", "slice", "why", "first_at", "last_at", "times")
"""What an alert says of an entry as it is."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """An alarm as the book takes it.

    what: the descriptor.
    kind: `drift`, `sequential`, `limit`, `volume` or `canary`.
    side: `input`, `output` or `service`.
    release: the one it is about; None where it cannot be told.
    slice: of the traffic; empty for the release's, or the app's.
    rows: request ids, most telling first.
    cure: None where nobody has judged it.
    source: names the sighting; empty for the verdict's own.
    """

    app: str
    what: str
    kind: str
    why: str
    side: str
    release: str | None = None
    severity: str = "high"
    slice: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[str, ...] = ()
    cure: Cure | None = None
    source: str = ""

    @property
    def label(self) -> dict[str, str]:
        """The slice it is about: the one given, else the release, else the app."""
        return dict(self.slice or ({"release": self.release} if self.release else {"app": self.app}))

    @property
    def identity(self) -> str:
        """The same for the same alarm of the same release, whenever it is found."""
        same = {"app": self.app, "release": self.release, "what": self.what, "kind": self.kind, "slice": self.label}
        return content_hash(same)


@dataclass(frozen=True, slots=True, kw_only=True)
class BookedAlarm(Sighting):
    """An alarm on the book, as it was seen last. told: how often its receivers were told that it is there."""

    id: int
    run_id: str | None
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
        """All fields and the state, times as ISO texts."""
        return {**json_fields(self), "rows": list(self.rows), "state": self.state}


@dataclass(frozen=True, slots=True)
class BookChanges:
    """What one verdict did to the book."""

    opened: tuple[BookedAlarm, ...] = ()
    lasting: tuple[BookedAlarm, ...] = ()
    resolved: tuple[BookedAlarm, ...] = ()


class AlarmBook:
    """The entries of one database; makes the tables when absent. Raises StoreUnavailable from every method."""

    def __init__(self, engine: sa.Engine, settings: AlertSettings, outbox: Outbox) -> None:
        ensure_tables(engine)
        self._engine, self._settings, self._outbox = engine, settings, outbox

    def record(
        self,
        app: str,
        source: str,
        findings: Sequence[Sighting],
        at: datetime,
        *,
        closes: datetime | None = None,
        run_id: str | None = None,
    ) -> BookChanges:
        """Books one verdict over one app; booking the same one again changes nothing.

        source: names the verdict, such as `window until 2026-01-02T00:00:00+00:00`.
        at: up to when it looked.
        closes: since when it looked at everything, so that open alarms which it did not find are over; None when it did
            not. A sequential alarm is over with the first whole window after it in which its descriptor is quiet.
        run_id: of the verdict's run in MLflow, for links.
        """
        by_identity = {finding.identity: finding for finding in findings}
        opened, lasting, resolved = list[BookedAlarm](), list[BookedAlarm](), list[BookedAlarm]()
        told: dict[str, list[BookedAlarm]] = {}  # by event
        with writing_alone(self._engine) as connection:
            lasts = (table.c.app == app, table.c.resolved_at.is_(None))
            open_rows = connection.execute(sa.select(table).where(*lasts).order_by(table.c.id))
            known = {str(row.identity): row for row in open_rows}
            for identity, finding in by_identity.items():
                row, sighting = known.get(identity), finding.source or source
                if _is_booked(connection, identity, sighting) if row is None else row.source == sighting:
                    continue
                tell = (row is None or row.acknowledged_at is None) and self._cooled_down(connection, identity, at)
                seen = {**_seen(finding, row, tell, at.timestamp()), "source": sighting, "run_id": run_id}
                upsert = sa.insert(table) if row is None else sa.update(table).where(table.c.id == row.id)
                entry = _entry(connection.execute(upsert.values(seen).returning(table)).one())
                (opened if row is None else lasting).append(entry)
                if tell:
                    told.setdefault("lasting" if entry.told > 1 else "opened", []).append(entry)
            for identity, row in known.items():
                if closes is None or identity in by_identity or not _is_over(row, closes, at, findings):
                    continue
                over = sa.update(table).where(table.c.id == row.id).values(open_key=None, resolved_at=at.timestamp())
                resolved.append(_entry(connection.execute(over.returning(table)).one()))
            if self._settings.tell_resolved and (over_now := [entry for entry in resolved if entry.told]):
                told["resolved"] = over_now
            for event, entries in told.items():
                self._outbox.put(connection, alert_of(entries, event, self._settings))
        return BookChanges(tuple(opened), tuple(lasting), tuple(resolved))

    def entries(self, *, app: str | None = None, resolved: bool = False) -> list[BookedAlarm]:
        """Entries, newest first: those that last, or with `resolved` all."""
        query = sa.select(table).order_by(table.c.id.desc())
        query = query if app is None else query.where(table.c.app == app)
        query = query if resolved else query.where(table.c.resolved_at.is_(None))
        with reading(self._engine) as connection:
            return [_entry(row) for row in connection.execute(query)]

    def acknowledge(self, entry_id: int, by: str, at: datetime) -> BookedAlarm:
        """Notes that somebody sees to it: it is told no more, and nothing is done about it by itself, while it lasts.

        Raises UsageError: there is no such entry, or it is over.
        """
        this = table.c.id == entry_id
        with writing_alone(self._engine) as connection:
            row = connection.execute(sa.select(table).where(this)).one_or_none()
            if row is None:
                raise UsageError(f"there is no alarm {entry_id}; see `llmops monitor alarms list --all`")
            if row.resolved_at is not None:
                raise UsageError(f"alarm {entry_id} was over already ({_moment(row.resolved_at)})")
            acknowledged = {"acknowledged_at": at.timestamp(), "acknowledged_by": by}
            return _entry(change(connection, table, acknowledged, this, table.c.acknowledged_at.is_(None)) or row)

    def _cooled_down(self, connection: sa.Connection, identity: str, at: datetime) -> bool:
        """Whether the alarm was last told long enough ago, in this entry or in an earlier one: a flapping alarm is
        told no more often than a lasting one."""
        told = (table.c.identity == identity, table.c.told_at.is_not(None))
        newest = sa.select(table.c.told_at).where(*told).order_by(table.c.id.desc()).limit(1)
        last = connection.execute(newest).scalar()
        # A time far ahead was noted by a clock that was wrong: it must not silence the alarm until then.
        return last is None or abs(at.timestamp() - float(last)) >= self._settings.cool_down


def alert_of(entries: Sequence[BookedAlarm], event: str, settings: AlertSettings) -> dict[str, Any]:
    """One alert of all that a verdict found of one app, the gravest first; its shape is in docs/alerts.md."""
    ordered = sorted(entries, key=lambda entry: entry.severity != "high")
    parts = []
    for entry in ordered:
        told = {name: value for name, value in entry.to_json().items() if name in _TOLD}
        links = {"rows": settings.row_links(entry.rows), "run_url": settings.run_url(entry.run_id)}
        parts.append({"alarm": entry.id, **told, **links})
    first = ordered[0]
    shown = {name: value for name, value in parts[0].items() if name != "alarm"}
    return {"id": f"alarm-{first.id}-{event}-{first.told}", "event": event, "app": first.app, **shown, "parts": parts}


def sightings_of(result: MonitorResult, *, leave_out: Collection[str] = ()) -> Iterator[Sighting]:
    """The alarms of a run as findings: one for each release that an alarm shows in; where it shows in none, one for the
    part of the traffic it is seen in. leave_out: kinds of alarm."""
    from monitoring.decide.result import Cure

    parts = [part for part in result.slices if "release" in part.label]
    # The release that answered the whole window, where a single one did.
    sole = parts[0].label["release"] if len(parts) == 1 and parts[0].rows == result.window.rows else None
    explained = Cure(False, "changed questions explain it, which no rollback cures")
    for alarm in result.alarms:
        if alarm.kind in leave_out:
            continue
        labels = list(alarm.slices) or [{"app": result.app}]
        releases = [label for label in labels if "release" in label]
        whole = [label for label in labels if "app" in label]
        for label in releases or whole[:1] or labels:
            yield Sighting(
                app=result.app,
                what=alarm.what,
                kind=alarm.kind,
                why=alarm.why,
                side=alarm.side,
                release=label.get("release", sole),
                severity=alarm.severity,
                slice=label,
                rows=tuple(alarm.rows),
                cure=explained if alarm.explained else result.cure,
            )


def _seen(finding: Sighting, row: sa.Row[Any] | None, tell: bool, at: float) -> dict[str, Any]:
    """The columns of an entry after one more sighting. row: the entry as it is; None for a new one."""
    values = {
        "severity": finding.severity,
        "why": finding.why.replace("\0", ""),
        "rows": list(finding.rows[:_MOST_ROWS]),
        "cure": None if finding.cure is None else asdict(finding.cure),
        "last_at": at if row is None else max(at, row.last_at),
        "times": 1 if row is None else row.times + 1,
        "told": int(tell) + (0 if row is None else row.told),
        **({"told_at": at} if tell else {}),
    }
    if row is not None:
        return values
    names = ("app", "release", "what", "kind", "side", "identity")
    same = {name: getattr(finding, name) for name in names}
    return {**values, **same, "open_key": finding.identity, "slice": finding.label, "first_at": at}


def _is_booked(connection: sa.Connection, identity: str, source: str) -> bool:
    """Whether this very sighting made an entry that is over."""
    same = (table.c.identity == identity, table.c.source == source)
    return connection.execute(sa.select(table.c.id).where(*same).limit(1)).first() is not None


def _is_over(row: sa.Row[Any], closes: datetime, at: datetime, findings: Sequence[Sighting]) -> bool:
    if row.kind != "sequential":
        return True
    still = any(finding.what == row.what and finding.release == row.release for finding in findings)
    # One seen days after the window's end was seen by a clock that was wrong.
    return not still and not closes.timestamp() < row.last_at <= at.timestamp() + _SEEN_AHEAD


def _entry(row: sa.Row[Any]) -> BookedAlarm:
    values = {each.name: getattr(row, each.name) for each in fields(BookedAlarm)}
    for name in ("first_at", "last_at", "acknowledged_at", "resolved_at"):
        values[name] = _moment(values[name])
    if row.cure is not None:
        from monitoring.decide.result import Cure

        values["cure"] = Cure(**row.cure)
    return BookedAlarm(**{**values, "rows": tuple(row.rows)})


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
