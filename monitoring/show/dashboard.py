"""Evidently's dashboard over time: a workspace on disk with one project for each app.

Two sorts of points are in a project. A *verdict* for each monitoring run: alarms by kind and release, and the effect of
each descriptor. *Levels* for each hour or day of the stored history: requests, and the mean (or share) of the chief
descriptors, for the app and for each release. Levels come from summaries, never from rows.

Evidently's interface reads all of a project's snapshots into memory and walks them for every panel, so they are small
(numbers only, some 10 kB each) and few (see `Dashboard._prune`): 5,000 whole verdicts would take it 890 MB and most of
a minute to draw. A snapshot's id follows from what it is about, so that writing it again replaces it.

The files are written without Evidently: its import takes seconds and 250 MiB, and a run of the monitor only has numbers
to leave behind. Their form is Evidently 0.7's own (`SnapshotModel`, `ProjectModel`, `DashboardModel`). Its version is
pinned, and tests read what is written here with Evidently itself, so that a release that changes the form fails them.
"""

import contextlib
import json
import math
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from llmops.errors import CannotRun
from llmops.settings import Settings
from llmops.text_io import replace_text
from monitoring.show.dashboard_panels import (
    ALARM_KINDS,
    BUDGET,
    CHIEF,
    EFFECT,
    MEAN,
    WHOLE,
    column_name,
    named_in,
    panels,
)
from monitoring.show.history import HOURLY_FOR, Levels, levels_since, means
from monitoring.store.database import apps_in_log
from monitoring.stores import opened

RECENT_VERDICTS = 300
"""So many stay whatever they say; of those before, one for each day: the last that alarmed, else the last."""
KEPT_DAYS = 365
MOST_RELEASES = 6
"""Releases with lines of their own, the newest versions: Evidently has ten colours."""

_ABOUT = "Descriptors of the production log over time, and the monitor's verdicts"
_SORTS = ("verdict", "day", "hour", "alarm")
_NAMES = uuid.UUID("5f6b1c52-6a0f-4f0c-9d5b-0d6a3a0f6f5e")
_ALARM_ROWS = 20
_LATE = timedelta(hours=2)
"""So far back the history is looked at again: rows may arrive after their hour."""


def workspace_folder(settings: Settings) -> Path:
    """Where the dashboard lies; an ordinary Evidently workspace."""
    return settings.home / "evidently"


def update_from_history(settings: Settings) -> dict[str, int]:
    """Adds what the history of every app has gained; rows that were not described yet are. Returns points by app.

    Raises BadFile, CannotRun, StoreUnavailable.
    """
    added, board = dict[str, int](), Dashboard(workspace_folder(settings))
    with opened(settings) as stores:
        stores.ingest()
        for app in apps_in_log(stores.engine):
            since = board.newest_level(app)
            since = stores.reader.first_at(app) if since is None else since
            gained = () if since is None else levels_since(stores.reader, app, since - _LATE, datetime.now(UTC))
            added[app] = board.add_levels(app, gained)
    return added


