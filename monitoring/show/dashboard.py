"""Evidently's dashboard over time: a workspace on disk with one project for each app.

Two sorts of points are in a project. A *verdict* for each monitoring run: alarms by kind and release, and the effect of
each descriptor. *Levels* for each hour or day of the stored history: requests, and the mean (or share) of the chief
descriptors, for the app and for each release. Levels come from summaries, never from rows.

Evidently's interface reads all of a project's snapshots into memory and walks them for every panel, so they are kept
small: numbers only, some 10 kB each, where Evidently's own mean of one column takes 17 kB and a report megabytes. And
they are few: after a week a day has one point, not 24, and the verdicts before the newest 300 are thinned out to one
for each day. 5,000 whole verdicts would take the interface 890 MB and most of a minute to draw.

Everything is idempotent: a snapshot's id follows from what it is about, so that writing it again replaces it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from llmops.errors import CannotRun
from monitoring.show.dashboard_panels import (
    ALARM_KINDS,
    BUDGET,
    CHIEF_NAMES,
    EFFECT,
    WHOLE,
    column_name,
    named_in,
    panels,
)
from monitoring.show.evidently_files import ProjectFiles, panel, snapshot, tab, table
from monitoring.show.history import HOURLY_FOR, Levels, means

RECENT_VERDICTS = 300
"""So many stay whatever they say; of those before, one for each day: the last that alarmed, else the last."""
KEPT_DAYS = 365
MOST_RELEASES = 6
"""Releases with lines of their own, the newest versions: Evidently has ten colours."""

_ABOUT = "Descriptors of the production log over time, and the monitor's verdicts"
_SORTS = ("verdict", "day", "hour", "alarm")
_NAMES = uuid.UUID("5f6b1c52-6a0f-4f0c-9d5b-0d6a3a0f6f5e")
_ALARM_ROWS = 20


class Dashboard:
    """The workspace in one folder. Every method raises CannotRun when the folder cannot be read or written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add_verdict(self, app: str, run_id: str, verdict: Mapping[str, Any]) -> str:
        """One monitoring run, by the contract's JSON; its time is the window's end. Returns the snapshot's id."""
        window, state = verdict["window"], str(verdict["state"])
        alarms = list(verdict["alarms"])
        releases = [str(part["slice"]["release"]) for part in verdict["slices"] if "release" in part["slice"]]
        values = _verdict_values(verdict)
        point = _Point(
            "alarm" if alarms else "verdict",
            run_id,
            datetime.fromisoformat(str(window["until"])),
            f"{state}: {', '.join(dict.fromkeys(str(alarm['what']) for alarm in alarms))}" if alarms else state,
            ("verdict", state, *releases),
            {"run": run_id, "state": state, "since": str(window["since"]), "rows": str(window["rows"])},
            values,
        )
        with self._touching():
            files = self._files(app)
            files.make(app, _ABOUT)
            written = self._write(app, point, [_alarm_table(alarms)] if alarms else [])
            self._arrange(app, releases, effects=_whats(values, EFFECT))
            self._prune(files)
        return written

    def add_levels(self, app: str, levels: Iterable[Levels]) -> int:
        """Points of the history; those that are there are replaced. Returns how many were written."""
        written, releases, columns = 0, set[str](), set[str]()
        with self._touching():
            for level in levels:
                self._files(app).make(app, _ABOUT)
                releases.update(level.by_release)
                values = _level_values(level)
                columns.update(values)
                about = {"since": level.since.isoformat(), "rows": str(level.whole.rows)}
                point = _Point(level.sort, level.since.isoformat(), level.until, f"{level.sort} of traffic",
                               ("levels", level.sort, *sorted(level.by_release)), about, values)  # fmt: skip
                self._write(app, point, [])
                written += 1
            if written:
                self._arrange(app, releases, levels=_whats(columns))
                self._prune(self._files(app))
        return written

    def snapshots(self, app: str) -> list[str]:
        """The ids of an app's snapshots, oldest first."""
        with self._touching():
            return self._files(app).snapshots()

    def newest_level(self, app: str) -> datetime | None:
        """The end of the newest point of the history."""
        levels = [name for name in self.snapshots(app) if _sort_of(name) in ("day", "hour")]
        return _time_of(levels[-1]) if levels else None

    @contextmanager
    def _touching(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CannotRun(f"the dashboard in {self.folder} cannot be kept: {error.strerror or error}") from error

    def _files(self, app: str) -> ProjectFiles:
        return ProjectFiles(self.folder, project_id(app))

    def _write(self, app: str, point: _Point, tables: Sequence[Mapping[str, Any]]) -> str:
        rows = [(*named_in(name), f"{value:.4g}") for name, value in point.values.items()]
        shown = [*tables, table("Values", ("of", "what", "value"), rows)]
        made = snapshot(point.title, point.at, point.tags, point.metadata, point.values, shown)
        snapshot_id = _snapshot_id(app, point)
        self._files(app).write_snapshot(snapshot_id, made)
        return str(snapshot_id)

    def _arrange(
        self, app: str, releases: Iterable[str], levels: Iterable[str] = (), effects: Iterable[str] = ()
    ) -> None:
        """The project's panels, for what is named here and what has panels already."""
        files, project = self._files(app), project_id(app)
        lines = [line for each in files.panels() for line in each["values"]]
        drawn = [(*named_in(line["metric_labels"]["column"]), "levels" in line["tags"]) for line in lines]
        known = {who for who, _, _ in drawn if who != WHOLE} | set(releases)
        shown = sorted(known, key=_version_order)[-MOST_RELEASES:]
        levels = {what for _, what, is_level in drawn if is_level} | set(levels)
        effects = {what.removeprefix(EFFECT) for _, what, _ in drawn if what.startswith(EFFECT)} | set(effects)
        arranged: dict[str, list[dict[str, Any]]] = {}
        for each in panels(shown, levels, effects):
            told = [(line.legend, line.column, line.tags) for line in each.lines]
            key = f"{each.tab} {each.title}"
            made = panel(project, key, each.title, each.subtitle, wide=each.wide, lines=told, plot=each.plot)
            arranged.setdefault(each.tab, []).append(made)
        tabs = [tab(project, title, members) for title, members in arranged.items()]
        files.write_dashboard(tabs, [each for members in arranged.values() for each in members])

    def _prune(self, files: ProjectFiles) -> None:
        sorts: dict[str, list[str]] = {}
        for name in files.snapshots():
            sorts.setdefault(_sort_of(name), []).append(name)
        hours = sorts.get("hour", [])
        # A day that ended less than a week ago is still made of hours, hence the day more.
        dropped = [name for name in hours if _time_of(name) < _time_of(hours[-1]) - HOURLY_FOR - timedelta(days=1)]
        dropped += sorts.get("day", [])[:-KEPT_DAYS]
        dropped += _thinned_out(sorted([*sorts.get("verdict", []), *sorts.get("alarm", [])]))
        for name in dropped:
            files.delete_snapshot(name)


def _thinned_out(verdicts: Sequence[str]) -> list[str]:
    """Those to drop; see RECENT_VERDICTS."""
    older = verdicts[:-RECENT_VERDICTS]
    kept: dict[date, str] = {}
    for name in older:
        day = _time_of(name).date()
        if day not in kept or _sort_of(name) == "alarm" or _sort_of(kept[day]) != "alarm":
            kept[day] = name
    stay = set(list(kept.values())[-KEPT_DAYS:])
    return [name for name in older if name not in stay]


@dataclass(frozen=True, slots=True)
class _Point:
    """One snapshot. name: what it is about, unique among those of its sort and time."""

    sort: str
    name: str
    at: datetime
    title: str
    tags: tuple[str, ...]
    metadata: Mapping[str, str]
    values: Mapping[str, float]


def project_id(app: str) -> uuid.UUID:
    """The same for the same app, in every workspace."""
    return uuid.uuid5(_NAMES, app)


def _alarm_table(alarms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Names no request and no user: what is deleted from the log must not live on here."""
    rows = [
        (alarm["what"], alarm.get("kind", "drift"), "in slices by user" if _by_user(alarm) else alarm["why"])
        for alarm in alarms[:_ALARM_ROWS]
    ]
    return table("Alarms", ("what", "kind", "why"), rows)


def _by_user(alarm: Mapping[str, Any]) -> bool:
    return any("user" in label for label in alarm.get("slices", ()))


def _verdict_values(verdict: Mapping[str, Any]) -> dict[str, float]:
    alarms = list(verdict["alarms"])
    values = {
        column_name(WHOLE, "alarms"): float(len(alarms)),
        column_name(WHOLE, "rows"): float(verdict["window"]["rows"]),
        column_name(WHOLE, BUDGET): float(verdict["expected_false_alarms_per_month"]),
    }
    for kind in ALARM_KINDS:
        found = sum(1 for alarm in alarms if alarm.get("kind", "drift") == kind)
        values[column_name(WHOLE, f"alarms {kind}")] = float(found)
    for part in verdict["slices"]:
        release = part["slice"].get("release")
        if release is not None:
            drifted = sum(1 for found in part["descriptors"].values() if found["drifted"])
            values[column_name(release, "alarms")] = float(drifted)
    for name, found in verdict["slices"][0]["descriptors"].items() if verdict["slices"] else ():
        values[column_name(WHOLE, EFFECT + name)] = abs(float(found["effect"]))
    return values


def _whats(columns: Iterable[str], prefix: str = "") -> list[str]:
    """What of the whole app the columns hold, of those beginning with the prefix, without it."""
    named = [named_in(column) for column in columns]
    return [what[len(prefix) :] for who, what in named if who == WHOLE and what.startswith(prefix)]


def _level_values(level: Levels) -> dict[str, float]:
    values = {column_name(WHOLE, name): value for name, value in means(level.whole).items()}
    for release, summary in level.by_release.items():
        found = means(summary)
        values.update({column_name(release, name): found[name] for name in CHIEF_NAMES if name in found})
    hours = (level.until - level.since) / timedelta(hours=1)
    counts = {name: value / hours for name, value in values.items() if named_in(name)[1] == "rows"}
    if not level.over:  # a rate of what is not over would look like a fall
        return {name: value for name, value in values.items() if name not in counts}
    return {**values, **counts}


def _snapshot_id(app: str, point: _Point) -> uuid.UUID:
    """Version 8 of RFC 9562: milliseconds, the sort, then a hash. So names of files order snapshots and tell their
    sort, and none need be opened to drop the oldest."""
    moment = int(point.at.timestamp() * 1000) & (1 << 48) - 1
    chance = uuid.uuid5(project_id(app), f"{point.sort} {point.name}").int & (1 << 62) - 1
    return uuid.UUID(int=moment << 80 | 8 << 76 | _SORTS.index(point.sort) << 64 | 2 << 62 | chance)


def _sort_of(snapshot_id: str) -> str:
    """The sort; another word for snapshots that somebody else put there."""
    try:
        value = uuid.UUID(snapshot_id)
    except ValueError:
        return "foreign"
    place = (value.int >> 64) & 0xFFF
    return _SORTS[place] if value.version == 8 and place < len(_SORTS) else "foreign"


def _time_of(snapshot_id: str) -> datetime:
    return datetime.fromtimestamp((uuid.UUID(snapshot_id).int >> 80) / 1000, UTC)


def _version_order(release: str) -> tuple[str, int]:
    name, _, version = release.rpartition("@")
    return name, int(version) if version.isdigit() else -1
