"""What a monitor run found, as the contract's JSON and as flat metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmops.text_io import listed
from monitoring.decide.alarms import Alarm
from monitoring.decide.drift import SliceDrift
from monitoring.decide.families import PooledLook, VariantComparison
from monitoring.decide.limits import LimitFinding, VolumeFinding
from monitoring.decide.references import PinnedReference
from monitoring.decide.watch import FlagFinding
from monitoring.decide.window_choice import LogWindow, ReferenceProgress

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


def sides_of(alarms: Sequence[Alarm]) -> list[str]:
    """Sides with an alarm about what requests are like, not how many there are."""
    alarmed = {alarm.side for alarm in alarms if alarm.kind != "volume"}
    return [side for side in ("input", "output", "service") if side in alarmed]


def _names(alarms: Sequence[Alarm]) -> str:
    return _listed([alarm.what for alarm in alarms])


def _listed(names: Sequence[str]) -> str:
    return listed(list(dict.fromkeys(names)), _MOST_NAMED)


State = Literal["ok", "alarm", "too-few-rows"]


@dataclass(frozen=True, slots=True)
class MonitorResult:
    """Verdict of one run.

    state: `too-few-rows` when either window is below the minimum: no drift was tested. note: what was not done as usual
    and why, else empty. reference: the rows that the window was compared with; empty while one is awaited. gathering:
    that one, while it has too few rows. not_compared: descriptors that mean something else in the reference, or are not
    in it. slices: the first is the whole app. pooled: the last windows together; None when this one was alone. canary:
    champion against challenger on the same traffic. sequential, limits, volume: what those rules looked at.
    failures: descriptor → rows of the window that it could not compute. computed: rows described by this run, the
    others having been described before. expected_false_alarms_per_month: runs that would alarm by chance; an upper
    bound.
    """

    app: str
    state: State
    note: str
    window: LogWindow
    reference: LogWindow
    pinned: PinnedReference | None
    slices: Sequence[SliceDrift]
    alarms: Sequence[Alarm]
    expected_false_alarms_per_month: float
    computed: int
    cure: Cure = Cure(False, "there is no alarm")
    canary: Sequence[VariantComparison] = ()
    sequential: Sequence[FlagFinding] = ()
    limits: Sequence[LimitFinding] = ()
    volume: Sequence[VolumeFinding] = ()
    not_compared: Sequence[str] = ()
    failures: Mapping[str, int] = field(default_factory=dict)
    feedback: Mapping[str, Any] = field(default_factory=dict)
    gathering: ReferenceProgress | None = None
    pooled: PooledLook | None = None

    @property
    def alarm(self) -> bool:
        return bool(self.alarms)

    @property
    def bad_by_itself(self) -> bool:
        """Whether an alarm is about this window's rows, not about their number or about windows taken together."""
        together = self.pooled.drift.drifted if self.pooled else {}
        alone = {name for part in self.slices for name in part.drifted}
        return any(
            alarm.kind != "volume" and (alarm.kind != "drift" or alarm.what in alone or alarm.what not in together)
            for alarm in self.alarms
        )

    def to_json(self) -> dict[str, Any]:
        """The contract's shape, and more beside it."""
        pinned, nothing = self.pinned, dict.fromkeys(("source", "release"))
        pin = {name: getattr(pinned, name) for name in nothing} if pinned else nothing
        many = ("slices", "alarms", "canary", "sequential", "limits", "volume")
        return {
            "app": self.app,
            "state": self.state,
            "note": self.note,
            "window": self.window.to_json(),
            "reference": {
                **self.reference.to_json(),
                **pin,
                "pinned": pinned is not None,
                "why": pinned.why if pinned else "",
                "not_compared": list(self.not_compared),
                "gathering": self.gathering.to_json() if self.gathering else None,
            },
            **{name: [each.to_json() for each in getattr(self, name)] for name in many},
            "pooled": self.pooled.to_json() if self.pooled else None,
            "drift_in": sides_of(self.alarms),
            "cure": self.cure.to_json(),
            "failures": dict(self.failures),
            "feedback": dict(self.feedback),
            "expected_false_alarms_per_month": self.expected_false_alarms_per_month,
            "computed": self.computed,
        }

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow.

        `drift/<descriptor>/p_adjusted` and `/effect` of the whole app, `drift/<app>-<version>/<descriptor>/…` of each
        release, `canary/<descriptor>/…` of the challenger, `failures/<descriptor>`, and `mean/<descriptor>`: the
        current mean, or share for flags.
        """
        metrics: dict[str, float] = {
            "alarms": float(len(self.alarms)),
            "rows": float(self.window.rows),
            "reference_rows": float(self.reference.rows),
            "expected_false_alarms_per_month": self.expected_false_alarms_per_month,
        }
        metrics |= {f"failures/{name}": float(rows) for name, rows in self.failures.items()}
        families = {f"{each.variants.kind}/": each.drift for each in self.canary}
        for part in self.slices:
            if "app" in part.label:
                families["drift/"] = part
                means = {name: drift.after for name, drift in part.descriptors.items()}
                metrics |= {f"mean/{name}": value for name, value in means.items() if isinstance(value, float)}
            elif "release" in part.label:
                families[f"drift/{part.label['release'].replace('@', '-')}/"] = part
        for prefix, family in families.items():
            for name, drift in family.descriptors.items():
                metrics[f"{prefix}{name}/p_adjusted"] = drift.p_adjusted
                metrics[f"{prefix}{name}/effect"] = drift.result.effect
        return metrics