class Dashboard:
    """The workspace in one folder. Every method raises CannotRun when the folder cannot be read or written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add_verdict(self, app: str, run_id: str, verdict: Mapping[str, Any]) -> str:
        """One monitoring run, by the contract's JSON; its time is the window's end. Returns the snapshot's id.

        Takes milliseconds: Evidently is not loaded.
        """
        window, state, alarms = verdict["window"], str(verdict["state"]), list(verdict["alarms"])
        whats = ", ".join(dict.fromkeys(str(alarm["what"]) for alarm in alarms))
        releases = [str(part["slice"]["release"]) for part in verdict["slices"] if "release" in part["slice"]]
        kinds = Counter(alarm.get("kind", "drift") for alarm in alarms)
        values = {
            column_name(WHOLE, "alarms"): float(len(alarms)),
            column_name(WHOLE, "rows"): float(window["rows"]),
            column_name(WHOLE, BUDGET): float(verdict["expected_false_alarms_per_month"]),
            **{column_name(WHOLE, f"alarms {kind}"): float(kinds[kind]) for kind in ALARM_KINDS},
        }
        for part in verdict["slices"]:
            if (release := part["slice"].get("release")) is not None:
                drifted = sum(1 for drift in part["descriptors"].values() if drift["drifted"])
                values[column_name(release, "alarms")] = float(drifted)
        for name, drift in verdict["slices"][0]["descriptors"].items() if verdict["slices"] else ():
            values[column_name(WHOLE, EFFECT + name)] = abs(float(drift["effect"]))
        # No request and no user is named: what is deleted from the log must not live on here.
        rows = [
            (
                alarm["what"],
                alarm.get("kind", "drift"),
                "in slices by user" if any("user" in label for label in alarm.get("slices", ())) else alarm["why"],
            )
            for alarm in alarms[:_ALARM_ROWS]
        ]
        with self._touching():
            written = self._write(
                app,
                sort="alarm" if alarms else "verdict",
                name=run_id,
                at=datetime.fromisoformat(str(window["until"])),
                title=f"{state}: {whats}" if alarms else state,
                tags=["verdict", state, *releases],
                metadata={"run": run_id, "state": state, "since": str(window["since"]), "rows": str(window["rows"])},
                values=values,
                tables=[_table("Alarms", ("what", "kind", "why"), rows)] if alarms else [],
            )
            self._arrange(app, releases, values, "verdict")
            self._prune(app)
        return written

    def add_levels(self, app: str, levels: Iterable[Levels]) -> int:
        """Points of the history; those that are there are replaced. Returns how many were written."""
        written, releases, columns = 0, set[str](), set[str]()
        with self._touching():
            for level in levels:
                releases.update(level.by_release)
                values = _level_values(level)
                columns.update(values)
                self._write(
                    app,
                    sort=level.sort,
                    name=level.since.isoformat(),
                    at=level.until,
                    title=f"{level.sort} of traffic",
                    tags=["levels", level.sort, *sorted(level.by_release)],
                    metadata={"since": level.since.isoformat(), "rows": str(level.whole.rows)},
                    values=values,
                )
                written += 1
            if written:
                self._arrange(app, releases, columns, "levels")
                self._prune(app)
        return written

    def snapshots(self, app: str) -> list[str]:
        """The ids of an app's snapshots, oldest first."""
        with self._touching():
            return sorted(path.stem for path in (self._project(app) / "snapshots").glob("*.json"))

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

    def _project(self, app: str) -> Path:
        return self.folder / str(project_id(app))

    def _write(
        self,
        app: str,
        *,
        sort: str,
        name: str,
        at: datetime,
        title: str,
        tags: Sequence[str],
        metadata: Mapping[str, str],
        values: Mapping[str, float],
        tables: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """One snapshot, which holds numbers by name; those that are not finite are left out. Makes the project unless
        it is there.

        name: what it is about, unique among those of its sort and time.
        """
        folder, project = self._project(app), str(project_id(app))
        (folder / "snapshots").mkdir(parents=True, exist_ok=True)
        if not (folder / "metadata.json").is_file():
            about = {"id": project, "name": app, "description": _ABOUT, "org_id": None, "version": "2"}
            _write_whole(folder / "metadata.json", about)
        finite = {column: float(f"{value:.6g}") for column, value in values.items() if math.isfinite(value)}
        rows = [(*named_in(column), f"{value:.4g}") for column, value in values.items()]
        snapshot = {
            "report": {"items": []},
            "name": title,
            "timestamp": at.astimezone(UTC).replace(tzinfo=None).isoformat(),  # Evidently's own have no zone either
            "metadata": dict(metadata),
            "tags": list(tags),
            "metric_results": {column: _mean(column, value) for column, value in finite.items()},
            "top_level_metrics": list(finite),
            "widgets": [*tables, _table("Values", ("of", "what", "value"), rows)],
            "tests_widgets": [],
        }
        # Version 8 of RFC 9562: milliseconds, the sort, then a hash. So names of files order snapshots and tell their
        # sort, and none need be opened to drop the oldest.
        moment = int(at.timestamp() * 1000) & (1 << 48) - 1
        chance = uuid.uuid5(project_id(app), f"{sort} {name}").int & (1 << 62) - 1
        snapshot_id = uuid.UUID(int=moment << 80 | 8 << 76 | _SORTS.index(sort) << 64 | 2 << 62 | chance)
        _write_whole(folder / "snapshots" / f"{snapshot_id}.json", snapshot)
        return str(snapshot_id)

    def _arrange(self, app: str, releases: Iterable[str], columns: Iterable[str], tag: str) -> None:
        """The project's panels, for the columns of snapshots with this tag and for what has panels already."""
        path, project = self._project(app) / "dashboard.json", project_id(app)
        drawn = [(*named_in(column), tag) for column in columns]
        if path.is_file():
            with contextlib.suppress(ValueError, LookupError, TypeError):  # of a broken file, which is written anew
                kept = json.loads(path.read_text(encoding="utf-8"))["panels"]
                lines = [line for panel in kept for line in panel["values"]]
                drawn += [(*named_in(line["metric_labels"]["column"]), line["tags"][0]) for line in lines]
        known = {who for who, _, _ in drawn if who != WHOLE} | set(releases)
        shown = sorted(known, key=_version_order)[-MOST_RELEASES:]
        levels = {what for _, what, of in drawn if of == "levels"}
        effects = {what.removeprefix(EFFECT) for _, what, _ in drawn if what.startswith(EFFECT)}
        made, tabs = [], dict[str, list[str]]()
        for tab, panel in panels(shown, levels, effects):
            panel_id = str(uuid.uuid5(project, f"{tab} {panel['title']}"))
            tabs.setdefault(tab, []).append(panel_id)
            made.append({"id": panel_id, **panel})
        listed = [{"id": str(uuid.uuid5(project, tab)), "title": tab, "panels": ids} for tab, ids in tabs.items()]
        _write_whole(path, {"tabs": listed, "panels": made})

    def _prune(self, app: str) -> None:
        """Drops the hours of days that have a point of their own, old days, and verdicts; see RECENT_VERDICTS."""
        sorts: dict[str, list[str]] = {}
        for name in self.snapshots(app):
            sorts.setdefault(_sort_of(name), []).append(name)
        hours = sorts.get("hour", [])
        # A day that ended less than a week ago is still made of hours, hence the day more.
        dropped = [name for name in hours if _time_of(name) < _time_of(hours[-1]) - HOURLY_FOR - timedelta(days=1)]
        dropped += sorts.get("day", [])[:-KEPT_DAYS]
        older = sorted([*sorts.get("verdict", []), *sorts.get("alarm", [])])[:-RECENT_VERDICTS]
        kept: dict[date, str] = {}
        for name in older:
            day = _time_of(name).date()
            if day not in kept or _sort_of(name) == "alarm" or _sort_of(kept[day]) != "alarm":
                kept[day] = name
        stay = set(list(kept.values())[-KEPT_DAYS:])
        for name in [*dropped, *(each for each in older if each not in stay)]:
            (self._project(app) / "snapshots" / f"{name}.json").unlink(missing_ok=True)


def project_id(app: str) -> uuid.UUID:
    """The same for the same app, in every workspace."""
    return uuid.uuid5(_NAMES, app)


def _level_values(level: Levels) -> dict[str, float]:
    values = {column_name(WHOLE, name): value for name, value in means(level.whole).items()}
    for release, summary in level.by_release.items():
        of_release = means(summary)
        values.update({column_name(release, name): of_release[name] for name in CHIEF if name in of_release})
    hours = (level.until - level.since) / timedelta(hours=1)
    rates = {name: value / hours for name, value in values.items() if named_in(name)[1] == "rows"}
    others = {name: value for name, value in values.items() if name not in rates}
    return {**others, **rates} if level.over else others  # a rate of what is not over would look like a fall


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


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> dict[str, Any]:
    """A table of a report."""
    return {
        "type": "table",
        "title": title,
        "size": 2,
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, title)),
        "pageSize": 20,
        "params": {"header": list(columns), "data": [[str(cell) for cell in row] for row in rows]},
    }


def _mean(name: str, value: float) -> dict[str, Any]:
    metric = {"metric_id": name, "params": {"type": MEAN, "column": name}}
    return {
        "type": "evidently:metric_result_v2:SingleValue",
        "display_name": name,
        "widget": [],
        "tests": [],
        "metric_value_location": {"metric": metric, "param": {}},
        "value": value,
    }


def _write_whole(path: Path, value: Mapping[str, Any]) -> None:
    """Whole or not at all: the interface refuses to start on half a snapshot."""
    replace_text(path, json.dumps(value))
    os.utime(path)  # a running interface looks at files that were changed, not at those that were renamed
