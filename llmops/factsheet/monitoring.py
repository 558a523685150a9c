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
    newest = window_verdict(store, windows[0].run_id) if windows else {}
    names = [called for window in windows if (called := _name(window)) is not None]
    times = [_times(window) for window in windows]
    expected, over = _budget(windows, newest)
    return Monitoring(
        windows=len(windows),
        rows=int(sum(window.metrics.get("rows", 0) for window in windows)),
        since=min((begin for begin, _ in times if begin), default=None),
        until=max((end for _, end in times if end), default=None),
        alarmed=len(alarmed),
        too_few=sum(window.state == "too-few-rows" for window in windows),
        expected_false_alarms=expected,
        alarms=tuple(told),
        actions=actions,
        latest=tuple(_window(window) for window in windows[:MOST_WINDOWS]),
        unread=len(alarmed[MOST_ALARMED_WINDOWS:]),
        expected_over=over,
        first=names[-1] if names else None,
        last=names[0] if names else None,
        error_metric=newest.get("metric"),
    )


def _budget(windows: Sequence[WindowFacts], newest: Mapping[str, Any]) -> tuple[float | None, str]:
    """The false alarms to expect, and over what. newest: the verdict of the newest window; a tabular model's says for
    how many windows its number is."""
    if "expected_false_alarms" in newest:
        count = newest.get("windows_in_budget")
        return newest["expected_false_alarms"], f"{count} windows" if count else "the windows of the budget"
    budgets = [window.metrics.get("expected_false_alarms_per_month") for window in windows]
    return max((budget for budget in budgets if budget is not None), default=None), "a month"


def _name(window: WindowFacts) -> str | None:
    """Of a window that is no stretch of time: it has no end."""
    return None if _has_end(window) else window.since or None


def _times(window: WindowFacts) -> tuple[str | None, str | None]:
    """Since and until; none of a window that has only a name."""
    return (to_the_second(window.since), to_the_second(window.until)) if _has_end(window) else (None, None)


def _has_end(window: WindowFacts) -> bool:
    return window.until not in ("", "None")  # what the run's tag holds where the verdict had null


def _concerns(window: WindowFacts, ref: str, periods: Sequence[Period]) -> bool:
    if window.releases:
        return ref in window.releases
    end = _times(window)[1]
    return end is not None and any((period.since or "") <= end <= (period.until or "9") for period in periods)


def _window(window: WindowFacts) -> Window:
    rows = window.metrics.get("rows")
    return Window(
        *_times(window),
        None if rows is None else int(rows),
        window.state,
        window.alarms,
        window.metrics.get("error"),
        window.metrics.get("estimated_error"),
        _name(window),
    )


def _found(store: Store, window: WindowFacts) -> Sequence[Mapping[str, Any]]:
    verdict = window_verdict(store, window.run_id)
    alarms: Sequence[Mapping[str, Any]] = verdict.get("alarms", ())
    return alarms


def _alarms(window: WindowFacts, ref: str, found: Sequence[Mapping[str, Any]]) -> list[Alarm]:
    """Alarms of the version and of all traffic; not those of other versions alone."""
    told = []
    since, until = _times(window)
    for alarm in found:
        slices = alarm.get("slices") or [{"release": release} for release in window.releases]
        named = {label["release"] for label in slices if "release" in label}
        if named and ref not in named and len(named) == len(slices):
            continue
        told.append(
            Alarm(
                since=since or "",
                until=until or "",
                what=str(alarm["what"]),
                why=str(alarm["why"]),
                severity=alarm.get("severity"),
                of_version=ref in named and (bool(alarm.get("slices")) or len(named) == 1),
                run_id=window.run_id,
                window=_name(window),
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
