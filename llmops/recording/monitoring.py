"""Monitoring runs and the monitor's actions in MLflow: an experiment for each app, a run for each window, and one run
with their history.

The history is the parent of the windows' runs: each of its metrics has a point for each window, so that MLflow's own
chart of it shows months. A window that is judged again is the same run, brought up to date.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from llmops.hashing import content_hash
from llmops.recording.cell import LONGEST_TAG, find_runs
from llmops.registry.store import Store, translated

WINDOW_TAG, ACTION_KEY_TAG = "llmops.monitoring_window", "llmops.action_key"
VERDICT_FILE, ACTION_FILE = "verdict.json", "action.json"
_HISTORY_TAG, _PARENT_TAG = "llmops.monitoring_history", "mlflow.parentRunId"


def monitoring_experiment(app: str) -> str:
    """The name of the experiment with an app's monitoring."""
    return f"monitoring-{app}"


def record_monitoring_run(
    store: Store,
    app: str,
    verdict: Mapping[str, Any],
    metrics: Mapping[str, float],
    *,
    descriptor_version: str = "",
    page: str | None = None,
) -> str:
    """Writes one monitoring run: verdict as JSON and, where there is one, as a page; metrics; tags. Returns its id.

    The same app, window and descriptor version is the same run, whose numbers and verdict are replaced; so is its point
    of the history.

    verdict: the contract's JSON; kept `nameless`.
    metrics: all are logged; the history goes without p-values: over time the effects tell more, and a chart of each
        would fill the page.
    page: HTML of the nameless verdict.

    Raises StoreUnavailable.
    """
    from mlflow.entities import Metric

    client = store.client
    with translated(f"recording the monitoring of {app}"):
        experiment_id = store.experiment(monitoring_experiment(app))
        history_id = _history(store, experiment_id, app)
        run_id, again = _window_run(store, experiment_id, history_id, app, verdict, descriptor_version)
        now = int(datetime.now(UTC).timestamp() * 1000)
        store.log_numbers(run_id, [Metric(name, float(value), now, 0) for name, value in metrics.items()])
        end = _end_of(verdict)
        step, at = int(end.timestamp()) // 3600, int(end.timestamp() * 1000)
        points = []
        for name, value in metrics.items():
            # MLflow keeps every point that it is given, also the very one that it has.
            known = client.get_metric_history(history_id, name) if again else ()
            is_known = any(point.step == step and point.value == value for point in known)
            if not is_known and not name.endswith("/p_adjusted"):
                points.append(Metric(name, float(value), at, step))
        store.log_numbers(history_id, points)
        client.log_dict(run_id, nameless(verdict), VERDICT_FILE)
        if page is not None:
            client.log_text(run_id, page, "verdict.html")
        client.set_terminated(run_id, "FINISHED")
    return run_id


