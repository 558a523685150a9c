"""What was done to a version: gates and moves, by the audit log and, before it, by the registry; and what the monitor
found of it."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from llmops.audit import AuditEntry, Verification, verify
from llmops.errors import Corrupted, StoreUnavailable
from llmops.factsheet.contents import (
    Action,
    History,
    MetricDifference,
    Monitoring,
    Period,
    RecordedAlarm,
    RecordedGate,
    RecordedMove,
    RecordedWindow,
    Registered,
    iso,
    to_the_second,
)
from llmops.hashing import canonical_json, content_hash
from llmops.recording.cell import json_file, runs_where
from llmops.recording.monitoring import ACTION_FILE, ACTION_KEY_TAG, VERDICT_FILE, WINDOW_TAG, monitoring_experiment
from llmops.registry import Registry
from llmops.registry.promotions import GATE_PASSED, Versioned
from llmops.registry.store import Store, translated
from llmops.versions import CHALLENGER, CHAMPION

Verdict = Mapping[str, Any]
Gates = Mapping[str, Verdict]
"""Verdicts by suite, as the registry keeps them on a version."""

_FULL, _FULL_TEXT = 20, 4200
"""Entries, and characters, from which on the registry may have dropped older ones."""
_FOUND = "found"
_CHAMPION_MOVES = ("promote", "rollback", _FOUND)
MOST_ALARMED_WINDOWS = 30
"""The newest whose alarms are told; each costs reading a file."""
MOST_WINDOWS = 24
"""The newest that are told one by one."""


@dataclass(frozen=True, slots=True)
class AuditTrail:
    """The audit log of one app or model. entries: oldest first. unreadable: why there are none, else empty."""

    entries: Sequence[AuditEntry] = ()
    verification: Verification | None = None
    unreadable: str = ""

    @classmethod
    def of(cls, registry: Registry, name: str) -> Self:
        """Reads and verifies the log. Where it cannot be read the sheet is made without it, and says why."""
        try:
            return cls(registry.audit.entries(name), verify(registry.audit, registry.standings))
        except (StoreUnavailable, Corrupted) as error:
            return cls(unreadable=str(error))


def registered(store: Store, trail: AuditTrail, what: str, ref: str) -> Registered:
    """When a version was registered and by whom, where the audit log or MLflow knows. what: `release`, `prompt` …
    Raises UnknownVersion, StoreUnavailable."""
    name, _, version = ref.partition("@")
    with translated(ref):
        read = store.client.get_prompt_version if what == "prompt" else store.client.get_model_version
        item = read(name, version)
    by = [entry.actor for entry in trail.entries if (entry.action, entry.subject) == ("register", ref)]
    actor = by[0] if by else item.user_id or None
    return Registered(what, ref, iso((item.creation_timestamp or 0) / 1000), actor)


def gates_of(gates: Gates, filed: Sequence[Verdict], trail: AuditTrail, ref: str) -> tuple[RecordedGate, ...]:
    """The verdicts on the version, which promotions read, with their comparisons; then others on its runs.

    filed: verdicts that were kept with the runs.
    """

    def identity(gate: Verdict) -> tuple[Any, ...]:
        """The runs that a verdict compares; where it names none, against whom it was given."""
        return gate.get("suite"), gate["verdict"], sorted(gate.get("runs", {}).items()) or gate.get("against")

    current, known = [], []
    for suite, gate in gates.items():
        named = {"suite": suite, **gate}
        known.append(identity(named))
        # None was filed with the verdict where another one took its place.
        file = next((verdict for verdict in filed if identity(verdict) == known[-1]), named)
        logged = [
            entry.details.get("sha256")
            for entry in trail.entries
            if (entry.action, entry.subject, entry.details.get("suite")) == ("gate", ref, suite)
        ]
        attested = logged[-1] == content_hash(dict(gate)) if logged else None
        current.append(dataclasses.replace(_gate(named, file), attested=attested))
    others = [_gate(verdict, verdict, current=False) for verdict in filed if identity(verdict) not in known]
    return (*sorted(current, key=lambda gate: gate.at or "", reverse=True), *others)


def _gate(gate: Verdict, file: Verdict, *, current: bool = True) -> RecordedGate:
    """A verdict with what was written beside it."""
    comparison: Mapping[str, Any] = file.get("comparison") or {"metrics": {}, "slices": {}}
    checks, other = file.get("checks") or (), file.get("compared_with")
    parts = [(None, comparison["metrics"]), *comparison["slices"].items()]
    return RecordedGate(
        suite=str(gate.get("suite", "")),
        verdict=gate["verdict"],
        against=gate.get("against"),
        reasons=tuple(gate.get("reasons", ())),
        at=to_the_second(gate.get("at")),
        run_id=gate.get("runs", {}).get("b"),
        rules=gate.get("rules") or file.get("rules") or {},
        differences=tuple(
            MetricDifference(
                metric=name,
                a=metric["a"],
                b=metric["b"],
                difference=metric["difference"],
                ci95=tuple(metric["ci95"]) if metric["ci95"] else None,
                p_value=metric["p_value"],
                rows=metric["n"],
                slice=part,
                higher_is_better=metric.get("higher_is_better"),
            )
            for part, metrics in parts
            for name, metric in metrics.items()
        ),
        untrusted=tuple(check["metric"] for check in checks if check["kind"] == "judge"),
        power=comparison.get("power", {}),
        current=current,
        compared_with=None if other == gate.get("against") else other,
        checks=tuple(str(check["name"]) for check in checks if "name" in check),
        loosened=tuple(
            f"{each['rule']}, by {each['by']}, {to_the_second(each['at']) or 'with this gate'}"
            for each in gate.get("loosened", ())
        ),
    )


def history_of(trail: AuditTrail, kept: Sequence[Mapping[str, Any]], version: Versioned) -> History:
    """kept: the registry's own history of the app or model, oldest first."""
    complete = len(kept) < _FULL and len(canonical_json(list(kept))) < _FULL_TEXT  # nothing was dropped
    source = "audit log" if trail.entries else "registry"
    began = (to_the_second(trail.entries[0].at) or "") if trail.entries else None
    told: list[tuple[RecordedMove, Iterable[str | None]]] = []  # each with the versions that it is about
    for each in kept:
        at, what, old, new, why = to_the_second(each["at"]), each["what"], each["from"], each["to"], each["why"]
        if began is None or (at or "") < began:
            forced = what == "promote" and not why.startswith(GATE_PASSED)
            told.append((RecordedMove(at, what, old, new, why, forced=forced), (old, new)))
    if trail.entries:
        source += ", and before it from the registry" if told else ""
        complete = complete or trail.entries[0].action != "opening"
    done = {entry.details.get("of") for entry in trail.entries if entry.details.get("phase") == "done"}
    told += [
        _logged(entry, finished=entry.seq in done)
        for entry in trail.entries
        if entry.action in ("opening", "found", "register", "gate") or entry.details.get("phase") == "intent"
    ]
    note, problems = _trust(trail, version.name)
    return History(
        moves=tuple(move for move, about in told if version.ref in about),
        periods=periods_of(version.ref, (move for move, _ in told), is_champion=CHAMPION in version.aliases),
        source=source,
        complete=complete,
        note=note,
        whole=not problems if trail.entries else None,
        problems=problems,
    )


