"""When a difference between two windows of rows becomes an alarm, and how often chance alone would raise one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from llmops.errors import BadFile, UsageError
from llmops.text_io import read_toml
from monitoring.tables import nearest, read_dataclass

Loss = Literal["squared", "absolute", "relative", "ratio"]
Rule = Literal["error", "estimate", "quality", "drift"]

_SHARES_OF_ROWS = (
    "effect_floor",
    "missing_at_most",
    "unseen_at_most",
    "outside_at_most",
    "duplicates_at_most",
    "estimate_outside_at_most",
)


@dataclass(frozen=True, slots=True)
class TabularSettings:
    """The budget of false alarms and the smallest changes worth one.

    false_alarms: that chance may raise in `windows_in_budget` windows (an argument of `check`; 12 for months of a
    year), expected over all rules, at most. So at most that share of such years has any (Markov's inequality).
    error_share, estimate_share, quality_share, drift_share: of the budget, for each rule; at most 1 together.
    loss: of a regression. `squared`: the error is the RMSE; `absolute`: the MAE; `relative`: the MAE as a share of the
    window's mean label, which compares quiet months with busy ones. `ratio`: all labels over all predictions (counts
    over expected counts), which rows that are rightly expected to bring more do not raise. A classifier's is its error
    rate.
    rise_floor: a relative rise of the error below it (0.1 is 10 %) is no alarm, however certain.
    effect_floor: a share of rows (see `decide.drift`); a change of a column below it is no drift, however certain.
    minimum_rows, minimum_blocks: below them, in either window, nothing is tested.
    missing_at_most, unseen_at_most: of a column's values, the share that may be missing, or be a label that neither
    reference nor schema has. outside_at_most: the share of numbers that may be outside of the reference's range.
    duplicates_at_most: the share of rows that may repeat another. None: told, but never an alarm. Where the reference
    itself has more, that much is allowed.
    alarm_on_drift: whether drift of a column is an alarm. Where inputs follow the season, it would be one every month.
    drift_level: the level of drift that is told and no alarm (a false discovery rate); alarms have the budget's.
    estimate: whether the error is estimated before labels come. trust_after: so many past estimates, the latest, must
    have come within `trust_within` (relative) of the error found later before an estimate may raise an alarm.
    estimate_outside_at_most: the share of rows with a value outside of the reference, beyond which no estimate counts.
    """

    false_alarms: float = 0.1
    error_share: float = 0.5
    estimate_share: float = 0.15
    quality_share: float = 0.15
    drift_share: float = 0.2
    loss: Loss = "squared"
    rise_floor: float = 0.1
    effect_floor: float = 0.06
    minimum_rows: int = 20
    minimum_blocks: int = 5
    missing_at_most: float = 0.05
    unseen_at_most: float = 0.01
    outside_at_most: float | None = None
    duplicates_at_most: float | None = None
    alarm_on_drift: bool = False
    drift_level: float = 0.05
    estimate: bool = True
    trust_after: int = 3
    trust_within: float = 0.15
    estimate_outside_at_most: float = 0.1

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if self.loss not in get_args(Loss):
            raise UsageError(
                f"tabular monitoring: loss must be squared, absolute, relative or ratio, not {self.loss!r}"
            )
        for name in ("false_alarms", "minimum_rows", "minimum_blocks", "trust_after", "trust_within"):
            if not getattr(self, name) > 0:
                raise UsageError(f"tabular monitoring: {name} must be above 0, not {getattr(self, name)}")
        if self.minimum_rows < 2 or self.minimum_blocks < 2:
            raise UsageError("tabular monitoring: minimum_rows and minimum_blocks must be 2 or more")
        for name in _SHARES_OF_ROWS:
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise UsageError(f"tabular monitoring: {name} must be from 0 to below 1, not {value}")
        if not 0 < self.drift_level < 1:
            raise UsageError(f"tabular monitoring: drift_level must be between 0 and 1, not {self.drift_level}")
        if not self.rise_floor >= 0:
            raise UsageError(f"tabular monitoring: rise_floor must not be below 0, but is {self.rise_floor}")
        shares = [self.error_share, self.estimate_share, self.quality_share, self.drift_share]
        if min(shares) <= 0 or sum(shares) > 1 + 1e-9:
            raise UsageError("tabular monitoring: the shares of the budget must be above 0, and at most 1 together")

    def alpha(self, rule: Rule, windows_in_budget: int) -> float:
        """The error rate of one rule in one window; of drift that is no alarm, the level at which it is told.

        Raises UsageError: fewer than one window, or more false alarms than windows.
        """
        if windows_in_budget < 1 or self.false_alarms > windows_in_budget:
            raise UsageError(f"a budget of {self.false_alarms:g} false alarms needs more windows: {windows_in_budget}")
        if rule == "drift" and not self.alarm_on_drift:
            return self.drift_level
        share: float = getattr(self, f"{rule}_share")
        return self.false_alarms * share / windows_in_budget

    def expected_false_alarms(self) -> float:
        """In a budget's windows, at most, over the rules that may raise one."""
        shares = self.error_share + self.quality_share
        shares += self.estimate_share * self.estimate + self.drift_share * self.alarm_on_drift
        return self.false_alarms * shares


def read_settings(file: Path) -> TabularSettings:
    """The table `[tabular]` of a TOML file, its keys the fields of TabularSettings; without it the defaults.

    Raises BadFile: it cannot be read; a table, key or value is unknown or wrong. Names the nearest known one.
    """
    values = read_toml(file)
    for name in values:
        if name != "tabular":
            raise BadFile(file, f"unknown table{nearest(name, ['tabular'])}", field=name)
    return read_dataclass(TabularSettings, values.get("tabular", {}), file, "tabular")
