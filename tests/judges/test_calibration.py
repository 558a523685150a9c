"""A judge beside people's labels: strict about the file, honest about failures, found again by its identity."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import BadFile
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers.protocol import MissingExpectation
from llmops.judges.calibration import Calibration, LabelledRow, judge_hash, load_labels
from llmops.judges.calibration import calibrate as calibrate_by
from llmops.judges.scorer import RubricJudge
from tests.evaluation.conftest import MadeUpJudge

GOOD = {"inputs": {"q": "x"}, "output": "y", "label": True}


def judging(scores: dict[str, Score], **changed: Any) -> MadeUpJudge:
    """A judge that scores by the output's text."""
    return MadeUpJudge("made up", lambda _row, output: scores[output.text], **changed)


def labelled(*pairs: tuple[str, Any]) -> list[LabelledRow]:
    return [LabelledRow(EvalRow(f"r{i}", {"q": "x"}), output, label) for i, (output, label) in enumerate(pairs)]


def calibrate(rows: list[LabelledRow], judge: Any, **options: Any) -> Calibration:
    with closing(GenerationCache(None)) as cache:
        return calibrate_by(rows, judge, **{"cache": cache, "progress": lambda *_: None, **options})


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_labels_are_read_with_rows_and_outputs(tmp_path):
    full = {**GOOD, "id": "a", "expectations": {"answers": ["z"]}, "contexts": ["c"], "label": False}
    rows = load_labels(write(tmp_path / "LABELS.jsonl", full, "", GOOD))
    assert rows == [
        LabelledRow(EvalRow("a", {"q": "x"}, {"answers": ["z"]}, ("c",)), "y", False),
        LabelledRow(EvalRow("line-3", {"q": "x"}), "y", True),
    ]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        *(({"label": label}, "label") for label in (None, [True], "", float("inf"), 1, "good")),
        ({"labels": True}, "labels"),
        ({"output": None}, "output"),
        ({"inputs": {}}, "inputs"),
        ({"id": "first"}, "id"),
        ({"tags": {}}, "tags"),
    ],
)
def test_a_wrong_row_is_named_by_file_line_and_field(wrong, field, tmp_path):
    path = write(tmp_path / "LABELS.jsonl", {**GOOD, "id": "first"}, {**GOOD, **wrong})
    with pytest.raises(BadFile) as refused:
        load_labels(path)
    assert (refused.value.path, refused.value.line, refused.value.field) == (path, 2, field)


@pytest.mark.parametrize(("line", "problem"), [("no JSON", ":1: "), ("[1]", ":1: "), ("", ": holds no rows")])
def test_a_file_without_rows_or_with_a_line_that_is_no_object_is_refused(line, problem, tmp_path):
    with pytest.raises(BadFile, match=rf"LABELS\.jsonl{problem}"):
        load_labels(write(tmp_path / "LABELS.jsonl", line))


def test_agreement_on_truth_values_by_hand():
    # People: 3 good, 3 bad; the judge calls one good one bad. Observed 5/6, by chance 1/2: kappa 2/3.
    judge = judging({"yes": Score(True), "no": Score(False)})
    rows = labelled(("yes", True), ("yes", True), ("no", True), ("no", False), ("no", False), ("no", False))
    found = calibrate(rows, judge)

    assert (found.kappa.kappa, found.kappa.agreement) == (pytest.approx(2 / 3), pytest.approx(5 / 6))
    assert found.confusion.counts == ((3, 0), (1, 2))
    assert (found.n, found.n_failed, found.kind) == (6, 0, "truth values")
    assert found.length_bias is not None


def test_failed_calls_and_scorers_that_raise_are_counted_and_named_and_not_in_the_statistics():
    scores = {"yes": Score(True), "no": Score(False), "broken": Score(error="EngineError: cut off")}

    def raising(row: EvalRow, output: Output) -> Score:
        if output.text == "none":
            raise MissingExpectation(f"row {row.id}: contexts are empty")
        return scores[output.text]

    judge = MadeUpJudge("raising", raising)
    missing = "MissingExpectation: row r0: contexts are empty"
    found = calibrate(labelled(("none", True), ("yes", True), ("broken", False), ("no", False)), judge)
    assert (found.n, found.n_failed) == (2, 2)
    assert found.kappa.n == 2
    assert [row.error for row in found.rows] == [missing, None, "EngineError: cut off", None]
    none = calibrate(labelled(("none", True)), judge)
    assert (none.n, none.n_failed, none.kappa, none.confusion, none.length_bias) == (0, 1, None, None, None)
    json.dumps(none.to_json())


