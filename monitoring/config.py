"""The monitor's configuration: one TOML file, read whole and strictly.

The file is the one that LLMOPS_MONITOR_CONFIG names, else the packaged `default.toml`. Each table is read by the module
that uses it; here they are put together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from llmops.errors import BadFile, UsageError
from llmops.settings import Settings
from llmops.text_io import read_toml
from monitoring.act.alerts import AlertSettings, read_alerts
from monitoring.act.policy import Policy, read_policies
from monitoring.descriptors import DescriptorSet
from monitoring.descriptors.descriptor_set import DEFAULT_FILE
from monitoring.tables import ConfigTable, nearest, read_dataclass

if TYPE_CHECKING:
    from monitoring.decide.limits import Limit
    from monitoring.decide.rules import DriftRules

AtPromotion = Literal["gate", "first-window", "previous-window"]
_TABLES = ("descriptor", "slices", "rules", "limit", "reference", "alerts", "policy")


@dataclass(frozen=True, slots=True)
class ReferenceSettings:
    """at_promotion: what becomes the reference when a release is promoted; see `decide.references`.

    first_window_rows: so many rows of the promoted release are gathered before a first window is pinned.
    """

    at_promotion: AtPromotion = "first-window"
    first_window_rows: int = 200

    def __post_init__(self) -> None:
        if self.at_promotion not in get_args(AtPromotion):
            raise UsageError(f"at_promotion must be {' or '.join(get_args(AtPromotion))}, not {self.at_promotion!r}")
        if self.first_window_rows < 1:
            raise UsageError(f"first_window_rows must be above 0, not {self.first_window_rows}")


@dataclass(frozen=True)
class MonitorConfig:
    """What the monitor computes, tests, and does about it. file: where it was read."""

    descriptors: DescriptorSet
    slices: tuple[str, ...]
    rules: DriftRules
    limits: tuple[Limit, ...] = ()
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    file: Path = field(default=DEFAULT_FILE)


def read_config(settings: Settings | None = None) -> MonitorConfig:
    """The configuration of the settings' file, or the packaged one.

    Raises:
        BadFile: it cannot be read; a table, key or value is unknown or wrong. Names file and key, and the nearest known
            one.
    """
    from monitoring.store.rows import DIMENSIONS

    settings = settings or Settings()
    file = settings.monitor_config or DEFAULT_FILE
    values = read_toml(file)
    for name in values:
        if name not in _TABLES:
            raise BadFile(file, f"unknown table{nearest(name, _TABLES)}", field=name)
    # Without descriptors nothing is watched, and "no alarm" would be said of it: who wants that writes descriptor = [].
    declared = values["descriptor"] if "descriptor" in values else read_toml(DEFAULT_FILE)["descriptor"]
    descriptors = DescriptorSet.from_config(declared, settings, file=file)
    with ConfigTable(values.get("slices", {}), file, "slices") as table:
        given = table.any("dimensions", ["release"])
        dimensions = () if given == [] else table.texts("dimensions", ["release"])
        for name in dimensions:
            if name not in DIMENSIONS:
                raise table.wrong("dimensions", f"there is no dimension {name!r}{nearest(name, DIMENSIONS)}")
    return MonitorConfig(
        descriptors=descriptors,
        slices=tuple(dict.fromkeys(dimensions)),
        rules=_rules(values.get("rules", {}), descriptors, file),
        limits=_limits(values.get("limit", []), descriptors, file),
        reference=read_dataclass(ReferenceSettings, values.get("reference", {}), file, "reference"),
        alerts=read_alerts(values.get("alerts", {}), file),
        policies=read_policies(values.get("policy", {}), file),
        file=file,
    )


def _rules(values: Any, descriptors: DescriptorSet, file: Path) -> DriftRules:
    from monitoring.decide.rules import DriftRules

    rules = read_dataclass(DriftRules, values, file, "rules")
    harmful = [name for name, each in descriptors.descriptors.items() if each.harmful]
    for name in values.get("flag_weights", {}):
        if name not in harmful:  # a weight that is misspelt would weigh nothing, and nobody would see it
            raise BadFile(
                file, f"there is no harmful flag {name!r}{nearest(name, harmful)}", field="rules: flag_weights"
            )
    return rules


def _limits(tables: Any, descriptors: DescriptorSet, file: Path) -> tuple[Limit, ...]:
    if not isinstance(tables, list):
        raise BadFile(file, "must be an array of tables: [[limit]]", field="limit")
    if not tables:
        return ()
    from monitoring.decide.limits import Limit  # takes numpy, which most commands can do without

    limits = tuple(read_dataclass(Limit, table, file, f"limit {number}") for number, table in enumerate(tables, 1))
    for limit in limits:
        try:
            limit.check_kind(descriptors.descriptors)
        except UsageError as error:
            raise BadFile(file, str(error), field="limit") from error
    return limits
