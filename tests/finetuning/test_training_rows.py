import json
from dataclasses import replace

import pytest

from llmops.errors import BadFile, UnknownVersion, UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.scorers.protocol import right_answer
from llmops.evaluation.suite import load_suite
from llmops.finetuning.recipe import make_recipe, read_recipe
from llmops.finetuning.training_rows import training_rows
from llmops.production_log import Feedback, LogRecord, ProductionLog
from tests.finetuning.conftest import PROMPT, row, write_rows
from tests.moments import START


def read(home, rows=(), suite=None, **recipe):
    path = write_rows(home.home / "train.jsonl", rows)
    made = make_recipe({"model": "tiny@1", "suite": "shout", "train": [str(path)], **recipe})
    return training_rows(home, made, suite or load_suite(home.eval_sets, "shout"), PROMPT)


def test_rows_of_the_suite_near_ones_and_repeats_are_left_out_and_counted(home):
    rows, counts = read(
        home,
        [
            row("a", "Is  it LATE?", "x"),  # but for case and white space, a row of the suite
            row("b", "is it late ?", "x"),
            row("c", "where is the ladder", "x"),
            row("d", "Where is the ladder", "y"),
            row("e", "how tall is it", "x"),
        ],
    )
    assert [each.id for each in rows] == ["c", "e"]
    assert (counts.of_suite, counts.near_suite, counts.repeated) == (1, 1, 1)
    assert counts.left_out == "1 of the suite, 1 nearly of the suite, 1 repeated"
    assert rows[1].messages[-1] == {"role": "user", "content": "how tall is it"}


def test_rows_of_a_cluster_of_the_suite_are_left_out(home):
    write_rows(home.eval_sets / "shout" / "rows.jsonl", [row("s", "hm", "HM", tags={"page": "p1"})])
    suite = replace(load_suite(home.eval_sets, "shout"), cluster_by="tags.page")
    rows, counts = read(home, [row(p, f"about {p}", "x", tags={"page": p}) for p in ("p1", "p2")], suite)
    assert ([each.id for each in rows], counts.suite_cluster) == (["p2"], 1)


def test_answers_of_the_log_are_trained_on_where_users_liked_them(home):
    said = [("what is your name", "BOB", 1.0), ("how old are you", "9", -1.0), ("hm", "HM", 1.0),
            ("which colour is it", "", 1.0), ("are you well", "NO", None)]  # fmt: skip
    log = ProductionLog(home.resolved_log_url)
    for number, (question, answer, score) in enumerate(said, 1):
        key = f"{number:032x}"
        log.append([LogRecord(key, START, 200, "ok", question, answer, release="shop@1", key=key)])
        if score is not None:
            log.add_feedback(Feedback(key, key, "anonymous", app="shop", score=score))
    rows, counts = read(home, train=(), from_log="shop")
    assert [(each.id, each.completion) for each in rows] == [(f"log-{1:032x}", "BOB")]
    assert (counts.of_suite, counts.unusable) == (1, 1)


@pytest.mark.parametrize(
    ("expectations", "target"),
    [
        ({"expected_json": {"b": "é", "a": None}, "answers": ["no"]}, '{"b": "é", "a": null}'),
        ({"answers": ["first", "second"]}, "first"),
        ({"answers": ["Paris"], "expected_response": "It is Paris."}, "It is Paris."),
        ({"expected_response": 4.0}, "4"),
    ],
)
def test_the_right_answer_is_the_json_else_the_response_else_the_first_answer(expectations, target):
    assert right_answer(EvalRow("r", {}, expectations)) == target


def test_a_row_without_an_answer_or_that_does_not_fill_the_prompt_is_named(home):
    with pytest.raises(UsageError, match=r"row r1: .*no expected_json; there is nothing to train on"):
        read(home, [row("r1", "why", None)])
    with pytest.raises(UsageError, match="row r2: question: the prompt needs this variable"):
        read(home, [{"id": "r2", "inputs": {"text": "why"}, "expectations": {"answers": ["x"]}}])
    with pytest.raises(UnknownVersion, match=r"no eval set or file 'nowhere'; in .* there are shout"):
        read(home, [row("r3", "why", "x")], train=["nowhere"])


def test_a_recipe_is_read_as_it_is_written(tmp_path):
    made = make_recipe({"model": "tiny@1", "suite": "shout", "train": ["a", "b"], "learning_rate": 0.001})
    (tmp_path / "recipe.toml").write_text(made.to_toml(), encoding="utf-8")
    assert read_recipe(tmp_path / "recipe.toml", {}) == made
    assert read_recipe(tmp_path / "recipe.toml", {"seed": 3}) == replace(made, seed=3)
    assert made.target == "tiny-shout"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"epoch": 3}, r"epoch: unknown key; known: alpha, batch_rows, epochs"),
        ({"epochs": 0}, "epochs: must be greater than or equal to 1"),
        ({"weights": "Q9"}, "weights: must be one of auto, parent, Q4_0"),
        ({"train": []}, "train: name an eval set"),
        ({"validation": 1.0}, "validation: must be less than 1"),
        ({"name": "x@1"}, "name: is a model's name, without a version"),
    ],
)
def test_a_wrong_recipe_names_file_and_field(tmp_path, change, problem):
    values = {"model": "tiny@1", "suite": "shout", "train": ["a"], **change}
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    with pytest.raises(BadFile, match=problem):
        read_recipe(tmp_path / "r.toml", {})