def nameless(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict without request ids and users' names: what is deleted from the log must not live on in the store.

    Of an alarm's requests their number stays (`rows_named`); the alarm book has the ids.
    """
    alarms = []
    for alarm in verdict.get("alarms") or ():
        told = {**alarm, "rows": [], "rows_named": len(alarm.get("rows", ()))}
        labels = [{name: value for name, value in label.items() if name != "user"} for label in alarm.get("slices", ())]
        if labels != list(alarm.get("slices", ())):
            told |= {"slices": [label for label in labels if label], "why": "in slices by user"}
        alarms.append(told)
    kept = {**verdict, "alarms": alarms}
    for rule in ("slices", "limits", "sequential", "volume"):
        if rule in verdict:
            kept[rule] = [found for found in verdict[rule] if "user" not in (found.get("slice") or {})]
    return kept


def _history(store: Store, experiment_id: str, app: str) -> str:
    """The run that has a point for each window; the oldest, should two processes have made one at once."""
    runs = find_runs(store, [experiment_id], {_HISTORY_TAG: app}, oldest_first=True, most=1)
    if not runs:
        tags = {_HISTORY_TAG: app, "llmops.app": app}
        runs = [store.client.create_run(experiment_id, run_name=f"{app} over time", tags=tags)]
        store.client.set_terminated(runs[0].info.run_id, "FINISHED")
    return str(runs[0].info.run_id)


def _window_run(
    store: Store, experiment_id: str, history_id: str, app: str, verdict: Mapping[str, Any], version: str
) -> tuple[str, bool]:
    """Its id, and whether it was there."""
    window = verdict.get("window") or {}
    identity = content_hash([app, window.get("since"), window.get("until"), version])[:32]
    tags = {WINDOW_TAG: identity, _PARENT_TAG: history_id, **_tags(app, verdict)}
    runs = find_runs(store, [experiment_id], {WINDOW_TAG: identity}, oldest_first=True, most=1) if window else []
    if not runs:
        name = f"{app} {_end_of(verdict):%Y-%m-%d %H:%M}"
        return str(store.client.create_run(experiment_id, run_name=name, tags=tags).info.run_id), False
    run_id = str(runs[0].info.run_id)
    for name, value in tags.items():
        store.client.set_tag(run_id, name, value)
    return run_id, True


def _tags(app: str, verdict: Mapping[str, Any]) -> dict[str, str]:
    alarms: Sequence[Mapping[str, Any]] = verdict.get("alarms") or ()
    parts = [part.get("slice", {}) for part in verdict.get("slices") or ()]
    window = verdict.get("window") or {}
    tags = {
        "llmops.app": app,
        "llmops.state": str(verdict.get("state", "alarm" if alarms else "ok")),
        "llmops.alarms": str(len(alarms)),
        "llmops.alarmed": ", ".join(dict.fromkeys(str(alarm["what"]) for alarm in alarms)),
        "llmops.drift_in": ", ".join(verdict.get("drift_in") or ()),
        "llmops.release": ", ".join(str(part["release"]) for part in parts if "release" in part),
        "llmops.since": str(window.get("since", "")),
        "llmops.until": str(window.get("until") or ""),
    }
    return {name: value[:LONGEST_TAG] for name, value in tags.items()}


def _end_of(verdict: Mapping[str, Any]) -> datetime:
    until = (verdict.get("window") or {}).get("until")
    return datetime.fromisoformat(str(until)).astimezone(UTC) if until else datetime.now(UTC)


def record_action(
    store: Store, experiment: str, key: str, action: Mapping[str, Any], evidence: Mapping[str, Any]
) -> str:
    """Writes one run for an action, once for each key; returns the run's id.

    action: `app`, `action`, `release`, `dry_run`, `why`, `outcome`. evidence: what it was decided on; the ids of its
    rows are a file of their own. Raises StoreUnavailable.
    """
    experiment_id = store.experiment(experiment)
    rows = dict.fromkeys(row for alarm in evidence.get("alarms", ()) for row in alarm["rows"])
    with translated(f"recording {action['action']} of {action['release']}"):
        runs = find_runs(store, [experiment_id], {ACTION_KEY_TAG: key}, most=1)
        if runs and runs[0].info.status == "FINISHED":
            return str(runs[0].info.run_id)
        shown = f"{action['action']} {action['release']}" + (" (dry run)" if action["dry_run"] else "")
        target = {"run_id": runs[0].info.run_id} if runs else {"experiment_id": experiment_id, "run_name": shown}
        tags = {
            ACTION_KEY_TAG: key,
            "llmops.app": str(action["app"]),
            "llmops.action": str(action["action"]),
            "llmops.release": str(action["release"]),
            "llmops.dry_run": str(action["dry_run"]).lower(),
            "mlflow.note.content": str(action["why"]),
        }
        with store.start_run(**target, tags=tags) as run:
            run_id = str(run.info.run_id)
            store.client.log_dict(run_id, dict(action), ACTION_FILE)
            store.client.log_dict(run_id, dict(evidence), "evidence.json")
            store.client.log_text(run_id, "".join(f"{row}\n" for row in rows), "rows.txt")
        return run_id
