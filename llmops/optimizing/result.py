"""What an optimisation found, and what is left of it on rows that nobody chose by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from llmops.evaluation.metric_comparison import PairedScores
from llmops.evaluation.scorers import Scorer
from llmops.evaluation.statistics import MeanEstimate, cluster_sums, estimate_mean, t_quantile
from llmops.pages.numbers import counted, number, shortened, signed
from llmops.pages.tables import Block, Shown, Table

_MOST_SHOWN = 10


@dataclass(frozen=True)
class Optimization(Shown):
    """One optimisation. `to_pandas` has a line for each candidate, the best first.

    in_points: scores lie within 0 and 1, and differences are told in hundredths.
    rows: how many were used to show, to choose and to judge.
    best: the chosen candidate; None where none was better than the current prompt on the rows of selection.
    file: where it was written; None where it was not, because the gate failed it or there is none.
    selection: the deciding metric on the rows that chose it, as a comparison has it: optimistic.
    held_out: the same on held-out rows, with the gate's `verdict` and `reasons`; None where these were not read.
    optimism: gain on selection less that on held-out rows, with a 95 % interval.
    candidates: what was tried, with the mean at each rung that it reached.
    rejected: texts that were turned away, by why.
    in_current: ids of the rows of which the current prompt itself holds pieces.
    spent: `answers`, `tokens_in`, `tokens_out` and `cost` of choosing.
    """

    suite: str
    prompt: str
    model: str
    optimizer: str
    primary: str
    in_points: bool
    seed: int
    budget: int
    run_id: str
    rows: Mapping[str, int]
    best: Mapping[str, Any] | None
    file: str | None
    selection: Mapping[str, Any]
    held_out: Mapping[str, Any] | None
    optimism: Mapping[str, Any] | None
    candidates: Sequence[Mapping[str, Any]]
    rungs: Sequence[Mapping[str, int]]
    rejected: Mapping[str, int]
    in_current: Sequence[str]
    spent: Mapping[str, Any]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Optimization:
        """Reads what `to_dict` gave."""
        return cls(**{each.name: values[each.name] for each in fields(cls)})

    def to_dict(self) -> dict[str, Any]:
        return {**{each.name: getattr(self, each.name) for each in fields(self)}, "tried": len(self.candidates)}

    @property
    def passed(self) -> bool:
        """Whether the gate passed the best candidate on held-out rows."""
        return self.held_out is not None and self.held_out["verdict"] == "pass"

    @property
    def origin(self) -> str:
        """What the prompt file says of itself."""
        found = f"Chosen from {len(self.candidates)} candidates by suite {self.suite} to replace {self.prompt}"
        return (
            f"{found}: {self._difference(self.held_out)} on {self.rows['held_out']} held-out rows (run {self.run_id})."
        )

    def _difference(self, metric: Mapping[str, Any] | None) -> str:
        """`+3.2 points, 95 % −0.4 to 6.8`."""
        if metric is None or metric.get("difference") is None:
            return "not compared"
        scale, unit = (100, " points") if self.in_points else (1, "")
        write = (lambda value: f"{value:+.1f}".replace("-", "−")) if self.in_points else signed
        ends = None if metric["ci95"] is None else [write(scale * end) for end in metric["ci95"]]
        return f"{write(scale * metric['difference'])}{unit}, 95 % {' to '.join(ends) if ends else 'unknown'}"

    def blocks(self) -> Iterator[Block]:
        yield self._table()
        rows = self.rows
        current = f"{self.primary} {number(self.selection['a'])} on the {rows['selection']} rows to choose by"
        yield f"current {self.prompt}: {current}"
        if self.best is None or self.held_out is None:
            yield f"none of {counted(len(self.candidates), 'candidate')} was better there: held-out rows were not read"
            return
        yield f"best: {self._difference(self.selection)}, on the {rows['selection']} rows it was chosen by"
        yield f"held out: {self._difference(self.held_out)}, on {rows['held_out']} rows that nobody chose by"
        yield f"optimism: {self._difference(self.optimism)}"
        yield f"gate {self.suite}, held-out rows: {self.held_out['verdict']}"
        yield from (f"  {reason}" for reason in self.held_out["reasons"])

    def _table(self) -> Table:
        heads = [f"{rung['candidates']} on {counted(rung['rows'], 'row')}#" for rung in self.rungs]
        lines = [
            (
                rank,
                each["instruction"],
                ", ".join(each["demonstrations"]) or ("the current ones" if each["keeps_examples"] else "none"),
                *(number(score) for score in each["scores"]),
                *[""] * (len(heads) - len(each["scores"])),
            )
            for rank, each in enumerate(self.candidates[:_MOST_SHOWN], 1)
        ]
        title = f"{len(self.candidates)} candidates for {self.prompt} on {self.model}: mean {self.primary} at each rung"
        spent = f"{counted(self.spent['answers'], 'answer')}, seed {self.seed}, MLflow run {self.run_id}"
        return Table(title, ("#", "instruction", "examples", *heads), lines, spent)

    @property
    def notes(self) -> list[str]:
        notes = [f"note: {count} rejected: {why}" for why, count in sorted(self.rejected.items())]
        if self.in_current:
            held = shortened(", ".join(self.in_current), 80)
            notes.append(f"note: {self.prompt} itself holds pieces of rows that choose or judge: {held}")
        if self.file is not None:
            notes.append(
                f"wrote {self.file}; nothing is registered: `llmops prompts register {self.prompt.partition('@')[0]}`"
            )
        return notes

    @property
    def metrics(self) -> dict[str, float | None]:
        """Every number of MLflow's run."""
        found: dict[str, float | None] = {"tried": len(self.candidates), "rejected": sum(self.rejected.values())}
        found |= {f"rows/{name}": count for name, count in self.rows.items()} | dict(self.spent)
        for name, metric in (("selection", self.selection), ("held_out", self.held_out), ("optimism", self.optimism)):
            if metric is not None and metric.get("difference") is not None:
                low, high = metric["ci95"] or (None, None)
                found |= {f"{name}/difference": metric["difference"], f"{name}/low": low, f"{name}/high": high}
        return found

    @property
    def table(self) -> dict[str, list[Any]]:
        """The candidates as columns, for MLflow."""
        columns: dict[str, list[Any]] = {"rank": list(range(1, len(self.candidates) + 1))}
        for name in ("instruction", "demonstrations", "keeps_examples", "prompt"):
            columns[name] = [each[name] for each in self.candidates]
        for position, rung in enumerate(self.rungs):
            means = [each["scores"][position] if position < len(each["scores"]) else None for each in self.candidates]
            columns[f"mean on {rung['rows']} rows"] = means
        return columns

    def records(self) -> Sequence[Mapping[str, Any]]:
        return self.candidates


