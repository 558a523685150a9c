"""What is done about alarms by itself: an app's policy, and the decision it comes to. Pure: no clock, no store.

docs/monitoring.md describes the actions. `rollback` also stops a canary: that is the smaller step, and the only one
where the challenger's arm alarms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from llmops.errors import UsageError
from monitoring.tables import ConfigTable, Duration, Texts, read_dataclass

if TYPE_CHECKING:
    from monitoring.act.alarm_book import BookedAlarm

Wish = Literal["observe", "stop-canary", "rollback", "re-evaluate", "retrain"]
Action = Literal["stop-canary", "rollback", "re-evaluate", "retrain"]

WISHES: tuple[Wish, ...] = get_args(Wish)


@dataclass(frozen=True, slots=True)
class Policy:
    """What is done for one app.

    only_for: descriptors or kinds of alarm; empty for all. suite: for `re-evaluate`, by default that of the release's
    last gate. retrain_command, recipe: what `retrain` runs, a command or the pipeline `improve`. retrain_timeout:
    seconds, of an improvement too.
    """

    action: Wish = "observe"
    dry_run: bool = True
    only_for: Texts = ()
    suite: str = ""
    retrain_command: Texts = ()
    retrain_timeout: Duration = 4 * 3600.0
    recipe: str = ""

    def __post_init__(self) -> None:
        if self.action == "retrain" and not (self.retrain_command or self.recipe):
            raise UsageError("retrain_command: the action retrain needs it (a list, the program first), or a recipe")
        if self.retrain_command and self.recipe:
            raise UsageError("recipe: takes the place of retrain_command; give one of them")


def read_policies(values: Mapping[str, Any], file: Path | str) -> dict[str, Policy]:
    """Reads `[policy]` as TOML gives it: a table for each app.

    Raises BadFile: an unknown key (names the nearest one) or a wrong value; names file and key.
    """
    whole = ConfigTable(values, file, "policy")
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
    alarms: tuple[BookedAlarm, ...] = ()
    dry_run: bool = True
    declined: tuple[BookedAlarm, ...] = ()

    @property
    def key(self) -> str:
        """Names the action: the same decision about the same lasting alarm is one action, whoever takes it."""
        first = self.alarms[0].id if self.alarms else 0
        mode = "/dry-run" if self.dry_run else ""
        return f"{self.app}/{self.action}/{self.release}/{first}{mode}"


def decide(app: str, alarms: Sequence[BookedAlarm], policy: Policy, situation: Situation) -> Decision:
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
        step = _look_into(app, chosen, cast(Action, policy.action), situation)
    else:
        step = _stop_canary(app, chosen, every, situation)
        if isinstance(step, str) and policy.action == "rollback":
            back = _roll_back(app, chosen, every, situation)
            of_challenger = any(alarm.release == situation.challenger for alarm in chosen if alarm.release is not None)
            step = step if isinstance(back, str) and of_challenger else back
    if isinstance(step, str):
        return Decision(app, None, step, declined=tuple(chosen))
    action, release, reasons, why = step
    return Decision(app, action, why, release, tuple(reasons), policy.dry_run)


# What to do, to which release, the alarms that are the reason, and why; or, as text alone, why nothing is done.
# chosen: the alarms that the policy is for. every: all of the app's that are open.
_Step = tuple[Action, str, "Sequence[BookedAlarm]", str] | str


def _stop_canary(app: str, chosen: Sequence[BookedAlarm], every: Sequence[BookedAlarm], situation: Situation) -> _Step:
    challenger = situation.challenger
    if challenger is None:
        return f"{app} has no challenger: there is no canary to stop"
    concerned = [alarm for alarm in chosen if alarm.release == challenger]
    if not concerned:
        return f"no alarm concerns the challenger {challenger}"
    if not situation.canary:
        return f"{challenger} gets no canary traffic: there is nothing to stop"
    # Both arms get the same questions: what shows in both, or in the questions, is not the challenger's doing.
    shared = {alarm.what for alarm in every if alarm.release == situation.champion and alarm.kind != "canary"}
    own = [a for a in concerned if a.side != "input" and (a.kind == "canary" or a.what not in shared)]
    if not own:
        names = ", ".join(sorted({alarm.what for alarm in concerned}))
        return f"{names} changed in the champion's traffic as well: the challenger is not why"
    why = f"{_names(own)} in the answers of the challenger {challenger}, and not in the champion's"
    return "stop-canary", challenger, own, why


def _roll_back(app: str, chosen: Sequence[BookedAlarm], every: Sequence[BookedAlarm], situation: Situation) -> _Step:
    champion = situation.champion
    if champion is None:
        return f"{app} has no champion"
    concerned = [alarm for alarm in chosen if alarm.release == champion]
    if not concerned:
        return f"no alarm is known to concern the champion {champion}"
    answers = [alarm for alarm in concerned if alarm.side != "input"]
    if not answers:
        return f"{_names(concerned)}: the questions changed, which no rollback cures"
    recent = [alarm for alarm in answers if not _is_older(alarm, situation)]
    if not recent:
        return f"{_names(answers)}: last seen before {champion} became the champion"
    alarms = [alarm for alarm in recent if alarm.cure is None or alarm.cure.helps]
    if not alarms:
        return f"{_names(recent)}: {next(alarm.cure.why for alarm in recent if alarm.cure is not None)}"
    # Where nobody judged, changed questions are reason enough to doubt.
    asked = [alarm for alarm in every if alarm.side == "input" and alarm.release in (champion, None)]
    judged = [alarm for alarm in alarms if alarm.cure is not None or alarm.kind == "canary"]
    if asked and not judged:
        return f"{_names(asked)}: the questions changed too, so that a rollback may be no cure"
    if situation.previous is None:
        return situation.no_return or f"{app} has no previous release to return to"
    reasons = judged or alarms
    why = f"{_names(reasons)} in the answers of the champion {champion}; back to {situation.previous}"
    return "rollback", champion, reasons, why


def _look_into(app: str, chosen: Sequence[BookedAlarm], action: Action, situation: Situation) -> _Step:
    champion = situation.champion
    if champion is None:
        return f"{app} has no champion"
    concerned = [alarm for alarm in chosen if alarm.release in (champion, None) and not _is_older(alarm, situation)]
    if not concerned:
        return f"no alarm concerns the champion {champion}"
    return action, champion, concerned, f"{_names(concerned)} in the traffic of the champion {champion}"


def _is_older(alarm: BookedAlarm, situation: Situation) -> bool:
    return situation.champion_since is not None and alarm.last_at <= situation.champion_since


def _names(alarms: Sequence[BookedAlarm]) -> str:
    return ", ".join(dict.fromkeys(f"{alarm.what} ({alarm.kind})" for alarm in alarms))
