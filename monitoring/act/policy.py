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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from llmops.errors import UsageError
from monitoring.tables import Duration, Table, Texts, read_dataclass

if TYPE_CHECKING:
    from monitoring.act.alarm_book import Entry

Wish = Literal["observe", "stop-canary", "rollback", "re-evaluate", "retrain"]
Action = Literal["stop-canary", "rollback", "re-evaluate", "retrain"]

WISHES: tuple[Wish, ...] = get_args(Wish)


@dataclass(frozen=True, slots=True)
class Policy:
    """What is done for one app. retrain_timeout: seconds. The module's text says what each field means."""

    action: Wish = "observe"
    dry_run: bool = True
    only_for: Texts = ()
    suite: str = ""
    retrain_command: Texts = ()
    retrain_timeout: Duration = 4 * 3600.0

    def __post_init__(self) -> None:
        if self.action == "retrain" and not self.retrain_command:
            raise UsageError("retrain_command: the action retrain needs it: a list, the program first")


def read_policies(values: Mapping[str, Any], file: Path | str) -> dict[str, Policy]:
    """Reads `[policy]` as TOML gives it: a table for each app.

    Raises:
        BadFile: an unknown key (names the nearest one) or a wrong value; names file and key.
    """
    whole = Table(values, file, "policy")
    return {app: read_dataclass(Policy, whole.mapping(app), file, f"policy.{app}") for app in values}


@dataclass(frozen=True, slots=True)
class Situation:
    """Who serves an app, as the registry says.

    champion_since: when the champion became it; None where nobody knows.
    canary: the challenger's share of the traffic.
    previous: what a rollback would return to.
    no_return: why there is nothing to return to, else empty.
    """

    champion: str | None = None
    challenger: str | None = None
    previous: str | None = None
    champion_since: datetime | None = None
    canary: float = 0.0
    no_return: str = ""

    def to_json(self) -> dict[str, Any]:
        """All fields, the time as ISO text."""
        since = self.champion_since
        return {**asdict(self), "champion_since": since.isoformat() if since else None}


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about an app's alarms.

    action: None for nothing.
    why: one sentence, also where nothing is done.
    release: the one it is done to.
    alarms: those that led to it, oldest first; empty where nothing is done.
    declined: alarms that the policy is for, and for which it still does nothing.
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
    every = [alarm for alarm in sorted(alarms, key=lambda alarm: alarm.id) if alarm.state == "open"]
    wanted = policy.only_for
    chosen = [alarm for alarm in every if not wanted or alarm.what in wanted or alarm.kind in wanted]
    if not chosen:
        others = f" that {app}'s policy is for" if every and wanted else ""
        return Decision(app, None, f"no open alarm{others}")
    if policy.action in ("re-evaluate", "retrain"):
        decision = _look_into(app, chosen, policy, situation)
    else:
        decision = _stop_canary(app, chosen, every, policy, situation)
        if decision.action is None and policy.action == "rollback":
            back = _roll_back(app, chosen, every, policy, situation)
            of_challenger = any(alarm.release == situation.challenger for alarm in chosen if alarm.release is not None)
            decision = decision if back.action is None and of_challenger else back
    return decision if decision.action is not None else replace(decision, declined=tuple(chosen))


def _stop_canary(
    app: str, chosen: Sequence[Entry], every: Sequence[Entry], policy: Policy, situation: Situation
) -> Decision:
    challenger = situation.challenger
    if challenger is None:
        return Decision(app, None, f"{app} has no challenger: there is no canary to stop")
    concerned = [alarm for alarm in chosen if alarm.release == challenger]
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
    if champion is None:
        return Decision(app, None, f"{app} has no champion")
    alarms = [alarm for alarm in chosen if alarm.release == champion]
    if not alarms:
        return Decision(app, None, f"no alarm is known to concern the champion {champion}")
    conditions: tuple[tuple[Callable[[Entry], bool], str], ...] = (
        (lambda alarm: alarm.side != "input", "the questions changed, which no rollback cures"),
        (lambda alarm: not _is_older(alarm, situation), f"last seen before {champion} became the champion"),
    )
    for counts, why_not in conditions:
        counting = [alarm for alarm in alarms if counts(alarm)]
        if not counting:
            return Decision(app, None, f"{_names(alarms)}: {why_not}")
        alarms = counting
    no_cure = [alarm.cure.why for alarm in alarms if alarm.cure is not None and not alarm.cure.helps]
    if len(no_cure) == len(alarms):
        return Decision(app, None, f"{_names(alarms)}: {no_cure[0]}")
    alarms = [alarm for alarm in alarms if alarm.cure is None or alarm.cure.helps]
    # Where nobody judged, changed questions are reason enough to doubt.
    asked = [alarm for alarm in every if alarm.side == "input" and alarm.release in (champion, None)]
    judged = [alarm for alarm in alarms if alarm.cure is not None or alarm.kind == "canary"]
    if asked and not judged:
        return Decision(app, None, f"{_names(asked)}: the questions changed too, so that a rollback may be no cure")
    if situation.previous is None:
        return Decision(app, None, situation.no_return or f"{app} has no previous release to return to")
    reasons = tuple(judged or alarms)
    why = f"{_names(reasons)} in the answers of the champion {champion}; back to {situation.previous}"
    return Decision(app, "rollback", why, champion, reasons, policy.dry_run)


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
