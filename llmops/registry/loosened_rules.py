"""Which rules of a gate were loosened, when and by whom: from the gates on the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from llmops.audit import AuditLog
from llmops.evaluation.gate_rules import GateRules, loosened


def loosened_since(
    audit: AuditLog, name: str, suite: str, champion: str | None, rules: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What `rules` ask less than the rules of earlier gates of the suite, on any version of an app or model, from the
    last gate of its champion on (without a champion: from the first gate on).

    Gives `{"rule", "by", "at"}` for each: the change in words, who first gated by the looser rule, and when (None:
    nobody before). Gates put on record before their rules were say nothing. Raises StoreUnavailable, Corrupted.
    """
    gates = [
        entry
        for entry in audit.entries(name)
        if entry.action == "gate" and entry.details.get("suite") == suite and entry.details.get("rules")
    ]
    of_champion = [place for place, entry in enumerate(gates) if entry.subject == champion]
    gates = gates[of_champion[-1] if of_champion else 0 :]
    now = GateRules.from_mapping(rules)
    seen = [(GateRules.from_mapping(gate.details["rules"]), gate.actor, gate.at) for gate in gates]
    found: dict[str, dict[str, Any]] = {}
    for (before, _, _), (after, actor, at) in pairwise([*seen, (now, audit.actor, None)]):
        still = loosened(before, now)
        for rule, words in loosened(before, after).items():
            if rule in still:
                found[rule] = {"rule": words, "by": actor, "at": at}
    return list(found.values())
