"""When a difference becomes an alarm, and how often chance alone would raise one.

The month's budget of false alarms is split once, by stated shares, over four kinds of rule: the tests of windows, the
detectors of harmful flags, declared limits, and the volume of traffic. Each kind splits its part further over all it
does in a month, so that the expected number of false alarms is at most the budget, and so at most that share of months
has any (Markov's inequality).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from llmops.errors import UsageError
from monitoring.descriptors import Descriptor

DAYS = 31
"""Of the longest month: a month has at most this many starts of days."""

NEW_STARTS, NEW_STARTS_KEPT = 0.85, 0.2
"""Of a detector's alpha, for starts at a pin or release; and what each leaves to the later ones of its month."""

ALONE, NEW_POOLED, LATER_POOLED = 0.5, 0.35, 0.15
"""Of the windows' part: for each window alone; for pools of the first windows of a reference, and for later ones."""

POOLED = 3
"""Windows in a pool, at most."""

FIRST_POOLS: Mapping[int, float] = MappingProxyType({2: 0.3, 3: 0.7})
"""Of NEW_POOLED, by the number of the pool's last window since the pin."""

WHOLE_APP = 0.8
"""Of a flag's alpha, where slices are watched beside the whole app."""

_MAY_BE_ZERO = ("floor", "share", "named")
_WEIGHTS: Mapping[str, float] = MappingProxyType({"output.refusal": 12.0, "error": 12.0})


