"""Suites: `eval_sets/<suite>.toml`, one task each: eval sets, prompt, default model, scorers, gate."""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, Strict

from llmops.errors import BadFile, CannotRun, UnknownVersion, UsageError
from llmops.evaluation.eval_set import EvalSet, Rows, cluster_of
from llmops.evaluation.eval_set_source import eval_set_of_table, find_eval_set
from llmops.evaluation.gate_rules import GateRules
from llmops.evaluation.record_files import SourceAccess
from llmops.evaluation.scorers import Scorer, make_scorer, try_scorer
from llmops.evaluation.scorers.function import FUNCTION, FunctionScorer
from llmops.evaluation.scorers.protocol import limits_of
from llmops.hashing import JsonData, content_hash
from llmops.text_io import checked, read_json, read_toml

KAPPA_ASKED = 0.6  # what a judge must agree with people by, unless its table says otherwise


@dataclass(frozen=True, slots=True)
class ScorerSpec(JsonData):
    """A scorer as the suite asks for it."""

    name: str
    type: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


JudgeTables = Mapping[str, Mapping[str, Any]]
MakeScorer = Callable[[ScorerSpec, JudgeTables], Scorer | None]


def make_built_in(spec: ScorerSpec, judges: JudgeTables) -> Scorer | None:  # noqa: ARG001 - as MakeScorer
    """The scorers that need no judge and no embedding model. Raises UsageError."""
    return make_scorer(spec.name, spec.type, spec.parameters)


@dataclass(frozen=True, slots=True)
class Suite:
    """One evaluation task. `make_scorers` gives fresh scorers.

    cluster_by: what rows of one source have in common (`tags.NAME`, `inputs.NAME` or `contexts`), as `cluster_of`
    reads it. judges: what the suite says of its judges, by name. choices: rows are multiple choice. left_out: names of
    the scorers that need a judge and have none.
    """

    name: str
    description: str
    eval_sets: tuple[EvalSet, ...]
    prompt: str
    model: str
    scorer_specs: tuple[ScorerSpec, ...]
    gate: GateRules
    cluster_by: str | None = None
    judges: JudgeTables = field(default_factory=dict)
    choices: bool = False
    make: MakeScorer = make_built_in
    path: Path | None = None
    left_out: tuple[str, ...] = ()

    @property
    def rows(self) -> Rows:
        """Rows of all eval sets, in order; read anew on every pass."""
        return Rows(lambda: chain.from_iterable(eval_set.rows for eval_set in self.eval_sets))

    @property
    def n_rows(self) -> int:
        return sum(eval_set.n_rows for eval_set in self.eval_sets)

    @property
    def rows_hash(self) -> str:
        """Identity of all rows, and of the eval sets that they come from."""
        return content_hash({eval_set.name: eval_set.content_hash for eval_set in self.eval_sets})

    def make_scorers(self) -> list[Scorer]:
        """All but the judges' scorers for which no judge is configured."""
        return [made for spec in self.scorer_specs if (made := self.make(spec, self.judges)) is not None]

    def try_scorers(self) -> None:
        """Scores a made-up row with each scorer that needs no model, so that a wrong option or a library that is not
        there shows before the first answer is generated. Raises BadFile, naming file, scorer and option."""
        for spec in self.scorer_specs:
            try:
                if (scorer := self.make(spec, self.judges)) is not None:
                    try_scorer(scorer)
            except UsageError as error:
                problem, path = str(error), self.path or Path(f"{self.name}.toml")
                if spec.parameters and "; options of " not in problem:  # one of those set may be the cause
                    given = ", ".join(f"{name} = {value!r}" for name, value in spec.parameters.items())
                    problem += f"; set here: {given}"
                raise BadFile(path, problem, field=f"scorers.{spec.name}") from error

    def kappa_asked(self, scorer: str) -> float:
        """What the judge of that scorer must agree with people by before it may gate."""
        spec = next(spec for spec in self.scorer_specs if spec.name == scorer)
        name = spec.parameters.get("judge") or (next(iter(self.judges)) if len(self.judges) == 1 else None)
        return float(self.judges.get(name or "", {}).get("kappa", KAPPA_ASKED))