@pytest.mark.parametrize(
    ("scores", "labels", "threshold", "judged"),
    [
        ([Score(0.8), Score(0.5), Score(0.2)], [True, False, False], 0.5, [True, True, False]),
        ([Score(0.8), Score(0.5), Score(0.2)], [True, False, False], 0.6, [True, False, False]),
        # Numbers with the points of a rubric, where there are some.
        ([Score(0.0, label="1"), Score(0.25, label="2"), Score(0.75, label="4")], [1, 2, 5], 0.5, [1.0, 2.0, 4.0]),
        ([Score(0.25), Score(True, label="yes")], [0.5, 1.0], 0.5, [0.25, 1.0]),
        ([Score(True, label="warm"), Score(False)], ["warm", "cold"], 0.5, ["warm", None]),  # gave no label
    ],
)
def test_a_verdict_is_compared_in_terms_of_the_label(scores, labels, threshold, judged):
    judge = judging({str(i): score for i, score in enumerate(scores)})
    found = calibrate(labelled(*((str(i), label) for i, label in enumerate(labels))), judge, threshold=threshold)
    assert [row.judged for row in found.rows] == judged
    problem = "the judge gave no verdict that compares with texts"
    assert [row.error for row in found.rows] == [problem if each is None else None for each in judged]
    assert found.n_failed == judged.count(None)
    assert (found.length_bias is None) is isinstance(labels[0], str)


def test_misses_by_far_weigh_more():
    rows = labelled(("a", 1), ("b", 2), ("c", 5))
    near = judging({"a": Score(0.0, label="1"), "b": Score(0.25, label="2"), "c": Score(0.75, label="4")})
    far = judging({"a": Score(1.0, label="5"), "b": Score(0.25, label="2"), "c": Score(1.0, label="5")})
    one, other = (calibrate(rows, judge).to_json()["kappa"]["kappa"] for judge in (near, far))
    assert one > 0.8 > other


def test_a_judge_that_is_kind_to_long_answers_is_found_out_and_many_labels_make_no_table():
    outputs = ["x" * length for length in range(1, 21)]
    judge = judging({output: Score(len(output) > 10) for output in outputs})
    found = calibrate(labelled(*((output, len(output) % 2 == 0) for output in outputs)), judge)
    assert found.length_bias.correlation > 0.3
    many = judging({str(i): Score(i / 40) for i in range(40)})
    assert calibrate(labelled(*((str(i), i / 40) for i in range(40))), many).confusion is None


def test_the_same_judge_on_the_same_labels_has_the_same_identity():
    scores, rows = {"a": Score(True), "b": Score(False)}, labelled(("a", True), ("b", False))
    renamed = [LabelledRow(EvalRow(f"other-{row.row.id}", row.row.inputs), row.output, row.label) for row in rows]
    judge, other = judging(scores), judging(scores, identity={"judge": "another"})

    found = calibrate(rows, judge)
    assert (found.judge_hash, found.labels_hash) == (judge_hash(judge), calibrate(renamed, judge).labels_hash)
    assert calibrate(rows[:1], judge).labels_hash != found.labels_hash
    assert calibrate(rows, other).judge_hash != found.judge_hash
    assert calibrate(rows, judge, threshold=0.7).threshold == 0.7


def test_json_holds_statistics_and_rows_and_progress_is_told_row_by_row():
    judge, seen = judging({"a": Score(True, "so"), "b": Score(False)}), list[tuple[int, int]]()
    values = calibrate(labelled(("a", True), ("b", False)), judge, progress=lambda *done: seen.append(done))
    read = json.loads(json.dumps(values.to_json()))
    assert (read["kappa"]["kappa"], read["n"], read["kind"]) == (1.0, 2, "truth values")
    assert read["rows"][0] == {"row_id": "r0", "label": True, "judged": True, "rationale": "so", "error": None}
    assert seen == [(1, 2), (2, 2)]


def test_a_real_rubric_is_asked_once_for_each_row_and_never_again_from_a_cache(script):
    asked = script(lambda request: json.dumps({"rationale": "r", "score": "fail" if "bad" in str(request) else "pass"}))
    judge = RubricJudge("s", endpoint=asked.endpoint, instructions="Is it fine?")

    rows = labelled(("fine", True), ("bad", False), ("bad too", True))
    with closing(GenerationCache(None)) as cache:
        first, again = calibrate(rows, judge, cache=cache), calibrate(rows, judge, cache=cache)

    assert [row.judged for row in first.rows] == [True, False, False]
    assert (again, len(asked.requests)) == (first, 3)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["yes", "no", "broken"])), min_size=1, max_size=30))
def test_every_labelled_row_is_judged_or_failed_and_in_order(pairs):
    judge = judging({"yes": Score(True), "no": Score(False), "broken": Score(error="x")})
    found = calibrate(labelled(*((output, label) for label, output in pairs)), judge)
    assert found.n + found.n_failed == len(pairs) == len(found.rows)
    assert found.n_failed == sum(output == "broken" for _, output in pairs)
    assert [row.label for row in found.rows] == [label for label, _ in pairs]
