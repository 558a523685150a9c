"""A look at a canary's traffic: is the challenger worse than the champion on it?

The monitor compares both by the same tests in each window (`decide/variants.py`). Here they are compared once, over all
of the canary, and no reference is needed: the champion is it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from llmops.evaluation.gate_rules import MOST_FAILED

if TYPE_CHECKING:
    from monitoring.decide.variants import Variants
    from monitoring.descriptors import Descriptor
    from monitoring.store.summaries import Summary
    from monitoring.stores import Stores

_ERROR = "error"  # the flag of requests that the gateway or the engine failed, or refused
Verdict = Literal["pass", "fail", "inconclusive"]


def look(
    stores: Stores, app: str, since: datetime, until: datetime, minimum_rows: int, accepted: Sequence[str] = ()
) -> dict[str, Any] | None:
    """What is seen of the rows described so far, as `seen` gives it; None while there are too few.

    minimum_rows: of the challenger; the champion needs as many as the monitor's rules ask for. accepted: descriptors
    that may be worse, such as the latency of a longer prompt. Raises StoreUnavailable.
    """
    from monitoring.decide.variants import find_variants

    found = find_variants(stores.reader, app, since, until, stores.config.rules.minimum_rows)
    enough = [variants for variants in found if variants.kind == "canary" and variants.after.rows >= minimum_rows]
    return _judged(stores, enough[0], accepted) if enough else None


def seen(verdict: Verdict, why: str, canary: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """canary: the comparison, where there was one."""
    return {"verdict": verdict, "why": why, "canary": canary}


def too_few(stores: Stores, app: str, since: datetime, until: datetime, minimum_rows: int) -> str:
    """How many rows there are, and how many it takes. Raises StoreUnavailable."""
    from monitoring.store.rows import ARM

    variants = stores.reader.summary(app, since, until, ARM)
    challenger, champion = (variants[name].rows if name in variants else 0 for name in ("challenger", "champion"))
    least = stores.config.rules.minimum_rows
    return (
        f"too few requests by the deadline: {challenger} of the challenger ({minimum_rows} needed), {champion} of the "
        f"champion ({least} needed)"
    )


def _judged(stores: Stores, variants: Variants, accepted: Sequence[str]) -> dict[str, Any]:
    from monitoring.decide.variants import canary_alarms, compare_variants

    rules = stores.config.rules
    comparison = compare_variants(variants, _known_of(stores, variants), rules, rules.alpha(1))
    after, before = variants.after, variants.before
    rows = f"{after.rows} requests{_failed(after)} beside {before.rows}{_failed(before)} of the champion"
    if not comparison.alike:
        why = f"{rows}: the questions of both sides differ, so that they cannot be compared"
        return seen("inconclusive", why, comparison.to_json())
    alarms = [raised.alarm for raised in canary_alarms(comparison)]
    if refused := [alarm.why for alarm in alarms if alarm.what not in accepted]:
        return seen("fail", f"{rows}: worse on the same traffic: {'; '.join(refused)}", comparison.to_json())
    if max(_failed_share(after), _failed_share(before)) > MOST_FAILED:
        why = f"{rows}: more than {100 * MOST_FAILED:g} % of one side failed, so that what is left says little"
        return seen("inconclusive", why, comparison.to_json())
    rose = f" but {', '.join(alarm.what for alarm in alarms)}, which is accepted" if alarms else ""
    return seen("pass", f"{rows}: no harmful flag and no latency rose{rose}", comparison.to_json())


def _known_of(stores: Stores, variants: Variants) -> dict[str, Descriptor]:
    """What is known of the rows: descriptors, and what users said where they said something."""
    from monitoring.decide.drift import FEEDBACK

    said = {name: each for name, each in FEEDBACK.items() if _has(variants.before, name) and _has(variants.after, name)}
    return {**stores.config.descriptors.descriptors, **said}


def _failed(summary: Summary) -> str:
    """How many requests failed, where any did."""
    failed = summary.flags[_ERROR].hits if _ERROR in summary.flags else 0
    return f" ({failed} failed)" if failed else ""


def _failed_share(summary: Summary) -> float:
    found = summary.flags.get(_ERROR)
    return found.share if found is not None and found.n else 0.0


def _has(summary: Summary, name: str) -> bool:
    return name in summary.numbers or name in summary.labels