def _logged(entry: AuditEntry, *, finished: bool) -> tuple[RecordedMove, Iterable[str | None]]:
    """An entry as a move, and the versions that it tells of. finished: of an intent, whether it was carried out."""
    at, details = to_the_second(entry.at), entry.details
    if entry.action in ("opening", "found"):
        standing: Mapping[str, str] = details.get("standing", {})
        shown = ", ".join(f"{alias} {value}" for alias, value in sorted(standing.items())) or "nothing"
        why = f"the log begins with {shown}" if entry.action == "opening" else f"moved around the log: {shown}"
        about = (*standing.values(), *details.get("expected", {}).values())
        return RecordedMove(at, _FOUND, None, standing.get(CHAMPION), why, entry.actor), about
    if entry.action in ("register", "gate"):
        why = f"{details.get('suite')}: {details.get('verdict')}" if entry.action == "gate" else ""
        return RecordedMove(at, entry.action, details.get("against"), entry.subject, why, entry.actor), (entry.subject,)
    what = str(details["what"]) if finished else f"{details['what']}, begun and not finished"
    old, new, why = details["from"], details["to"], str(details["why"])
    move = RecordedMove(at, what, old, new, why, entry.actor, forced=entry.action == "force-promote")
    if entry.action != "traffic":
        return move, (old, new)
    # A change of traffic is about those between whom it was shared.
    return move, [details.get("before", {}).get(alias) for alias in (CHAMPION, CHALLENGER)]


