"""What the alarms of a window mean: whether questions explain changed answers, and whether a rollback can help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monitoring.decide.alarms import Alarm
from monitoring.decide.drift import compare
from monitoring.decide.rules import DriftRules
from monitoring.decide.strata import compare_among_like_questions
from monitoring.decide.tested_slices import TestedSlice
from monitoring.descriptors import Descriptor
from monitoring.store.summaries import Summary

_MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class Cure:
    """Whether going back to the previous release can help, and why (not)."""

    helps: bool
    why: str

    def to_json(self) -> dict[str, Any]:
        return {"rollback": self.helps, "why": self.why}


def cure_of(alarms: Sequence[Alarm], *, same_release: bool, questions: Sequence[str] | None = ()) -> Cure:
    """What the alarms of one window say of a rollback.

    same_release: whether one release answered all of the reference and of the window: then it is not what changed.
    questions: descriptors of the questions that changed without an alarm, such as in a release's first window; None
    when the questions were not compared, such as with those of an eval run.
    """
    alarmed = [alarm.what for alarm in alarms if alarm.side == "input" and alarm.kind not in ("volume", "canary")]
    asked = [*alarmed, *(questions or ())]
    answers = [alarm for alarm in alarms if alarm.side != "input" and alarm.kind not in ("volume", "canary")]
    worse = [alarm for alarm in alarms if alarm.kind == "canary"]
    if not alarms:
        return Cure(False, "there is no alarm")
    if worse:
        return Cure(True, f"{_names(worse)}: the challenger is worse than the champion on the same traffic")
    if not answers and not asked:
        return Cure(False, "the amount of traffic changed, not the questions or answers")
    if not answers:
        return Cure(False, f"the questions changed ({_listed(asked)}), and every release is asked the same ones")
    if asked:
        return _among_changed_questions(answers, asked)
    if same_release and all(alarm.severity != "high" and alarm.side == "service" for alarm in answers):
        return Cure(False, f"{_names(answers)} changed while the release did not: look at the engine and its machine")
    if questions is None:
        return _among_unknown_questions(answers)
    caveat = (
        "; but the release is the same as in the reference, so that an engine or upstream behind it may be the cause"
        if same_release
        else ""
    )
    return Cure(True, f"{_names(answers)} changed while the questions did not{caveat}")


def _among_unknown_questions(answers: Sequence[Alarm]) -> Cure:
    """Harm is worth an attempt; that answers are merely other ones may well be due to other questions."""
    harmful = [alarm for alarm in answers if alarm.severity == "high"]
    if harmful:
        return Cure(True, f"{_names(harmful)} changed; the questions were not compared, so that they may be why")
    return Cure(False, f"whether {_names(answers)} changed because of the questions cannot be told: none to compare")


def _among_changed_questions(answers: Sequence[Alarm], asked: Sequence[str]) -> Cure:
    remaining = [alarm for alarm in answers if alarm.explained is False]
    if remaining:
        return Cure(True, f"{_names(remaining)} changed among like questions, too")
    if all(alarm.explained for alarm in answers):
        return Cure(False, f"the questions changed ({_listed(asked)}), which explains {_names(answers)}")
    return Cure(
        False,
        f"the questions changed ({_listed(asked)}); whether {_names(answers)} changed because of them cannot be told",
    )


def explained_by_questions(
    descriptors: Mapping[str, Descriptor],
    whole: TestedSlice,
    reference: Mapping[str, Summary],
    current: Mapping[str, Summary],
    rules: DriftRules,
    alpha: float,
) -> dict[str, bool | None]:
    """For each of these descriptors of the answers, whether changed questions explain its change; see `strata`.

    reference, current: both windows by stratum.
    """
    found: dict[str, bool | None] = {}
    for name, descriptor in descriptors.items():
        before = compare(descriptor, whole.reference, whole.current)
        among = compare_among_like_questions(descriptor, reference, current, rules)
        found[name] = among.explains(before, rules.floor(descriptor), alpha)
    return found


def sides_of(alarms: Sequence[Alarm]) -> list[str]:
    """Sides with an alarm about what requests are like, not how many there are."""
    found = {alarm.side for alarm in alarms if alarm.kind != "volume"}
    return [side for side in ("input", "output", "service") if side in found]


def _names(alarms: Sequence[Alarm]) -> str:
    return _listed([alarm.what for alarm in alarms])


def _listed(all_names: Sequence[str]) -> str:
    names = list(dict.fromkeys(all_names))
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