def primary_scorer(suite: Suite) -> Scorer | None:
    """The scorer that decides; None when it is a judge's and there is no judge."""
    return next((scorer for scorer in suite.make_scorers() if scorer.name == suite.gate.primary), None)


def suite_names(folder: Path) -> list[str]:
    """Names of the suites in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def readable_suites(folder: Path, load: Callable[[str], Suite]) -> tuple[list[Suite], dict[str, CannotRun]]:
    """The suites in `folder` that `load` can read, by name; and of the others, what is wrong with each: one broken file
    hides none of the rest."""
    read: list[Suite] = []
    broken: dict[str, CannotRun] = {}
    for name in suite_names(folder):
        try:
            read.append(load(name))
        except CannotRun as error:
            broken[name] = error
    return read, broken


Text = Annotated[str, Field(min_length=1)]
Kappa = Annotated[float, Strict(), Field(ge=-1, le=1)]


@dataclass(frozen=True, slots=True)
class _SuiteFile:
    """What the TOML file of a suite holds."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    eval_sets: Annotated[list[Any], Field(min_length=1)]
    prompt: Text
    model: Text
    scorers: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    gate: GateRules
    description: str = ""
    cluster_by: Annotated[str, Field(pattern=r"^(contexts|(tags|inputs)\..+)$")] | None = None
    judges: dict[str, dict[str, Any]] = field(default_factory=dict)
    choices: Annotated[bool, Strict()] = False


def load_suite(folder: Path, name: str, access: SourceAccess | None = None, make: MakeScorer = make_built_in) -> Suite:
    """Reads `folder/<name>.toml` and its eval sets, every row of them; its scorers are not tried, since that loads
    their libraries, which takes seconds.

    access: to data sets of the hub.
    make: gives a scorer of what the suite says of it, or None where it needs a judge that is not configured.

    Raises UnknownVersion: there is no such suite. BadFile: naming file and field.
    """
    path = folder / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(suite_names(folder)) or "none"
        raise UnknownVersion(f"no suite {name!r} in {folder}; there are {known}")
    try:
        file = checked(_SuiteFile, {"scorers": {}, "gate": {}, **read_toml(path)})
        judges = {f"judges.{judge}.kappa": given["kappa"] for judge, given in file.judges.items() if "kappa" in given}
        checked(dict[str, Kappa], judges)
    except UsageError as error:
        raise BadFile.of(error, path) from error
    if "@" in file.prompt:
        problem = f"must be a prompt's name; one version of it is run with --prompt {file.prompt}"
        raise BadFile(path, problem, field="prompt")
    scorers = _scorers(file, path, make)
    _check_gate(file.gate, {spec.name: scorer for spec, scorer in scorers}, path)
    suite = Suite(
        name=name,
        description=file.description,
        eval_sets=_eval_sets(file, path, access),
        prompt=file.prompt,
        model=file.model,
        scorer_specs=tuple(spec for spec, _ in scorers),
        gate=file.gate,
        cluster_by=file.cluster_by,
        judges=file.judges,
        choices=file.choices,
        make=make,
        path=path,
        left_out=tuple(spec.name for spec, scorer in scorers if scorer is None),
    )
    if suite.cluster_by is not None and not any(cluster_of(row, suite.cluster_by) for row in suite.rows):
        raise BadFile(path, f"no row has {suite.cluster_by}", field="cluster_by")
    return suite


