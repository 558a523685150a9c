"""`llmops eval-set`: checks by name, path and suite; adding from a real log."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import Run

ROWS = [
    {"id": "r1", "inputs": {"question": "Who wrote Hamlet?"}, "expectations": {"answers": ["Shakespeare"]}},
    {"id": "r2", "inputs": {"question": "Who wrote Faust?"}, "expectations": {"answers": ["Goethe"]}},
]
CONFLICT = {"id": "r3", "inputs": {"question": "Who wrote Faust?"}, "expectations": {"answers": ["Marlowe"]}}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def sets(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two eval sets and a suite of both, which contradict each other."""
    folder = tmp_path / "sets"
    write(folder / "plays" / "rows.jsonl", ROWS)
    write(folder / "more" / "rows.jsonl", [CONFLICT])
    head = 'eval_sets = ["plays", "more"]\nprompt = "qa"\nmodel = "m@1"\n'
    (folder / "both.toml").write_text(head + '[scorers.contains]\n[gate]\nprimary = "contains"\n')
    monkeypatch.setenv("LLMOPS_EVAL_SETS", str(folder))
    return folder


def test_a_sound_set_exits_0_and_the_table_shows_what_was_found(llmops, sets):
    done = llmops("eval-set", "check", "plays", "--json")
    assert done.code == 0
    assert done.json == {"eval_set": "plays", "rows": 2, "findings": []}
    assert "nothing found" in llmops("eval-set", "check", "plays").out
    assert "more: 1 row " in llmops("eval-set", "check", "more").out
    assert "conflicting_duplicate" in llmops("eval-set", "check", "both").out


@pytest.mark.parametrize("asked", ["both", "{sets}/both.jsonl", "{sets}/all"])
def test_a_suite_a_file_or_a_folder_is_checked_whole_and_an_error_exits_1(llmops, sets, asked):
    write(sets / "both.jsonl", [*ROWS, CONFLICT])
    write(sets / "all" / "rows.jsonl", [*ROWS, CONFLICT])
    done = llmops("eval-set", "check", asked.format(sets=sets), "--json")
    assert done.code == 1
    assert done.json["rows"] == 3
    assert [(f["kind"], f["rows"], f["severity"]) for f in done.json["findings"]] == [
        ("conflicting_duplicate", ["r2", "r3"], "error")
    ]


def suite_of_plays(path: Path, scorer: str) -> Path:
    path.write_text(
        f'eval_sets = ["plays"]\nprompt = "qa"\nmodel = "m@1"\n[scorers.odd]\n{scorer}\n[gate]\nprimary = "odd"\n'
    )
    return path


def test_a_suite_whose_scorer_cannot_score_exits_3_naming_file_and_scorer(llmops, sets):
    path = suite_of_plays(sets / "odd.toml", 'type = "ragas.BleuScore"\nkwargs = { smooth_method = "odd" }')
    for asked in ("odd", str(path)):
        llmops("eval-set", "check", asked).refused(3, f"error: {path}: scorers.odd: cannot score a made-up row: ")
    assert "odd" in llmops("eval", "list").out  # listing stays cheap: it tries no scorer


def test_a_name_that_set_and_suite_share_is_the_suites(llmops, sets):
    suite_of_plays(sets / "plays.toml", 'type = "contains"\nwhere = "middle"')
    llmops("eval-set", "check", "plays").refused(
        3, "plays.toml: scorers.odd: where: must be 'anywhere', 'start' or 'end'"
    )
    assert llmops("eval-set", "check", str(sets / "plays")).code == 0


def test_near_is_how_alike_questions_may_be(llmops, sets):
    alike = ("Who wrote the play about Faust?", "Who wrote the poem about Faust?")
    rows = [{"id": text, "inputs": {"question": text}, "expectations": {"answers": ["Goethe"]}} for text in alike]
    write(sets / "plays" / "rows.jsonl", rows)
    near = llmops("eval-set", "check", "plays", "--near", "0.85", "--json").json
    assert [finding["kind"] for finding in near["findings"]] == ["near_duplicate"]
    assert llmops("eval-set", "check", "plays", "--near", "0.99", "--json").json["findings"] == []
    assert llmops("eval-set", "check", "plays", "--near", "0.2").code == 2


def test_an_unknown_name_and_a_bad_row_exit_3_and_say_what_there_is_and_where(llmops, sets):
    llmops("eval-set", "check", "novels").refused(3, "there are more, plays; suites: both")
    path = write(sets / "plays" / "rows.jsonl", [*ROWS, {"id": "r9"}])
    llmops("eval-set", "check", "plays").refused(3, f"{path}:3: inputs: ")


def test_a_prompts_examples_are_searched_for_the_rows(llmops, sets, tmp_path, monkeypatch):
    prompts = tmp_path / "prompts" / "qa"
    prompts.mkdir(parents=True)
    example = "# user\nWho wrote Faust?\n\n# assistant\nOne man.\n\n"
    (prompts / "v1.md").write_text(f"---\ninput_variable: question\n---\n{example}# user\n{{{{ question }}}}\n")
    monkeypatch.setenv("LLMOPS_PROMPTS", str(prompts.parent))
    llmops("prompts", "register")
    done = llmops("eval-set", "check", "plays", "--prompt", "qa@1", "--json")
    assert done.code == 1
    assert [(f["kind"], f["rows"]) for f in done.json["findings"]] == [("question_in_prompt", ["r2"])]


