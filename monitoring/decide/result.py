"""What a monitor run found, as the contract's JSON and as flat metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from monitoring.decide.alarms import Alarm
from monitoring.decide.drift import SliceDrift
from monitoring.decide.pooled import PooledLook
from monitoring.decide.reference_progress import ReferenceProgress
from monitoring.decide.references import PinnedReference
from monitoring.decide.variants import VariantComparison
from monitoring.decide.verdict import Cure, sides_of
from monitoring.decide.window_choice import Window

State = Literal["ok", "alarm", "too-few-rows"]


class Shown(Protocol):
    """A finding of limits, detectors or volume."""

    def to_json(self) -> dict[str, Any]: ...


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
    window: Window
    reference: Window
    pinned: PinnedReference | None
    slices: Sequence[SliceDrift]
    alarms: Sequence[Alarm]
    expected_false_alarms_per_month: float
    computed: int
    cure: Cure = Cure(False, "there is no alarm")
    canary: Sequence[VariantComparison] = ()
    sequential: Sequence[Shown] = ()
    limits: Sequence[Shown] = ()
    volume: Sequence[Shown] = ()
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
        pooled = self.pooled.drift.descriptors if self.pooled else {}
        together = {name for name, drift in pooled.items() if drift.drifted}
        alone = {name for part in self.slices for name, drift in part.descriptors.items() if drift.drifted}
        return any(
            alarm.kind != "volume" and (alarm.kind != "drift" or alarm.what in alone or alarm.what not in together)
            for alarm in self.alarms
        )

    def to_json(self) -> dict[str, Any]:
        """The contract's shape, and more beside it."""
        pinned = self.pinned
        pin = {
            "pinned": pinned is not None,
            "why": pinned.why if pinned else "",
            "source": pinned.source if pinned else None,
            "release": pinned.release if pinned else None,
            "not_compared": list(self.not_compared),
            "gathering": self.gathering.to_json() if self.gathering else None,
        }
        return {
            "app": self.app,
            "state": self.state,
            "note": self.note,
            "window": self.window.to_json(),
            "reference": {**self.reference.to_json(), **pin},
            "slices": [part.to_json() for part in self.slices],
            "pooled": self.pooled.to_json() if self.pooled else None,
            "alarms": [alarm.to_json() for alarm in self.alarms],
            "drift_in": sides_of(self.alarms),
            "cure": self.cure.to_json(),
            "canary": [each.to_json() for each in self.canary],
            "sequential": [each.to_json() for each in self.sequential],
            "limits": [each.to_json() for each in self.limits],
            "volume": [each.to_json() for each in self.volume],
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
        found: dict[str, float] = {
            "alarms": float(len(self.alarms)),
            "rows": float(self.window.rows),
            "reference_rows": float(self.reference.rows),
            "expected_false_alarms_per_month": self.expected_false_alarms_per_month,
        }
        found |= {f"failures/{name}": float(rows) for name, rows in self.failures.items()}
        for part in self.slices:
            if "app" in part.label:
                found |= _drift_metrics(part, "drift/")
                means = {name: drift.after for name, drift in part.descriptors.items()}
                found |= {f"mean/{name}": value for name, value in means.items() if isinstance(value, float)}
            elif "release" in part.label:
                found |= _drift_metrics(part, f"drift/{part.label['release'].replace('@', '-')}/")
        for each in self.canary:
            found |= _drift_metrics(each.drift, f"{each.variants.kind}/")
        return found


def _drift_metrics(part: SliceDrift, prefix: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, drift in part.descriptors.items():
        found[f"{prefix}{name}/p_adjusted"] = drift.p_adjusted
        found[f"{prefix}{name}/effect"] = drift.result.effect
    return found
