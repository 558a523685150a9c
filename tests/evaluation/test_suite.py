"""Suites are checked whole before anything runs: each mistake names the file and the key."""

import json
from pathlib import Path

import pytest

from llmops.errors import BadFile, UnknownVersion
from llmops.evaluation.gate import GateRules
from llmops.evaluation.scorers import SCORER_TYPES, make_scorer
from llmops.evaluation.scorers.protocol import Correctness
from llmops.evaluation.suite import load_suite, suite_names

ROW = {"id": "r1", "inputs": {"question": "How many?"}, "expectations": {"answers": ["4"]}}
HEAD = 'eval_sets = ["sums"]\nprompt = "qa"\nmodel = "tiny@1"\n'
SCORERS = '[scorers.correct]\ntype = "contains"\n[scorers.words]\n'
GATE = '[gate]\nprimary = "correct"\n'
TEXT = HEAD + SCORERS + GATE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sums").mkdir()
    (tmp_path / "sums" / "rows.jsonl").write_text(json.dumps(ROW))
    return tmp_path


def refused(folder: Path, text: str) -> BadFile:
    """The error that the suite `task` of this text gives."""
    (folder / "task.toml").write_text(text)
    with pytest.raises(BadFile) as caught:
        load_suite(folder, "task").try_scorers()
    assert "\n" not in str(caught.value)
    return caught.value


def test_reads_eval_sets_scorers_with_parameters_and_gate(folder):
    scorers = SCORERS + '[scorers.rouge]\ntype = "ragas.RougeScore"\nrouge_type = "rougeL"\n'
    gate = GATE + 'rule = "not-worse"\nmargin = 0.05\n[gate.floors]\ncorrect = 0.5\n'
    (folder / "task.toml").write_text('description = "Sums."\n' + HEAD + scorers + gate)
    suite = load_suite(folder, "task")
    assert (suite.name, suite.description, suite.prompt, suite.model) == ("task", "Sums.", "qa", "tiny@1")
    assert [row.id for row in suite.rows] == ["r1"]
    assert [spec.to_json() for spec in suite.scorer_specs] == [
        {"name": "correct", "type": "contains", "parameters": {}},
        {"name": "words", "type": "words", "parameters": {}},
        {"name": "rouge", "type": "ragas.RougeScore", "parameters": {"rouge_type": "rougeL"}},
    ]
    assert suite.gate == GateRules("correct", "not-worse", 0.05, {"correct": 0.5})
    assert [scorer.name for scorer in suite.make_scorers()] == ["correct", "words", "rouge"]


def test_an_eval_set_may_be_a_table_beside_names_and_a_mistake_in_it_names_its_place_in_the_list(folder):
    (folder / "more.csv").write_text("q,a\nWhy?,4\nWho?,5\n")
    table = '{ name = "more", source = "more.csv", columns = { inputs.question = "q", expectations.answers = "a" } }'
    text = TEXT.replace('["sums"]', f'["sums", {table}]')
    (folder / "task.toml").write_text(text)
    suite = load_suite(folder, "task")
    assert [eval_set.name for eval_set in suite.eval_sets] == ["sums", "more"]
    assert [row.inputs["question"] for row in suite.rows] == ["How many?", "Why?", "Who?"]
    assert suite.n_rows == len(list(suite.rows)) == 3
    error = refused(folder, text.replace('source = "more.csv"', 'source = "more.csv", sampel = 3'))
    assert (error.path, error.field) == (folder / "task.toml", "eval_sets[1].sampel")


def test_a_suite_may_say_what_rows_of_one_source_share_and_one_that_no_row_has_is_refused(folder):
    (folder / "task.toml").write_text('cluster_by = "inputs.question"\n' + TEXT)
    assert load_suite(folder, "task").cluster_by == "inputs.question"
    for cluster_by in ('"title"', '"tags.title"', "3"):
        assert refused(folder, f"cluster_by = {cluster_by}\n" + TEXT).field == "cluster_by"