def _trust(trail: AuditTrail, name: str) -> tuple[str, tuple[str, ...]]:
    """How far the log can be trusted: a note, and what was found to be wrong."""
    if trail.unreadable:
        problem = "The audit log cannot be read, so what was done is as the registry remembers it: "
        return f"The audit log cannot be read: {trail.unreadable}", (problem + trail.unreadable,)
    note, verification = "The audit log has no entry of it.", trail.verification
    if verification is None:
        return note, ()
    if (broken := verification.broken) is not None:
        if trail.entries:
            note = f"The audit log is broken at entry {broken.seq}, which {broken.why}"
        return note, (f"The audit log was tampered with or damaged at entry {broken.seq}: it {broken.why}.",)
    if trail.entries:
        note = f"The audit log is whole: {verification.entries} entries up to {verification.head}."
    return note, tuple(
        f"{each.what} stands at {each.found or 'nothing'}, and by the audit log at "
        f"{' or '.join(value or 'nothing' for value in each.logged)}: it was moved around the log."
        for each in verification.differences
        if each.name == name
    )


def periods_of(ref: str, moves: Iterable[RecordedMove], *, is_champion: bool) -> tuple[Period, ...]:
    """Its times as champion, oldest first. What was found without a record begins and ends a time nobody knows when.

    moves: of the app, oldest first.
    is_champion: what the alias says, which may have been moved without a record.
    """
    periods: list[Period] = []
    for move in moves:
        if move.what not in _CHAMPION_MOVES:
            continue
        unrecorded = move.what == _FOUND
        lasts = bool(periods) and periods[-1].lasts
        if not periods and move.old == ref != move.new:
            periods.append(Period(None, lasts=True))  # its beginning fell out of the record
        if periods and periods[-1].lasts and move.new != ref:
            ended = {} if unrecorded else {"until": move.at, "ended": move.what, "then": move.new}
            periods[-1] = dataclasses.replace(periods[-1], lasts=False, **ended)  # type: ignore[arg-type]
        if not lasts and move.new == ref:
            begun = Period(move.at, None, True, move.what, why=move.why, forced=move.forced, after=move.old)
            periods.append(Period(None, lasts=True) if unrecorded else begun)
    if periods and periods[-1].lasts and not is_champion:
        periods[-1] = dataclasses.replace(periods[-1], lasts=False)
    if is_champion and not (periods and periods[-1].lasts):
        periods.append(Period(None, lasts=True))
    return tuple(periods)


