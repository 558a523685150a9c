"""When a difference becomes an alarm, and how often chance alone would raise one."""

from __future__ import annotations

from dataclasses import dataclass, fields

from llmops.errors import UsageError
from monitoring.descriptors import Descriptor


@dataclass(frozen=True, slots=True)
class DriftRules:
    """The false-alarm budget, and the smallest change worth an alarm.

    false_alarms_per_month: windows with a false alarm that chance may cause in a month, over all slices, at most.
    windows_per_month: how often the monitor runs on new rows; 30 is daily.
    minimum_rows: below it, in either window, there is no verdict. Also the least for a slice or column to be tested.
    numeric_floor, label_floor, flag_floor, harmful_floor: effects below them raise no alarm, however certain. Shares
    of rows (see `two_sample`): 0.1 is a shift of about a quarter of a standard deviation; one more refusal, error or
    leak of personal data in a hundred answers already counts.
    rows_named: request ids given with an alarm, at most.
    """

    false_alarms_per_month: float = 0.1
    windows_per_month: int = 30
    minimum_rows: int = 20
    numeric_floor: float = 0.10
    label_floor: float = 0.05
    flag_floor: float = 0.05
    harmful_floor: float = 0.01
    rows_named: int = 20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0 or (value == 0 and not field.name.endswith(("floor", "named"))):
                raise UsageError(f"drift rules: {field.name} must be above 0, not {value}")
        if self.false_alarms_per_month > self.windows_per_month:
            raise UsageError("drift rules: false_alarms_per_month cannot exceed windows_per_month")

    def alpha(self, families: int) -> float:
        """Error rate of one family (a slice in one window): the month's budget shared among all of them."""
        return self.false_alarms_per_month / (self.windows_per_month * max(families, 1))

    def expected_false_alarms_per_month(self, families: int) -> float:
        """Families × windows × alpha: an upper bound.

        When nothing has changed, Benjamini–Hochberg at alpha rejects anything in a family with a probability of at
        most alpha (Simes' inequality; tests of positively dependent columns included), and expectations add up over
        families and windows however they depend on each other. Discrete tests and the effect floors push the true
        rate below it.
        """
        return families * self.windows_per_month * self.alpha(families)

    def floor(self, descriptor: Descriptor) -> float:
        """The smallest effect that may raise an alarm for this descriptor."""
        if descriptor.harmful:
            return self.harmful_floor
        return {"numeric": self.numeric_floor, "label": self.label_floor, "flag": self.flag_floor}[descriptor.kind]
