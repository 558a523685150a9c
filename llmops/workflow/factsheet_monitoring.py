"""The alarms, actions and monitored windows of a fact sheet, from what the monitor recorded in MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmops.factsheet.contents import Action, Alarm, Monitoring, Period, Window
from llmops.factsheet.times import iso, to_the_second
from llmops.recording.facts import RunFacts, WindowFacts, monitor_actions, monitored_windows, window_verdict
from llmops.registry.store import Store

MOST_ALARMED_WINDOWS = 30
"""The newest whose alarms are told; each costs reading a file."""
MOST_WINDOWS = 24
"""The newest that are told one by one."""


def monitoring_of(store: Store, name: str, ref: str, periods: Sequence[Period]) -> Monitoring | None:
    """What the monitor found in windows in which `ref` answered; None where there is none, and no action.

    A window counts when its run names the version among its slices, or, where it names none (too few rows), when the
    version was champion at its end. Raises StoreUnavailable, Corrupted.
    """
    windows = [window for window in monitored_windows(store, name) if _concerns(window, ref, periods)]
    actions = tuple(_action(run, action) for run, action in monitor_actions(store, name, ref))
    if not windows and not actions:
        return None
    alarmed = [window for window in windows if window.alarms]
    told = [
        alarm for window in alarmed[:MOST_ALARMED_WINDOWS] for alarm in _alarms(window, ref, _found(store, window))
    ]  # fmt: skip
    budgets = [window.metrics.get("expected_false_alarms_per_month") for window in windows]
    return Monitoring(
        windows=len(windows),
        rows=int(sum(window.metrics.get("rows", 0) for window in windows)),
        since=min((to_the_second(window.since) or "" for window in windows), default="") or None,
        until=max((to_the_second(window.until) or "" for window in windows), default="") or None,
        alarmed=len(alarmed),
        too_few=sum(window.state == "too-few-rows" for window in windows),
        expected_false_alarms=max((budget for budget in budgets if budget is not None), default=None),
        alarms=tuple(told),
        actions=actions,
        latest=tuple(_window(window) for window in windows[:MOST_WINDOWS]),
        unread=len(alarmed[MOST_ALARMED_WINDOWS:]),
    )


def _concerns(window: WindowFacts, ref: str, periods: Sequence[Period]) -> bool:
    if window.releases:
        return ref in window.releases
    end = to_the_second(window.until) or ""
    return any((period.since or "") <= end <= (period.until or "9") for period in periods)


def _window(window: WindowFacts) -> Window:
    rows = window.metrics.get("rows")
    return Window(
        to_the_second(window.since),
        to_the_second(window.until),
        None if rows is None else int(rows),
        window.state,
        window.alarms,
        window.metrics.get("error"),
        window.metrics.get("estimated_error"),
    )


def _found(store: Store, window: WindowFacts) -> Sequence[Mapping[str, Any]]:
    verdict = window_verdict(store, window.run_id)
    alarms: Sequence[Mapping[str, Any]] = verdict.get("alarms", ())
    return alarms


def _alarms(window: WindowFacts, ref: str, found: Sequence[Mapping[str, Any]]) -> list[Alarm]:
    """Alarms of the version and of all traffic; not those of other versions alone."""
    told = []
    for alarm in found:
        slices = alarm.get("slices") or [{"release": release} for release in window.releases]
        named = {label["release"] for label in slices if "release" in label}
        if named and ref not in named and len(named) == len(slices):
            continue
        told.append(
            Alarm(
                since=to_the_second(window.since) or "",
                until=to_the_second(window.until) or "",
                what=str(alarm["what"]),
                why=str(alarm["why"]),
                severity=alarm.get("severity"),
                of_version=ref in named and (bool(alarm.get("slices")) or len(named) == 1),
                run_id=window.run_id,
            )
        )
    return told


def _action(run: RunFacts, action: Mapping[str, Any]) -> Action:
    return Action(
        at=iso(run.at),
        what=str(action["action"]),
        why=str(action["why"]),
        outcome=", ".join(f"{name} {value}" for name, value in action.get("outcome", {}).items()),
        dry_run=bool(action["dry_run"]),
        run_id=run.run_id,
    )