def suite_of(
    name: str,
    base: Suite | None,
    eval_set: EvalSet | None,
    scorers: Sequence[FunctionScorer | str],
    gate: Mapping[str, Any] | None,
    make: MakeScorer = make_built_in,
) -> Suite:
    """A suite that is put together in Python.

    Args:
        name: of it.
        base: what it begins with; None: nothing.
        eval_set: in place of the base's.
        scorers: beside the base's: functions, and names of types that have no options.
        gate: rules in place of the base's, as `GateRules` has them; the first scorer decides where they do not say so.
        make: as `load_suite` takes it.

    Raises UsageError, BadFile: something is missing, or the rules do not go with the scorers.
    """
    if base is None and (eval_set is None or not scorers):
        raise UsageError(f"{name}: a suite without a file needs rows and scorers")
    functions = {each.name: each for each in scorers if isinstance(each, FunctionScorer)}
    own = [
        ScorerSpec(each, each) if isinstance(each, str) else ScorerSpec(each.name, FUNCTION, dict(each.identity))
        for each in scorers
    ]
    replaced = {spec.name for spec in own}
    specs = (*(spec for spec in (base.scorer_specs if base else ()) if spec.name not in replaced), *own)
    makes = base.make if base else make

    def made(spec: ScorerSpec, judges: JudgeTables) -> Scorer | None:
        return functions[spec.name] if spec.name in functions else makes(spec, judges)

    given = {} if gate is None else dict(gate)
    rules = base.gate if base and gate is None else GateRules.from_mapping({"primary": specs[0].name, **given})
    blank = Suite(name, "", (), "", "", (), rules)
    suite = replace(base or blank, scorer_specs=specs, gate=rules, make=made)
    if eval_set is not None:
        suite = replace(suite, eval_sets=(eval_set,))
    by_name = {spec.name: made(spec, suite.judges) for spec in specs}
    _check_gate(rules, by_name, Path(name))
    return replace(suite, left_out=tuple(each for each, scorer in by_name.items() if scorer is None))


def _scorers(file: _SuiteFile, path: Path, make: MakeScorer) -> list[tuple[ScorerSpec, Scorer | None]]:
    """Each scorer as the suite asks for it, and made; None: one whose judge is not configured."""
    made = []
    for name, given in file.scorers.items():
        parameters = {key: item for key, item in given.items() if key != "type"}
        if "schema_file" in parameters:
            try:
                parameters["schema"] = read_json(path.parent / str(parameters.pop("schema_file")))
            except BadFile as error:
                field = f"scorers.{name}.schema_file"
                raise BadFile(error.path, error.problem, line=error.line, field=field) from error
        spec = ScorerSpec(name, str(given.get("type", name)), parameters)
        try:
            made.append((spec, make(spec, file.judges)))
        except UsageError as error:
            raise BadFile(path, str(error), field=f"scorers.{name}") from error
    return made


def _eval_sets(file: _SuiteFile, path: Path, access: SourceAccess | None) -> tuple[EvalSet, ...]:
    """Names of folders or data files beside the suite, or tables that `eval_set_source` reads."""
    for entry in file.eval_sets:
        if not isinstance(entry, (str, dict)):
            raise BadFile(path, "must be a list of names or tables", field="eval_sets")
        if isinstance(entry, str) and not (path.parent / entry).exists():
            near = difflib.get_close_matches(entry, [found.name for found in path.parent.iterdir()], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadFile(path, f"no folder or file {entry!r} beside the suite{hint}", field="eval_sets")
    eval_sets = tuple(
        find_eval_set(path.parent / entry, access)
        if isinstance(entry, str)
        else eval_set_of_table(entry, path, access, key=f"eval_sets[{position}]")
        for position, entry in enumerate(file.eval_sets)
    )
    seen: set[int] = set()  # hashes, as in `without_repeats`
    for row in chain.from_iterable(eval_set.rows for eval_set in eval_sets if len(eval_sets) > 1):
        if hash(row.id) in seen:
            raise BadFile(path, f"row id {row.id!r} stands in two eval sets", field="eval_sets")
        seen.add(hash(row.id))
    return eval_sets


def _check_gate(rules: GateRules, scorers: Mapping[str, Scorer | None], path: Path) -> None:
    """That the rules speak of the suite's scorers, and bound them by values that they can have. Raises BadFile."""
    for name in rules.scorers:
        if name not in scorers:
            raise BadFile(path, f"names {name!r}, which is no scorer of this suite", field="gate")
    if rules.margin and rules.rule != "not-worse":
        raise BadFile(path, "goes with rule = 'not-worse', and this rule does not read it", field="gate.margin")
    by_slice = {f"slice_floors.{part}": floors for part, floors in rules.slice_floors.items()}
    for key, bounds in {"floors": rules.floors, "ceilings": rules.ceilings, **by_slice}.items():
        for name, bound in bounds.items():
            scorer = scorers[name]
            low, high = (-math.inf, math.inf) if scorer is None else limits_of(scorer)
            if not (math.isfinite(bound) and low <= bound <= high):
                problem = f"{bound:g} is none of {name}'s values, which lie from {low:g} to {high:g}"
                raise BadFile(path, problem, field=f"gate.{key}.{name}")