def test_rows_of_several_eval_sets_stand_in_the_order_of_the_suite_each_id_once(folder):
    (folder / "more").mkdir()
    (folder / "more" / "rows.jsonl").write_text(json.dumps({**ROW, "id": "m1"}))
    text = HEAD.replace('["sums"]', '["more", "sums"]') + SCORERS + GATE
    (folder / "task.toml").write_text(text)
    suite = load_suite(folder, "task")
    assert [row.id for row in suite.rows] == ["m1", "r1"]
    assert suite.make_scorers()[0] is not suite.make_scorers()[0]  # fresh ones every time
    (folder / "more" / "rows.jsonl").write_text(json.dumps(ROW))
    error = refused(folder, text)
    assert (error.field, error.problem) == ("eval_sets", "row id 'r1' stands in two eval sets")


@pytest.mark.parametrize(("names", "told"), [("bac", "a, b, c"), ("", "none")])
def test_an_unknown_suite_names_those_there_are(folder, names, told):
    for name in names:
        (folder / f"{name}.toml").write_text("")
    assert suite_names(folder) == sorted(names)
    with pytest.raises(UnknownVersion, match=rf"no suite 'task' in .*; there are {told}\Z"):
        load_suite(folder, "task")


def test_what_is_no_toml_and_a_bad_row_of_an_eval_set_name_their_file(folder):
    for content, problem in (
        (b"prompt = ", "is not TOML: "),
        (b"[gate", "is not TOML: "),
        (b'prompt = "a"\nprompt = "b"', "is not TOML: "),
        (b'prompt = "\xff"', "cannot be read: "),
    ):
        (folder / "task.toml").write_bytes(content)
        with pytest.raises(BadFile) as caught:
            load_suite(folder, "task")
        assert caught.value.path == folder / "task.toml"
        assert caught.value.problem.startswith(problem)
    (folder / "sums" / "rows.jsonl").write_text(json.dumps(ROW) + '\n{"id": "r2"}')
    error = refused(folder, TEXT)
    assert (error.path, error.line, error.field) == (folder / "sums" / "rows.jsonl", 2, "inputs")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("promt = 'qa'\n" + TEXT, "promt"),
        (HEAD.replace('eval_sets = ["sums"]\n', "") + SCORERS + GATE, "eval_sets"),
        (HEAD.replace('["sums"]', '"sums"') + SCORERS + GATE, "eval_sets"),
        (HEAD.replace('["sums"]', "[]") + SCORERS + GATE, "eval_sets"),
        (HEAD.replace('["sums"]', "[1]") + SCORERS + GATE, "eval_sets"),
        (HEAD.replace('prompt = "qa"\n', "") + SCORERS + GATE, "prompt"),
        (HEAD.replace('"qa"', "3") + SCORERS + GATE, "prompt"),
        (HEAD.replace('"qa"', '""') + SCORERS + GATE, "prompt"),
        (HEAD.replace('model = "tiny@1"\n', "") + SCORERS + GATE, "model"),
        (HEAD + GATE, "scorers"),
        ("scorers = 3\n" + HEAD + GATE, "scorers"),
        (HEAD + "[scorers]\ncorrect = 'contains'\n" + GATE, "scorers.correct"),
        (HEAD + SCORERS + "[scorers.good]\ntype = 'excellent'\n" + GATE, "scorers.good"),
        (HEAD + SCORERS + "[scorers.excellent]\n" + GATE, "scorers.excellent"),
        ("gate = true\n" + HEAD + SCORERS, "gate"),
        (HEAD + SCORERS, "gate.primary"),
        (HEAD + SCORERS + "[gate]\nprimary = 3\n", "gate.primary"),
        (TEXT + "[gate.floors]\ncorrect = 'high'\n", "gate.floors.correct"),
        (TEXT + "[gate.floors]\nright = 0.5\n", "gate"),
        (TEXT + "[gate.floors]\ncorrect = 50\n", "gate.floors.correct"),
        (TEXT + "[judges.big]\nkappa = 2\n", "judges.big.kappa"),
        (TEXT + "[judges.big]\nkappa = true\n", "judges.big.kappa"),
        ("judges = 3\n" + TEXT, "judges"),
        (TEXT + "[gate.floors]\ncorrect = nan\n", "gate.floors.correct"),
        (TEXT + "[gate.ceilings]\nwords = -1\n", "gate.ceilings.words"),
        (TEXT + "[gate.slice_floors.'a=b']\ncorrect = 2\n", "gate.slice_floors.a=b.correct"),
        (TEXT + "rule = 'better'\nmargin = 0.1\n", "gate.margin"),
        (HEAD.replace('"qa"', '"qa@1"') + SCORERS + GATE, "prompt"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_and_key(folder, text, field):
    error = refused(folder, text)
    assert (error.path, error.field) == (folder / "task.toml", field)


def test_what_a_suite_names_and_does_not_have_is_told_with_what_there_is(folder):
    unknown = refused(folder, HEAD + "[scorers.good]\ntype = 'excellent'\n" + GATE).problem
    assert all(name in unknown for name in ("'excellent'", "contains", "exact_match"))
    primary = refused(folder, HEAD + SCORERS + "[gate]\nprimary = 'right'\n")
    assert (primary.field, "'right'" in primary.problem) == ("gate", True)
    missing = refused(folder, HEAD.replace('["sums"]', '["sums", "sum"]') + SCORERS + GATE).problem
    assert missing == "no folder or file 'sum' beside the suite; did you mean sums?"


@pytest.mark.parametrize(
    ("scorer", "problem"),
    [
        ('type = "contains"\nwher = "end"', "contains: has no option 'wher'; options of contains: texts = none, "),
        ('type = "ragas.BleuScore"\nkwargs = { smooth_method = "odd" }', "cannot score a made-up row: "),
    ],
)
def test_a_scorer_that_cannot_be_made_or_cannot_score_is_an_error_of_the_suite_that_names_file_and_scorer(
    folder, scorer, problem
):
    error = refused(folder, HEAD + SCORERS + f"[scorers.odd]\n{scorer}\n" + GATE)
    assert str(error).startswith(f"{folder / 'task.toml'}: scorers.odd: {problem}")


def test_a_suite_whose_scorers_crash_loads_and_tells_it_when_they_are_tried(folder):
    class Crashing(Correctness):
        mode: str = "best"

        def score(self, row, output):
            raise KeyError("cosine")

    def make(spec, _):
        return make_scorer(spec.name, spec.type, spec.parameters, {**SCORER_TYPES, "crashing": Crashing})

    (folder / "task.toml").write_text(HEAD + SCORERS + '[scorers.odd]\ntype = "crashing"\nmode = "cosine"\n' + GATE)
    suite = load_suite(folder, "task", make=make)
    with pytest.raises(BadFile) as caught:
        suite.try_scorers()
    problem = "cannot score a made-up row: KeyError: 'cosine'; set here: mode = 'cosine'"
    assert str(caught.value) == f"{folder / 'task.toml'}: scorers.odd: {problem}"


def test_a_suite_says_what_scorers_from_elsewhere_do_not_count(folder):
    (folder / "task.toml").write_text(HEAD + SCORERS + "[scorers.'ragas.ToolCallF1']\n" + GATE)
    *_, scorer = load_suite(folder, "task").make_scorers()
    assert scorer.not_counted == "how often a call is made, its order, and whether a value is 1 or true"


def test_a_schema_file_becomes_the_scorers_schema_and_one_that_cannot_be_read_is_named(folder):
    text = HEAD + SCORERS + "[scorers.json_schema]\nschema_file = 'schema.json'\n" + GATE
    for content in (None, "{"):
        if content is not None:
            (folder / "schema.json").write_text(content)
        error = refused(folder, text)
        assert (error.path, error.field) == (folder / "schema.json", "scorers.json_schema.schema_file")
    (folder / "schema.json").write_text('{"type": "object"}')
    (folder / "task.toml").write_text(text)
    assert load_suite(folder, "task").scorer_specs[-1].parameters == {"schema": {"type": "object"}}
