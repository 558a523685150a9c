"""What is done about alarms by itself: an app's policy, and the decision it comes to. Pure: no clock, no store.

    [policy.assistant]
    action = "rollback"          # observe (default), stop-canary, rollback, re-evaluate, retrain
    dry_run = false              # true by default: says what it would do, and does nothing
    only_for = ["output.refusal", "limit"]   # descriptors or kinds of alarm; empty for all
    suite = "qa"                 # for re-evaluate; default: of the release's last gate
    retrain_command = ["./retrain.sh", "{evidence}"]

`rollback` also stops a canary: that is the smaller step, and the only one where the challenger's arm alarms. Drift of
the input never leads to a rollback: the old release would get the same new questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, cast

from llmops.errors import UsageError
from monitoring.act.alarm_book import Entry
from monitoring.act.alerts.settings import duration
from monitoring.tables import Table

Wish = Literal["observe", "stop-canary", "rollback", "re-evaluate", "retrain"]
Action = Literal["stop-canary", "rollback", "re-evaluate", "retrain"]

WISHES: tuple[Wish, ...] = ("observe", "stop-canary", "rollback", "re-evaluate", "retrain")


@dataclass(frozen=True, slots=True)
class Policy:
    """What is done for one app. retrain_timeout: seconds. The module's text says what each field means."""

    action: Wish = "observe"
    dry_run: bool = True
    only_for: tuple[str, ...] = ()
    suite: str = ""
    retrain_command: tuple[str, ...] = ()
    retrain_timeout: float = 4 * 3600.0

    def __post_init__(self) -> None:
        if self.action not in WISHES:
            raise UsageError(f"action: must be one of {', '.join(WISHES)}, not {self.action!r}")
        if self.action == "retrain" and not self.retrain_command:
            raise UsageError("retrain_command: the action retrain needs it: a list, the program first")

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._values().items()}

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def read_policies(values: Mapping[str, Any], file: Path | str) -> dict[str, Policy]:
    """Reads `[policy]` as TOML gives it: a table for each app.

    Raises:
        BadFile: an unknown key (names the nearest one) or a wrong value; names file and key.
    """
    policies = {}
    whole = Table(values, file, "policy")
    for app in values:
        with Table(whole.mapping(app), file, f"policy.{app}") as table:
            policies[app] = _read(table)
    return policies


def _read(table: Table) -> Policy:
    try:
        return Policy(
            action=cast(Wish, table.choice("action", WISHES, "observe")),
            dry_run=table.switch("dry_run", True),
            only_for=table.texts("only_for", ()),
            suite=table.text("suite", "", empty=True),
            retrain_command=table.texts("retrain_command", ()),
            retrain_timeout=duration(table, "retrain_timeout", "4h"),
        )
    except UsageError as error:
        name, _, problem = str(error).partition(": ")
        raise table.wrong(name, problem) from error


