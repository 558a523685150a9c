"""A scorer is tried on a made-up row: what crashes on every row is found when the suite loads."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import BadFile, UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import SCORER_TYPES, Scorer, make_scorer
from llmops.evaluation.scorers.protocol import Correctness, MissingExpectation
from llmops.evaluation.scorers.similarity import SemanticSimilarity
from llmops.evaluation.scorers.trial import try_scorer
from llmops.evaluation.suite import ScorerSpec, load_suite

NEEDED: dict[str, dict[str, Any]] = {
    "json_schema": {"schema": {"type": "object"}},
    "cost": {"per_million_in": 1, "per_million_out": 2},
    "regex": {"pattern": "4"},
}


class Crashing(Correctness):
    """Fails as the function tells it to."""

    def __init__(self, name: str, answer: Callable[[Output], Score], mode: str = "best") -> None:
        super().__init__(name)
        self._answer, self.mode = answer, mode

    def score(self, row: EvalRow, output: Output) -> Score:
        return self._answer(output)


def raising(error: Exception) -> Callable[[Output], Score]:
    def answer(_: Output) -> Score:
        raise error

    return answer


@pytest.mark.parametrize("type_name", sorted(SCORER_TYPES.keys() - {"semantic_similarity"}))
def test_every_type_that_ships_can_score_the_made_up_row(type_name: str) -> None:
    try_scorer(make_scorer("s", type_name, NEEDED.get(type_name, {})))


@pytest.mark.parametrize("error", [KeyError("cosine"), ImportError("no module named spacy"), ValueError("bad mode")])
def test_a_crash_is_a_usage_error_that_tells_it(error: Exception) -> None:
    with pytest.raises(UsageError, match=f"cannot score a made-up row: {type(error).__name__}: "):
        try_scorer(Crashing("s", raising(error)))


def test_an_error_in_place_of_every_score_is_one_and_in_place_of_some_is_none() -> None:
    with pytest.raises(UsageError, match="cannot score a made-up row: no licence"):
        try_scorer(Crashing("s", lambda _: Score(error="no licence")))
    try_scorer(Crashing("s", lambda output: Score(error="no words") if not output.text else Score(True)))


def test_a_scorer_for_rows_of_another_kind_is_content() -> None:
    try_scorer(Crashing("s", raising(MissingExpectation("needs a picture"))))


def test_a_scorer_that_depends_on_a_model_is_not_tried() -> None:
    asked: list[Any] = []

    try_scorer(SemanticSimilarity("s", embed=asked.append))

    assert asked == []


def folder_of(folder: Path, scorers: str) -> Path:
    (folder / "sums").mkdir()
    row = {"id": "r1", "inputs": {"question": "How many?"}, "expectations": {"answers": ["4"]}}
    (folder / "sums" / "rows.jsonl").write_text(json.dumps(row))
    head = 'eval_sets = ["sums"]\nprompt = "qa"\nmodel = "tiny@1"\n'
    (folder / "task.toml").write_text(f'{head}{scorers}\n[gate]\nprimary = "odd"\n')
    return folder


def making(answer: Callable[[Output], Score]) -> Callable[[ScorerSpec, Mapping[str, Any]], Scorer]:
    types = {**SCORER_TYPES, "crashing": functools.partial(Crashing, answer=answer)}
    return lambda spec, _: make_scorer(spec.name, spec.type, spec.parameters, types)


def test_a_suite_that_loads_has_tried_its_scorers_and_names_file_scorer_and_options(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, '[scorers.odd]\ntype = "crashing"\nmode = "cosine"')

    with pytest.raises(BadFile) as caught:
        load_suite(folder, "task", make=making(raising(KeyError("cosine"))))

    problem = "cannot score a made-up row: KeyError: 'cosine'; set here: mode = 'cosine'"
    assert str(caught.value) == f"{folder / 'task.toml'}: scorers.odd: {problem}"


def test_a_suite_that_is_only_listed_loads_without_a_trial(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, '[scorers.odd]\ntype = "crashing"')
    make = making(raising(KeyError("cosine")))

    suite = load_suite(folder, "task", make=make, try_scorers=False)

    with pytest.raises(BadFile, match=r"scorers\.odd: cannot score a made-up row"):
        suite.try_scorers()


@pytest.mark.parametrize(
    ("scorer", "problem"),
    [
        (
            'type = "contains"\nwher = "end"',
            "contains: has no option 'wher'; options of contains: texts = none, where = ",
        ),
        ('type = "contains"\nwhere = 3', "where: must be one of anywhere, start, end, not 3; options of contains: "),
        ('type = "cost"\nper_million_in = 1', "cost: the option 'per_million_out' is missing; options of cost: "),
        ('type = "ragas.RougeScore"\nrouge_type = "rougeX"', "rouge_type: must be one of rouge1, "),
        ('type = "ragas.BleuScore"\nkwargs = { smooth_method = "odd" }', "cannot score a made-up row: "),
        (
            'type = "json_schema"\nschema = { format = "phone" }',
            "schema.format: nothing here can check the format 'phone'",
        ),
    ],
)
def test_a_wrong_option_is_an_error_of_the_suite_with_the_options_there_are(
    tmp_path: Path, scorer: str, problem: str
) -> None:
    folder = folder_of(tmp_path, f"[scorers.odd]\n{scorer}")

    with pytest.raises(BadFile) as caught:
        load_suite(folder, "task")

    assert str(caught.value).startswith(f"{folder / 'task.toml'}: scorers.odd: {problem}")


def test_a_suite_says_what_scorers_from_elsewhere_do_not_count(tmp_path: Path) -> None:
    suite = load_suite(folder_of(tmp_path, '[scorers.odd]\ntype = "ragas.ToolCallF1"'), "task", try_scorers=False)

    assert suite.not_counted() == {"odd": "how often a call is made, its order, and whether a value is 1 or true"}