def monitoring_of(store: Store, name: str, ref: str, periods: Sequence[Period]) -> Monitoring | None:
    """What the monitor found in windows in which `ref` answered; None where there is none, and no action.

    A window counts when its run names the version among its slices, or, where it names none (too few rows), when the
    version was champion at its end. Raises StoreUnavailable, Corrupted.
    """

    def was_champion(end: str | None) -> bool:
        return end is not None and any((each.since or "") <= end <= (each.until or "9") for each in periods)

    experiment = monitoring_experiment(name)
    with translated(f"monitoring of {name}"):
        monitored = [_window(run) for run in runs_where(store, experiment, f"tags.`{WINDOW_TAG}` != ''")]
        condition = f"tags.`{ACTION_KEY_TAG}` != '' and tags.`llmops.release` = '{ref}'"
        acted = [
            (run.info, json_file(store, run.info.run_id, ACTION_FILE))
            for run in runs_where(store, experiment, condition)
        ]
        told = [
            (window, run, releases)
            for window, run, releases in monitored
            if ref in releases or (not releases and was_champion(window.until))
        ]
        if not told and not acted:
            return None
        newest = json_file(store, told[0][1].info.run_id, VERDICT_FILE) if told else {}
        alarmed = [each for each in told if each[0].alarms]
        alarms = [alarm for each in alarmed[:MOST_ALARMED_WINDOWS] for alarm in _alarms(store, *each, ref)]
    windows = [window for window, _, _ in told]
    budgets = [run.data.metrics.get("expected_false_alarms_per_month") for _, run, _ in told]
    expected, over = max((budget for budget in budgets if budget is not None), default=None), "a month"
    if "expected_false_alarms" in newest:  # a tabular model's verdict says for how many windows its number is
        count = newest.get("windows_in_budget")
        expected, over = newest["expected_false_alarms"], f"{count} windows" if count else "the windows of the budget"
    names = [window.name for window in windows if window.name is not None]
    return Monitoring(
        windows=len(windows),
        rows=sum(window.rows or 0 for window in windows),
        since=min((window.since for window in windows if window.since), default=None),
        until=max((window.until for window in windows if window.until), default=None),
        alarmed=len(alarmed),
        too_few=sum(window.state == "too-few-rows" for window in windows),
        expected_false_alarms=expected,
        alarms=tuple(alarms),
        actions=tuple(
            Action(
                at=iso(info.start_time / 1000),
                what=str(action["action"]),
                why=str(action["why"]),
                outcome=", ".join(f"{name} {value}" for name, value in action.get("outcome", {}).items()),
                dry_run=bool(action["dry_run"]),
                run_id=info.run_id,
            )
            for info, action in acted
        ),
        latest=tuple(windows[:MOST_WINDOWS]),
        unread=len(alarmed[MOST_ALARMED_WINDOWS:]),
        expected_over=over,
        first=names[-1] if names else None,
        last=names[0] if names else None,
        error_metric=newest.get("metric"),
    )


def _window(run: Any) -> tuple[RecordedWindow, Any, list[str]]:
    """A monitored window, its run of MLflow's, and the releases named in it."""
    tags, metrics = run.data.tags, run.data.metrics
    since, until = tags.get("llmops.since") or None, tags.get("llmops.until")
    is_time = until not in ("", None, "None")  # the last is what the tag holds where the verdict had null
    window = RecordedWindow(
        since=to_the_second(since) if is_time else None,
        until=to_the_second(until) if is_time else None,
        rows=int(metrics["rows"]) if "rows" in metrics else None,
        state=tags.get("llmops.state", ""),
        alarms=int(tags.get("llmops.alarms", "0")),
        error=metrics.get("error"),
        estimated_error=metrics.get("estimated_error"),
        name=None if is_time else since,
    )
    return window, run, [name for name in tags.get("llmops.release", "").split(", ") if name]


def _alarms(
    store: Store, window: RecordedWindow, run: Any, releases: Sequence[str], ref: str
) -> Iterator[RecordedAlarm]:
    """Alarms of the version and of all traffic; not those of other versions alone."""
    for alarm in json_file(store, run.info.run_id, VERDICT_FILE).get("alarms", ()):
        slices = alarm.get("slices") or [{"release": release} for release in releases]
        named = {label["release"] for label in slices if "release" in label}
        if named and ref not in named and len(named) == len(slices):
            continue
        yield RecordedAlarm(
            since=window.since or "",
            until=window.until or "",
            what=str(alarm["what"]),
            why=str(alarm["why"]),
            severity=alarm.get("severity"),
            of_version=ref in named and (bool(alarm.get("slices")) or len(named) == 1),
            run_id=str(run.info.run_id),
            window=window.name,
        )