@pytest.fixture
def traffic(llmops: Run, tmp_path: Path) -> None:
    lines = [
        {"request_id": f"q{number}", "at": f"2026-01-0{number}", "release": "assistant@1", "input": text, "output": "?",
         "details": {"feedback": {"score": -number % 2}}}
        for number, text in enumerate(["Who wrote Hamlet?", "Who wrote Emma?", "Who wrote Ulysses?"], 1)
    ]  # fmt: skip
    llmops("log", "import", str(write(tmp_path / "traffic.jsonl", lines)))


def test_requests_get_into_a_set_through_a_review_and_the_help_warns_of_personal_data(llmops, sets, traffic, tmp_path):
    review = tmp_path / "review.jsonl"
    first = llmops("eval-set", "add", "plays", "--from-log", "--app", "assistant", "--out", str(review), "--json")
    assert first.code == 0
    assert first.json == {
        "eval_set": "plays", "review": str(review), "written": 2, "known": 1, "not_chosen": 0, "unusable": 0,
    }  # fmt: skip
    assert "personal data" in first.err
    rows = [json.loads(line) for line in review.read_text().splitlines()]
    rows[0]["expectations"] = {"answers": ["Austen"]}
    rows[0]["review"]["accept"], rows[1]["review"]["accept"] = True, False
    write(review, rows)
    second = llmops("eval-set", "add", "plays", "--reviewed", str(review), "--json")
    assert {name: second.json[name] for name in ("added", "refused", "undecided")} == {
        "added": 1, "refused": 1, "undecided": 0,
    }  # fmt: skip
    assert llmops("eval-set", "check", "plays", "--json").json["rows"] == 3
    assert "personal data" in " ".join(llmops("eval-set", "add", "--help").out.split())


def test_window_feedback_and_limit_choose_requests(llmops, sets, traffic, tmp_path):
    def written(*options: str) -> int:
        out = tmp_path / f"review{len(list(tmp_path.glob('review*')))}.jsonl"
        done = llmops("eval-set", "add", "new", "--from-log", *options, "--review", str(out), "--json")
        return int(done.json["written"])

    assert written() == 3
    assert written("--since", "2026-01-02") == 2
    assert written("--until", "2026-01-02") == 1
    assert written("--limit", "1") == 1
    assert written("--outcome", "error") == 0
    assert written("--feedback", "negative") == 1
    assert written("--app", "other") == 0


@pytest.mark.parametrize(
    "arguments", [(), ("--from-log",), ("--from-log", "--reviewed", "x.jsonl"), ("--from-log", "--since", "soon")]
)
def test_half_a_command_is_wrong_usage(llmops, sets, arguments):
    assert llmops("eval-set", "add", "plays", *arguments).code == 2


TICKETS = (
    "id,inputs.question,expectations.answers,tags.topic\n007,Who wrote Hamlet?,Shakespeare,\n2,When?,1969-07-20,a\n"
)


def test_a_table_stands_in_a_suite_and_one_with_other_names_says_that_columns_are_missing(llmops, sets):
    (sets / "tickets.csv").write_text(TICKETS)
    text = (sets / "both.toml").read_text()
    (sets / "tickets.toml").write_text(text.replace('["plays", "more"]', '["tickets.csv"]'))
    assert llmops("eval-set", "check", str(sets / "tickets.csv"), "--json").json["rows"] == 2
    assert llmops("eval-set", "check", "tickets", "--json").json["rows"] == 2
    (suite,) = (item for item in llmops("eval", "list", "--json").json["suites"] if item["name"] == "tickets")
    assert (suite["eval_sets"], suite["rows"]) == (["tickets"], 2)
    (sets / "tickets.csv").write_text("question,answer\nWhy?,So.\n")
    done = llmops("eval-set", "check", str(sets / "tickets.csv"))
    assert (done.code, done.out) == (3, "")
    assert "tickets.csv:2: question: " in done.err
    assert "`columns`" in done.err


@pytest.mark.parametrize("broken", [b"[", b'prompt = "\xff"', b'eval_sets = ["absent.csv"]\n[scorers.contains]\n'])
def test_a_suite_that_cannot_be_read_is_named_and_hides_no_other(llmops, sets, broken):
    (sets / "aaa.toml").write_bytes(broken)
    done = llmops("eval", "list", "--json")
    assert done.code == 0
    assert [suite["name"] for suite in done.json["suites"]] == ["both"]
    assert [item["name"] for item in done.json["broken"]] == ["aaa"]
    assert str(sets / "aaa.toml") in done.json["broken"][0]["error"]
    assert "not listed: " in done.err
    assert llmops("eval-set", "check", "both", "--json").code == 1


def test_a_suite_with_judges_is_checked_without_one_and_a_wrong_option_is_an_error_all_the_same(llmops, sets):
    scorers = """
[judges.main]
base_url = "http://127.0.0.1:9/v1"
model = "m"
[scorers.faithful]
type = "ragas.Faithfulness"
[scorers.correct]
type = "mlflow.Correctness"
[scorers.kind]
type = "judge.rubric"
instructions = "Is it kind?"
[scorers.close]
type = "semantic_similarity"
[gate]
primary = "close"
"""
    (sets / "judged.toml").write_text(f'eval_sets = ["plays"]\nprompt = "qa"\nmodel = "m@1"\n{scorers}')
    done = llmops("eval-set", "check", "judged", "--json")
    assert (done.code, done.json["rows"]) == (0, 2)
    scorers = '[scorers.kind]\ntype = "judge.rubric"\ninstruction = "Is it kind?"\n[gate]\nprimary = "kind"\n'
    (sets / "judged.toml").write_text(f'eval_sets = ["plays"]\nprompt = "qa"\nmodel = "m@1"\n{scorers}')
    llmops("eval-set", "check", "judged").refused(
        3, "judged.toml: scorers.kind: judge.rubric: has no option 'instruction'; options of judge.rubric: "
    )
