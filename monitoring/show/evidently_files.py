"""The files of an Evidently workspace, written without Evidently: its import takes seconds and 250 MiB, and a run of
the monitor only has numbers to leave behind.

The form is Evidently 0.7's own (`SnapshotModel`, `ProjectModel`, `DashboardModel`). Its version is pinned, and tests
read what is written here with Evidently itself, so that a release that changes the form fails them.
"""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_MEAN = "evidently:metric_v2:MeanValue"
"""A number is kept as the mean of a column, so that Evidently's own panels and filters find it."""


def snapshot(
    title: str,
    at: datetime,
    tags: Sequence[str],
    metadata: Mapping[str, str],
    values: Mapping[str, float],
    tables: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """A report that holds numbers by name and some tables. Numbers that are not finite are left out."""
    finite = {name: float(f"{value:.6g}") for name, value in values.items() if math.isfinite(value)}
    return {
        "report": {"items": []},
        "name": title,
        "timestamp": at.astimezone(UTC).replace(tzinfo=None).isoformat(),  # Evidently's own have no zone either
        "metadata": dict(metadata),
        "tags": list(tags),
        "metric_results": {name: _mean(name, value) for name, value in finite.items()},
        "top_level_metrics": list(finite),
        "widgets": list(tables),
        "tests_widgets": [],
    }


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> dict[str, Any]:
    """A table of a report."""
    data = [[str(cell) for cell in row] for row in rows]
    widget_id = str(uuid.uuid5(uuid.NAMESPACE_OID, title))
    return {"type": "table", "title": title, "size": 2, "id": widget_id, "pageSize": 20,
            "params": {"header": list(columns), "data": data}}  # fmt: skip


def panel(
    project: uuid.UUID,
    key: str,
    title: str,
    subtitle: str,
    *,
    wide: bool,
    lines: Sequence[tuple[str, str, Sequence[str]]],
    plot: Mapping[str, Any],
) -> dict[str, Any]:
    """A panel of the dashboard. key: the same for the same panel. lines: legend, name of the number, and tags that
    its snapshots have."""
    return {
        "id": str(uuid.uuid5(project, key)),
        "title": title,
        "subtitle": subtitle,
        "size": "full" if wide else "half",
        "values": [
            {"legend": legend, "tags": list(tags), "metadata": {}, "metric": _MEAN, "metric_labels": {"column": name},
             "view_params": {}}
            for legend, name, tags in lines
        ],
        "plot_params": dict(plot),
    }  # fmt: skip


def tab(project: uuid.UUID, title: str, panels: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {"id": str(uuid.uuid5(project, title)), "title": title, "panels": [each["id"] for each in panels]}


class ProjectFiles:
    """The folder of one project. Every method raises OSError."""

    def __init__(self, workspace: Path, project: uuid.UUID) -> None:
        self._folder = workspace / str(project)
        self._project = project

    def make(self, name: str, description: str) -> None:
        """Makes the project unless it is there."""
        (self._folder / "snapshots").mkdir(parents=True, exist_ok=True)
        about = self._folder / "metadata.json"
        if not about.is_file():
            project = {"id": str(self._project), "name": name, "description": description, "org_id": None}
            _write(about, {**project, "version": "2"})

    def snapshots(self) -> list[str]:
        """Ids, sorted."""
        return sorted(path.stem for path in (self._folder / "snapshots").glob("*.json"))

    def write_snapshot(self, snapshot_id: uuid.UUID, made: Mapping[str, Any]) -> None:
        _write(self._folder / "snapshots" / f"{snapshot_id}.json", made)

    def delete_snapshot(self, snapshot_id: str) -> None:
        (self._folder / "snapshots" / f"{snapshot_id}.json").unlink(missing_ok=True)

    def panels(self) -> list[dict[str, Any]]:
        """The dashboard's panels as they are; none of a dashboard that is not there or is not ours to read."""
        path = self._folder / "dashboard.json"
        if not path.is_file():
            return []
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["panels"]
        except (ValueError, KeyError, TypeError):
            return []  # a broken file: it is about to be written anew
        return list(found)

    def write_dashboard(self, tabs: Sequence[Mapping[str, Any]], panels: Sequence[Mapping[str, Any]]) -> None:
        _write(self._folder / "dashboard.json", {"tabs": list(tabs), "panels": list(panels)})


def _mean(name: str, value: float) -> dict[str, Any]:
    metric = {"metric_id": name, "params": {"type": _MEAN, "column": name}}
    return {"type": "evidently:metric_result_v2:SingleValue", "display_name": name, "widget": [], "tests": [],
            "metric_value_location": {"metric": metric, "param": {}}, "value": value}  # fmt: skip


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """Whole or not at all: the interface refuses to start on half a snapshot."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(value), encoding="utf-8")
    part.replace(path)
    os.utime(path)  # a running interface looks at files that were changed, not at those that were renamed