@dataclass(frozen=True, slots=True)
class Situation:
    """Who serves an app, as the registry says.

    champion_since: when the champion became it; None where nobody knows. canary: the challenger's share of the traffic.
    previous: what a rollback would return to. no_return: why there is nothing to return to, else empty.
    """

    champion: str | None = None
    challenger: str | None = None
    previous: str | None = None
    champion_since: datetime | None = None
    canary: float = 0.0
    no_return: str = ""

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "champion_since": self.champion_since.isoformat() if self.champion_since else None}


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about an app's alarms. action: None for nothing. why: one sentence, also where nothing is done.

    release: the one it is done to. alarms: those that led to it, oldest first; empty where nothing is done. declined:
    alarms that the policy is for, and for which it still does nothing.
    """

    app: str
    action: Action | None
    why: str
    release: str = ""
    alarms: tuple[Entry, ...] = ()
    dry_run: bool = True
    declined: tuple[Entry, ...] = ()

    @property
    def key(self) -> str:
        """Names the action: the same decision about the same lasting alarm is one action, whoever takes it."""
        first = self.alarms[0].id if self.alarms else 0
        mode = "/dry-run" if self.dry_run else ""
        return f"{self.app}/{self.action}/{self.release}/{first}{mode}"


def decide(app: str, alarms: Sequence[Entry], policy: Policy, situation: Situation) -> Decision:
    """What the policy comes to for the open alarms of one app."""
    if policy.action == "observe":
        return Decision(app, None, f"the policy of {app} is to observe")
    open_alarms = [alarm for alarm in sorted(alarms, key=lambda alarm: alarm.id) if alarm.state == "open"]
    chosen = [alarm for alarm in open_alarms if _is_chosen(alarm, policy)]
    if not chosen:
        others = f" that {app}'s policy is for" if open_alarms and policy.only_for else ""
        return Decision(app, None, f"no open alarm{others}")
    decision = _decided(app, chosen, open_alarms, policy, situation)
    return decision if decision.action is not None else replace(decision, declined=tuple(chosen))


def _decided(
    app: str, chosen: Sequence[Entry], every: Sequence[Entry], policy: Policy, situation: Situation
) -> Decision:
    if policy.action in ("re-evaluate", "retrain"):
        return _look_into(app, chosen, policy, situation)
    stop = _stop_canary(app, chosen, every, policy, situation)
    if stop.action is not None or policy.action == "stop-canary":
        return stop
    back = _roll_back(app, chosen, every, policy, situation)
    of_challenger = situation.challenger is not None and any(a.release == situation.challenger for a in chosen)
    return stop if back.action is None and of_challenger else back


def _is_chosen(alarm: Entry, policy: Policy) -> bool:
    return not policy.only_for or alarm.what in policy.only_for or alarm.kind in policy.only_for


def _stop_canary(
    app: str, chosen: Sequence[Entry], every: Sequence[Entry], policy: Policy, situation: Situation
) -> Decision:
    challenger = situation.challenger
    concerned = [alarm for alarm in chosen if challenger is not None and alarm.release == challenger]
    if challenger is None:
        return Decision(app, None, f"{app} has no challenger: there is no canary to stop")
    if not concerned:
        return Decision(app, None, f"no alarm concerns the challenger {challenger}")
    if not situation.canary:
        return Decision(app, None, f"{challenger} gets no canary traffic: there is nothing to stop")
    # Both arms get the same questions: what shows in both, or in the questions, is not the challenger's doing.
    shared = {alarm.what for alarm in every if alarm.release == situation.champion and alarm.kind != "canary"}
    own = [a for a in concerned if a.side != "input" and (a.kind == "canary" or a.what not in shared)]
    if not own:
        names = ", ".join(sorted({alarm.what for alarm in concerned}))
        return Decision(app, None, f"{names} changed in the champion's traffic as well: the challenger is not why")
    why = f"{_names(own)} in the answers of the challenger {challenger}, and not in the champion's"
    return Decision(app, "stop-canary", why, challenger, tuple(own), policy.dry_run)


def _roll_back(
    app: str, chosen: Sequence[Entry], every: Sequence[Entry], policy: Policy, situation: Situation
) -> Decision:
    champion = situation.champion
    concerned = [alarm for alarm in chosen if champion is not None and alarm.release == champion]
    if champion is None:
        return Decision(app, None, f"{app} has no champion")
    if not concerned:
        return Decision(app, None, f"no alarm is known to concern the champion {champion}")
    own = [alarm for alarm in concerned if alarm.side != "input"]
    if not own:
        return Decision(app, None, f"{_names(concerned)}: the questions changed, which no rollback cures")
    present = [alarm for alarm in own if not _is_older(alarm, situation)]
    if not present:
        return Decision(app, None, f"{_names(own)}: last seen before {champion} became the champion")
    no_cure = [alarm.cure.why for alarm in present if alarm.cure is not None and not alarm.cure.helps]
    curable = [alarm for alarm in present if alarm.cure is None or alarm.cure.helps]
    if not curable:
        return Decision(app, None, f"{_names(present)}: {no_cure[0]}")
    # Where nobody judged, changed questions are reason enough to doubt.
    asked = [alarm for alarm in every if alarm.side == "input" and alarm.release in (champion, None)]
    judged = [alarm for alarm in curable if alarm.cure is not None or alarm.kind == "canary"]
    if asked and not judged:
        return Decision(app, None, f"{_names(asked)}: the questions changed too, so that a rollback may be no cure")
    if situation.previous is None:
        return Decision(app, None, situation.no_return or f"{app} has no previous release to return to")
    alarms = tuple(judged or curable)
    why = f"{_names(alarms)} in the answers of the champion {champion}; back to {situation.previous}"
    return Decision(app, "rollback", why, champion, alarms, policy.dry_run)


def _look_into(app: str, chosen: Sequence[Entry], policy: Policy, situation: Situation) -> Decision:
    champion = situation.champion
    if champion is None:
        return Decision(app, None, f"{app} has no champion")
    concerned = [alarm for alarm in chosen if alarm.release in (champion, None) and not _is_older(alarm, situation)]
    if not concerned:
        return Decision(app, None, f"no alarm concerns the champion {champion}")
    why = f"{_names(concerned)} in the traffic of the champion {champion}"
    return Decision(app, cast(Action, policy.action), why, champion, tuple(concerned), policy.dry_run)


def _is_older(alarm: Entry, situation: Situation) -> bool:
    return situation.champion_since is not None and alarm.last_at <= situation.champion_since


def _names(alarms: Sequence[Entry]) -> str:
    return ", ".join(dict.fromkeys(f"{alarm.what} ({alarm.kind})" for alarm in alarms))
