"""How `llmops monitor run` shows a verdict at the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llmops.cli.output import echo, number, print_table, row_count, say

if TYPE_CHECKING:
    from monitoring import MonitorResult
    from monitoring.decide.drift import DescriptorDrift

_COLUMNS = ("descriptor", "test", "before#", "after#", "effect#", "p adjusted#", "drifted")


def show_result(result: MonitorResult) -> None:
    """The whole app as a table, of slices and variants what drifted; then alarms or their absence, and the cure."""
    for place, part in enumerate(result.slices):
        where = " ".join(part.label.values())
        if place == 0:
            title = f"{result.app}: {row_count(result.window.rows)} against {result.reference.rows} of reference"
            _drift_table(title, part.descriptors)
        elif part.rows < result.window.rows and (drifted := _drifted(part.descriptors)):
            _drift_table(f"{where}: {row_count(part.rows)}", drifted)
    for comparison in result.canary:
        variants = comparison.variants
        title = f"{variants.kind}: {row_count(variants.after.rows)} of {variants.challenger or 'the challenger'} "
        title += f"against {variants.before.rows} of {variants.champion or 'the champion'}"
        if drifted := _drifted(comparison.drift.descriptors):
            _drift_table(title, drifted)
        else:
            echo(f"{title}: no difference")
        if not comparison.alike:
            echo("their questions differ, so that nothing is held against the challenger")
    _show_alarms(result)


def _show_alarms(result: MonitorResult) -> None:
    if result.failures:
        rows = sorted(result.failures.items(), key=lambda item: -item[1])
        print_table("rows that a descriptor could not be computed of", ("descriptor", "rows#"), rows)
    if result.not_compared:
        say(f"not in the reference as they are now, so not compared: {', '.join(result.not_compared)}")
    for alarm in result.alarms:
        echo(f"ALARM {alarm.what} ({alarm.kind}): {alarm.why}")
        if alarm.rows:
            echo(f"      see llmops log show {alarm.rows[0]}" + _more(len(alarm.rows) - 1))
    if result.alarms:
        echo(f"a rollback {'may help' if result.cure.helps else 'is no cure'}: {result.cure.why}")
    else:
        echo("no alarm" if not result.note else f"no alarm: {result.note}")
    budget = result.expected_false_alarms_per_month
    say(f"at most {budget:g} false alarms a month are expected, run daily")


def _drift_table(title: str, descriptors: Mapping[str, DescriptorDrift]) -> None:
    rows = [
        (name, drift.result.test, _shown(drift.before), _shown(drift.after), number(drift.result.effect),
         f"{drift.p_adjusted:.3g}", "yes" if drift.drifted else "")
        for name, drift in descriptors.items()
    ]  # fmt: skip
    print_table(title, _COLUMNS, rows)


def _drifted(descriptors: Mapping[str, DescriptorDrift]) -> dict[str, DescriptorDrift]:
    return {name: drift for name, drift in descriptors.items() if drift.drifted}


def _more(count: int) -> str:
    return f" and {count} more" if count else ""


def _shown(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)
