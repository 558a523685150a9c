"""A look at a canary's traffic: is the challenger worse than the champion on it?

The monitor compares both by the same tests in each window (`decide/families.py`). Here they are compared once, over all
of the canary, and no reference is needed: the champion is it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from llmops.evaluation.gate_rules import MOST_FAILED
from monitoring.decide.drift import feedback_in
from monitoring.decide.families import canary_alarms, compare_variants, find_variants
from monitoring.store.rows import ARM
from monitoring.store.summaries import FlagSummary
from monitoring.stores import Stores

_ERROR = "error"  # the flag of requests that the gateway or the engine failed, or refused
Verdict = Literal["pass", "fail", "inconclusive"]


def look(
    stores: Stores, app: str, since: datetime, until: datetime, minimum_rows: int, accepted: Sequence[str] = ()
) -> dict[str, Any] | None:
    """What is seen of the rows described so far, as `seen` gives it; None while there are too few.

    minimum_rows: of the challenger; the champion needs as many as the monitor's rules ask for.
    accepted: descriptors that may be worse, such as the latency of a longer prompt.

    Raises StoreUnavailable.
    """
    rules = stores.config.rules
    both_arms = find_variants(stores.reader, app, since, until, rules.minimum_rows)
    enough = (each for each in both_arms if each.kind == "canary" and each.after.rows >= minimum_rows)
    variants = next(enough, None)
    if variants is None:
        return None
    sides = variants.after, variants.before
    descriptors = {**stores.config.descriptors.descriptors, **feedback_in(*sides)}
    comparison = compare_variants(variants, descriptors, rules, rules.alpha(1))
    errors = [side.flags.get(_ERROR, FlagSummary()) for side in sides]
    failed = [f" ({each.hits} failed)" if each.hits else "" for each in errors]
    rows = f"{variants.after.rows} requests{failed[0]} beside {variants.before.rows}{failed[1]} of the champion"
    alarms = canary_alarms(comparison)
    verdict: Verdict = "inconclusive"
    if not comparison.alike:
        why = "the questions of both sides differ, so that they cannot be compared"
    elif refused := [alarm.why for alarm in alarms if alarm.what not in accepted]:
        verdict, why = "fail", f"worse on the same traffic: {'; '.join(refused)}"
    elif any(each.share > MOST_FAILED for each in errors):
        why = f"more than {100 * MOST_FAILED:g} % of one side failed, so that what is left says little"
    else:
        rose = f" but {', '.join(alarm.what for alarm in alarms)}, which is accepted" if alarms else ""
        verdict, why = "pass", f"no harmful flag and no latency rose{rose}"
    return seen(verdict, f"{rows}: {why}", comparison.to_json())


def seen(verdict: Verdict, why: str, canary: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """canary: the comparison, where there was one."""
    return {"verdict": verdict, "why": why, "canary": canary}


def too_few(stores: Stores, app: str, since: datetime, until: datetime, minimum_rows: int) -> str:
    """How many rows there are, and how many it takes. Raises StoreUnavailable."""
    variants = stores.reader.by_value(app, since, until, ARM)
    challenger, champion = (variants[name].rows if name in variants else 0 for name in ("challenger", "champion"))
    return (
        f"too few requests by the deadline: {challenger} of the challenger ({minimum_rows} needed), {champion} of the "
        f"champion ({stores.config.rules.minimum_rows} needed)"
    )