@dataclass(frozen=True, slots=True)
class DriftRules:
    """The false-alarm budget, and the smallest change worth an alarm.

    false_alarms_per_month: false alarms that chance may cause in a month of an app, expected over everything, at most.
    windows_per_month: how often the monitor judges a window of new rows; 30 is daily.
    windows_share, flags_share, limits_share, volume_share: of the budget, for each kind of rule; at most 1 together.
    flag_weights: how the detectors share theirs; a flag that is not named has 1. A rise of a frequent flag is the
    hardest to tell from chance, and refusals and errors are the ones that cost most.
    minimum_rows: below it, in either window, there is no verdict. Also the least for a slice or column to be tested.
    numeric_floor, label_floor, flag_floor, harmful_floor: effects below them raise no alarm, however certain. Shares
    of rows (see `decide.drift`): 0.06 is a shift of 0.15 standard deviations; five more refusals, errors or leaks of
    personal data in a thousand answers already count.
    volume_floor: a window with between 1 - floor and 1 / (1 - floor) times the expected rows raises no alarm.
    rows_named: request ids given with an alarm, at most.
    """

    false_alarms_per_month: float = 0.1
    windows_per_month: int = 30
    windows_share: float = 0.35
    flags_share: float = 0.55
    limits_share: float = 0.05
    volume_share: float = 0.05
    flag_weights: Mapping[str, float] = field(default_factory=lambda: _WEIGHTS)
    minimum_rows: int = 20
    numeric_floor: float = 0.06
    label_floor: float = 0.05
    flag_floor: float = 0.05
    harmful_floor: float = 0.005
    volume_floor: float = 0.3
    rows_named: int = 20

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.name == "flag_weights":
                continue
            value = getattr(self, each.name)
            if value < 0 or (value == 0 and not each.name.endswith(_MAY_BE_ZERO)):
                raise UsageError(f"drift rules: {each.name} must be above 0, not {value}")
        if self.false_alarms_per_month > self.windows_per_month:
            raise UsageError("drift rules: false_alarms_per_month cannot exceed windows_per_month")
        if sum(self.shares.values()) > 1 + 1e-9:
            raise UsageError("drift rules: windows_share, flags_share, limits_share and volume_share exceed 1 together")
        if self.volume_floor >= 1:
            raise UsageError(f"drift rules: volume_floor must be below 1, not {self.volume_floor}")
        for name, weight in self.flag_weights.items():
            if not 0 < weight < math.inf:
                raise UsageError(f"drift rules: flag_weights: the weight of {name} must be above 0, not {weight}")

    @property
    def shares(self) -> dict[str, float]:
        """Kind of rule → its share of the budget."""
        return {
            "windows": self.windows_share,
            "flags": self.flags_share,
            "limits": self.limits_share,
            "volume": self.volume_share,
        }

    def alpha(self, families: int) -> float:
        """Error rate of one family (a slice in one window): the windows' part of the budget shared among them all."""
        return ALONE * self._for_each_window("windows") / max(families, 1)

    def pooled_alpha(self, number: int, pins: int) -> float:
        """Error rate of the family of one pool.

        number: of its last window since the pin. pins: of references in the five weeks before that one; however many
        there are, their first pools together have at most NEW_POOLED of a month's part.
        """
        if number > POOLED:
            return LATER_POOLED * self._for_each_window("windows")
        part = self.false_alarms_per_month * self.windows_share * NEW_POOLED * FIRST_POOLS.get(number, 0.0)
        return part * (1 - NEW_STARTS_KEPT) * NEW_STARTS_KEPT**pins

    def flag_alpha(self, name: str, flags: Sequence[str], place: int = 0, *, sliced: bool = True) -> float:
        """False alarms a month that one flag's detector may cause in one slice.

        flags: all that are watched. place: 0 for the whole app, else the slice's number in the month's order of
        appearance, from 1. sliced: whether slices are watched at all; if not, the whole app has their part, too.
        However many slices appear, the sum over all flags and slices is at most the detectors' part of the budget.
        """
        total = sum(self.flag_weights.get(flag, 1.0) for flag in flags)
        part = self.false_alarms_per_month * self.flags_share * self.flag_weights.get(name, 1.0) / total
        if not sliced:
            return part if place == 0 else 0.0
        return part * (WHOLE_APP if place == 0 else (1 - WHOLE_APP) / (place * (place + 1)))

    def limit_alpha(self, checks: int) -> float:
        """Error rate of one limit in one window and slice; checks: limits times slices in a window."""
        return self._for_each_window("limits") / max(checks, 1)

    def volume_alpha(self) -> float:
        """Error rate of the verdict on one window's number of rows."""
        return self._for_each_window("volume")

    def expected_false_alarms(self, *, flags: int = 1, limits: int = 1) -> dict[str, float]:
        """False alarms expected in a month, at most: for each kind of rule in use, and in all (`total`).

        flags, limits: how many there are; a kind with nothing to do uses none of its part. Why expectations add up to
        the budget stands in monitoring/README.md. Discrete tests and the effect floors push the true rate below it. A
        descriptor that drifts by chance is one alarm; more than one in the same window is counted once.
        """
        unused = {"flags": not flags, "limits": not limits}
        parts = {
            kind: 0.0 if unused.get(kind) else self.false_alarms_per_month * share
            for kind, share in self.shares.items()
        }
        return {**parts, "total": sum(parts.values())}

    def floor(self, descriptor: Descriptor) -> float:
        """The smallest effect that may raise an alarm for this descriptor."""
        if descriptor.harmful:
            return self.harmful_floor
        return {"numeric": self.numeric_floor, "label": self.label_floor, "flag": self.flag_floor}[descriptor.kind]

    def _for_each_window(self, kind: str) -> float:
        return self.false_alarms_per_month * self.shares[kind] / self.windows_per_month


def day_start_share() -> float:
    """Of a detector's alpha, for the start of each day."""
    return (1 - NEW_STARTS) / DAYS


def new_start_share(earlier: int) -> float:
    """Of a detector's alpha, for a start at a new reference or release, after `earlier` ones in the same month.

    Such starts are where changes come from: the first has most, and all of a month together have NEW_STARTS.
    """
    return NEW_STARTS * (1 - NEW_STARTS_KEPT) * NEW_STARTS_KEPT**earlier
