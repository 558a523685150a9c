"""What a monitor run found, as the contract's JSON and as flat metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from monitoring.alarms import Alarm
from monitoring.drift import SliceDrift, sides_of
from monitoring.windows import PinnedReference, Window

State = Literal["ok", "alarm", "too-few-rows"]


@dataclass(frozen=True, slots=True)
class MonitorResult:
    """Verdict of one run.

    state: `too-few-rows` when either window is below the minimum: nothing was tested, nothing is alarmed. note: says
    so in words, else empty. slices: the first is the whole app. computed: rows described by this run, the others
    having been described before. expected_false_alarms_per_month: runs that would alarm by chance; an upper bound.
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

    @property
    def alarm(self) -> bool:
        return bool(self.alarms)

    def to_json(self) -> dict[str, Any]:
        """The contract's shape, with `state`, `note`, `drift_in` and `computed` added."""
        pin = {"pinned": self.pinned is not None, "why": self.pinned.why if self.pinned else ""}
        return {
            "app": self.app,
            "state": self.state,
            "note": self.note,
            "window": self.window.to_json(),
            "reference": {**self.reference.to_json(), **pin},
            "slices": [part.to_json() for part in self.slices],
            "alarms": [alarm.to_json() for alarm in self.alarms],
            "drift_in": sides_of(self.slices),
            "expected_false_alarms_per_month": self.expected_false_alarms_per_month,
            "computed": self.computed,
        }

    def metrics(self) -> dict[str, float]:
        """Flat numbers for MLflow.

        `drift/<descriptor>/p_adjusted` and `/effect` of the whole app, `drift/<app>-<version>/<descriptor>/…` of each
        release, and `mean/<descriptor>`: the current mean, or share for flags.
        """
        found: dict[str, float] = {
            "alarms": float(len(self.alarms)),
            "rows": float(self.window.rows),
            "reference_rows": float(self.reference.rows),
            "expected_false_alarms_per_month": self.expected_false_alarms_per_month,
        }
        for part in self.slices:
            place = part.label["release"].replace("@", "-") + "/" if "release" in part.label else ""
            for name, drift in part.descriptors.items():
                found[f"drift/{place}{name}/p_adjusted"] = drift.p_adjusted
                found[f"drift/{place}{name}/effect"] = drift.result.effect
                if not place and isinstance(drift.after, float):
                    found[f"mean/{name}"] = drift.after
        return found
