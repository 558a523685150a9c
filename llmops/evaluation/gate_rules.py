"""What a suite asks of a challenger: the gate's rules, as its TOML file writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmops.errors import UsageError

_RULES = ("better", "not-worse")
_KEYS = ("primary", "rule", "margin", "floors", "ceilings", "not_worse", "slice_floors")


@dataclass(frozen=True, slots=True)
class GateRules:
    """What a challenger must show.

    primary: the one scorer that decides, chosen beforehand, so that its p-value needs no correction. rule: `better`
    (significantly better than the champion) or `not-worse` (the interval of the difference stays above −margin, over 20
    pairs or more). not_worse: margins of further scorers that must not get worse by more; all of them must hold, so
    that testing several needs no correction either.
    floors, ceilings: least and most mean of a scorer, whatever the champion does; for a floor a row without a score
    counts as 0. slice_floors: by `tag=value`, the least mean of a scorer there.
    """

    primary: str
    rule: str = "better"
    margin: float = 0.0
    floors: Mapping[str, float] = field(default_factory=dict)
    ceilings: Mapping[str, float] = field(default_factory=dict)
    not_worse: Mapping[str, float] = field(default_factory=dict)
    slice_floors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> GateRules:
        """Raises UsageError whose text starts with the key at fault."""
        if unknown := sorted(values.keys() - set(_KEYS)):
            raise UsageError(f"{unknown[0]}: unknown key; known: {', '.join(_KEYS)}")
        if not isinstance(values.get("primary"), str):
            raise UsageError("primary: must name the scorer that decides")
        rule, margin = values.get("rule", "better"), values.get("margin", 0.0)
        if rule not in _RULES:
            raise UsageError(f"rule: must be one of {', '.join(_RULES)}")
        if not _is_number(margin) or margin < 0:
            raise UsageError("margin: must be a number of 0 or more")
        margins = _numbers(values, "not_worse")
        if any(number < 0 for number in margins.values()):
            raise UsageError("not_worse: margins must be numbers of 0 or more")
        slices = values.get("slice_floors", {})
        if not isinstance(slices, Mapping) or not all("=" in name for name in slices):
            raise UsageError("slice_floors: must be a table of `tag=value` and floors")
        by_slice = {name: _numbers(slices, name) for name in slices}
        return cls(
            values["primary"], rule, float(margin), _numbers(values, "floors"), _numbers(values, "ceilings"), margins,
            by_slice,
        )  # fmt: skip

    @property
    def scorers(self) -> Iterator[str]:
        """Names of all scorers that the rules speak of, the primary first."""
        yield self.primary
        yield from (*self.floors, *self.ceilings, *self.not_worse)
        for floors in self.slice_floors.values():
            yield from floors

    def to_json(self) -> dict[str, Any]:
        return {
            "primary": self.primary,
            "rule": self.rule,
            "margin": self.margin,
            "floors": dict(self.floors),
            "ceilings": dict(self.ceilings),
            "not_worse": dict(self.not_worse),
            "slice_floors": {name: dict(floors) for name, floors in self.slice_floors.items()},
        }


def _numbers(values: Mapping[str, Any], name: str) -> dict[str, float]:
    found = values.get(name, {})
    if not isinstance(found, Mapping) or not all(_is_number(number) for number in found.values()):
        raise UsageError(f"{name}: must give a number for each scorer")
    return {scorer: float(number) for scorer, number in found.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
