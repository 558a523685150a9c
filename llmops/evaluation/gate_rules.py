"""What a suite asks of a challenger: the gate's rules, as its TOML file writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmops.errors import UsageError

_RULES = ("better", "not-worse")
MOST_FAILED = 0.1


@dataclass(frozen=True, slots=True)
class GateRules:
    """What a challenger must show.

    primary: the one scorer that decides, chosen beforehand, so that its p-value needs no correction. rule: `better`
    (significantly better than the champion) or `not-worse` (the interval of the difference stays above −margin, over 20
    pairs or more). not_worse: margins of further scorers that must not get worse by more; all of them must hold, so
    that testing several needs no correction either.
    floors, ceilings: least and most mean of a scorer, whatever the champion does. slice_floors: by `tag=value`, the
    least mean of a scorer there. most_failed: share of a run's rows that may lack a score, or a partner in the other
    run, and of the suite's rows that may not have been run, before the gate says nothing.
    """

    primary: str
    rule: str = "better"
    margin: float = 0.0
    floors: Mapping[str, float] = field(default_factory=dict)
    ceilings: Mapping[str, float] = field(default_factory=dict)
    not_worse: Mapping[str, float] = field(default_factory=dict)
    slice_floors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    most_failed: float = MOST_FAILED

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> GateRules:
        """Raises UsageError whose text starts with the key at fault."""
        known = cls.__dataclass_fields__
        if unknown := sorted(values.keys() - known.keys()):
            raise UsageError(f"{unknown[0]}: unknown key; known: {', '.join(known)}")
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
        most_failed = values.get("most_failed", MOST_FAILED)
        if not _is_number(most_failed) or not 0 <= most_failed <= 1:
            raise UsageError("most_failed: must be a share from 0 to 1")
        return cls(
            primary=values["primary"],
            rule=rule,
            margin=float(margin),
            floors=_numbers(values, "floors"),
            ceilings=_numbers(values, "ceilings"),
            not_worse=margins,
            slice_floors=by_slice,
            most_failed=float(most_failed),
        )

    @property
    def scorers(self) -> Iterator[str]:
        """Names of all scorers that the rules speak of, the primary first."""
        yield self.primary
        yield from (*self.floors, *self.ceilings, *self.not_worse)
        for floors in self.slice_floors.values():
            yield from floors

    def sentence(self) -> str:
        """The rules in words."""
        margin = f" by {self.margin:g} or more" if self.rule == "not-worse" else ""
        said = [f"{self.primary} decides: {self.rule}{margin}"]
        for bounds, words in ((self.floors, "at least"), (self.ceilings, "at most"), (self.not_worse, "not worse by")):
            said += [f"{scorer} {words} {value:g}" for scorer, value in bounds.items()]
        for part, floors in self.slice_floors.items():
            said += [f"{scorer} in {part} at least {value:g}" for scorer, value in floors.items()]
        return "; ".join(said)

    def to_json(self) -> dict[str, Any]:
        return {
            "primary": self.primary,
            "rule": self.rule,
            "margin": self.margin,
            "floors": dict(self.floors),
            "ceilings": dict(self.ceilings),
            "not_worse": dict(self.not_worse),
            "slice_floors": {name: dict(floors) for name, floors in self.slice_floors.items()},
            "most_failed": self.most_failed,
        }


def loosened(old: GateRules, new: GateRules) -> dict[str, str]:
    """What `new` asks less of a challenger than `old`: by the rule's name, in words."""
    found = {}
    if old.primary != new.primary:
        found["primary"] = f"{new.primary} decides in place of {old.primary}"
    elif old.rule == "better" and new.rule == "not-worse":
        found["rule"] = f"{new.primary} need no longer be better, only not worse by {new.margin:g} or more"
    elif old.rule == new.rule == "not-worse" and new.margin > old.margin:
        found["margin"] = f"{new.primary} margin raised from {old.margin:g} to {new.margin:g}"
    found.update(_moved(old.floors, new.floors, "{} floor", lowered=True))
    found.update(_moved(old.ceilings, new.ceilings, "{} ceiling", lowered=False))
    found.update(_moved(old.not_worse, new.not_worse, "{} margin", lowered=False))
    for part, floors in old.slice_floors.items():
        found.update(_moved(floors, new.slice_floors.get(part, {}), f"{{}} floor in {part}", lowered=True))
    if new.most_failed > old.most_failed:
        found["most_failed"] = f"most_failed raised from {old.most_failed:g} to {new.most_failed:g}"
    return found


def _moved(
    old: Mapping[str, float], new: Mapping[str, float], name: str, *, lowered: bool
) -> Iterator[tuple[str, str]]:
    """The bounds of `old` that `new` has no more, or has moved to the lenient side."""
    for scorer, was in old.items():
        rule, now = name.format(scorer), new.get(scorer)
        if now is None:
            yield rule, f"{rule} of {was:g} dropped"
        elif (now < was) if lowered else (now > was):
            yield rule, f"{rule} {'lowered' if lowered else 'raised'} from {was:g} to {now:g}"


def _numbers(values: Mapping[str, Any], name: str) -> dict[str, float]:
    found = values.get(name, {})
    if not isinstance(found, Mapping) or not all(_is_number(number) for number in found.values()):
        raise UsageError(f"{name}: must give a number for each scorer")
    return {scorer: float(number) for scorer, number in found.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
