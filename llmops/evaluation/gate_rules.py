"""What a suite asks of a challenger: the gate's rules, as its TOML file writes them; `gate.py` checks them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, Strict

from llmops.hashing import JsonData
from llmops.text_io import checked

MOST_FAILED = 0.1

Number = Annotated[float, Strict()]
Margin = Annotated[float, Strict(), Field(ge=0)]
Slice = Annotated[str, Field(pattern="=")]


@dataclass(frozen=True, slots=True)
class GateRules(JsonData):
    """What a challenger must show.

    primary: the one scorer that decides, chosen beforehand, so that its p-value needs no correction.
    rule: `better` (significantly better than the champion) or `not-worse` (the interval of the difference stays above
        −margin, over 20 pairs or more).
    not_worse: margins of further scorers that must not get worse by more; all of them must hold, so that testing
        several needs no correction either.
    floors, ceilings: least and most mean of a scorer, whatever the champion does.
    slice_floors: by `tag=value`, the least mean of a scorer there.
    bounds: what floors and ceilings are held against: the `mean` of these rows, or its 95 % `interval`, which speaks of
        rows like these and must lie on one side as a whole to pass or to fail.
    most_failed: share of a run's rows that may lack a score, or a partner in the other run, and of the suite's rows
        that may not have been run, before the gate says nothing.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    primary: str
    rule: Literal["better", "not-worse"] = "better"
    margin: Margin = 0.0
    floors: Mapping[str, Number] = field(default_factory=dict)
    ceilings: Mapping[str, Number] = field(default_factory=dict)
    not_worse: Mapping[str, Margin] = field(default_factory=dict)
    slice_floors: Mapping[Slice, Mapping[str, Number]] = field(default_factory=dict)
    bounds: Literal["mean", "interval"] = "mean"
    most_failed: Annotated[float, Strict(), Field(ge=0, le=1)] = MOST_FAILED

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Raises UsageError whose text starts with the key at fault."""
        return checked(cls, values)

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
        if self.bounds == "interval":
            said.append("floors and ceilings hold for the 95 % interval")
        for part, floors in self.slice_floors.items():
            said += [f"{scorer} in {part} at least {value:g}" for scorer, value in floors.items()]
        return "; ".join(said)


def loosened(old: GateRules, new: GateRules) -> dict[str, str]:
    """What `new` asks less of a challenger than `old`: by the rule's name, in words."""
    changes = {}
    if old.primary != new.primary:
        changes["primary"] = f"{new.primary} decides in place of {old.primary}"
    elif old.rule == "better" and new.rule == "not-worse":
        changes["rule"] = f"{new.primary} need no longer be better, only not worse by {new.margin:g} or more"
    elif old.rule == new.rule == "not-worse" and new.margin > old.margin:
        changes["margin"] = f"{new.primary} margin raised from {old.margin:g} to {new.margin:g}"
    bounds = [
        ("{} floor", old.floors, new.floors, True),
        ("{} ceiling", old.ceilings, new.ceilings, False),
        ("{} margin", old.not_worse, new.not_worse, False),
        *(
            (f"{{}} floor in {part}", floors, new.slice_floors.get(part, {}), True)
            for part, floors in old.slice_floors.items()
        ),
        ("{}", {"most_failed": old.most_failed}, {"most_failed": new.most_failed}, False),
    ]
    for name, before, after, is_floor in bounds:
        for scorer, was in before.items():
            rule, now = name.format(scorer), after.get(scorer)
            if now is None:
                changes[rule] = f"{rule} of {was:g} dropped"
            elif (now < was) if is_floor else (now > was):
                changes[rule] = f"{rule} {'lowered' if is_floor else 'raised'} from {was:g} to {now:g}"
    if old.bounds == "interval" and new.bounds == "mean":
        changes["bounds"] = "floors and ceilings are held against the mean, no longer against its interval"
    return changes