def gain_of(
    scorer: Scorer, before: Sequence[float], after: Sequence[float], clusters: Sequence[str] | None
) -> MeanEstimate:
    """How much better `after` is than `before`, row by row, with its error. NaN: a row without a score."""
    import numpy as np

    failed = PairedScores.of(scorer, before, after).failed_as or 0.0
    a, b = (np.asarray(values) for values in (before, after))
    a, b = (np.where(np.isnan(values), failed, values) for values in (a, b))
    sign = 1.0 if scorer.higher_is_better else -1.0
    return estimate_mean(*cluster_sums(sign * (b - a), clusters))


def optimism_of(selection: MeanEstimate, held_out: MeanEstimate) -> dict[str, Any]:
    """By how much the gain on the rows of selection is greater than that on held-out rows, which are other rows: with
    Welch's 95 % interval ("The generalization of Student's problem when several different population variances are
    involved", 1947)."""
    variances = selection.error**2, held_out.error**2
    error = sum(variances) ** 0.5
    spread = sum(
        variance**2 / each.degrees
        for variance, each in zip(variances, (selection, held_out), strict=True)
        if each.degrees
    )
    reach = t_quantile(error**4 / spread) * error if spread else 0.0
    difference = selection.mean - held_out.mean
    return {"difference": difference, "ci95": [difference - reach, difference + reach]}
