"""`llmops eval show`: a run row by row."""

from pathlib import Path

import pytest

from llmops.settings import Settings
from tests.command_line import Run
from tests.registered_home import register_tiny, write_prompts, write_suite


@pytest.fixture
def runs(llmops: Run, home: Path) -> list[str]:
    """Ids of runs of two prompts on six rows in a folder of their own; half of the answers hold what is expected."""
    write_prompts(home.parent / "prompts")
    write_suite(home.parent / "eval_sets", "sums", 6)
    register_tiny(Settings(home=home))
    llmops("prompts", "register")
    return [run["run_id"] for run in llmops("eval", "run", "sums", "--json").json["runs"]]


def test_a_run_is_shown_row_by_row_with_what_failed_and_what_changed(llmops, runs):
    every = llmops("eval", "show", "qa@1", "--json").json
    assert (every["run_id"], every["rows"], every["found"], every["primary"]) == (runs[0], 6, 6, "correct")
    first = every["results"][0]
    assert (first["id"], first["question"]) == ("sums-0", "Is “0” a number?\nSay só.")
    assert first["expected"] == 'answers: purple\nnote: {"ü": [1, null, 0.5]}'
    assert first["answer"] == "You said: Is “0” a number?\nSay só."
    assert (first["scores"]["correct"]["value"], first["scores"]["fields"]["value"]) == (False, None)
    assert "fields: MissingExpectation" in first["error"]
    table = llmops("eval", "show", runs[0][:8], "--limit", "2")
    assert "2 of 6 rows" in table.out
    assert "correct false" in table.out
    assert "fields failed" in table.out
    assert "purple" in table.out
    assert "4 more rows: --limit 6 shows them" in table.err
    changed = llmops("eval", "show", runs[1], "--changed-from", runs[0], "--json").json
    assert changed["found"] == 0  # another prompt, but the engine says only the question back
    assert llmops("eval", "show", "nothing@1").code == 3


def test_a_scorer_without_a_single_score_is_warned_of_and_exits_1(llmops, runs):
    done = llmops("eval", "run", "sums", "--prompt", "qa@1")
    assert done.code == 1
    assert "warning: qa@1 on tiny@1 has no score at all of fields; mend the reason and run the suite again" in done.err
    assert "fields: 6 of 6 rows failed, row sums-0 first: MissingExpectation: expectations hold no" in done.err


@pytest.mark.slow
def test_failed_rows_are_those_without_a_score_and_those_with_the_worst(llmops, home, runs):
    suite = home.parent / "eval_sets" / "sums.toml"
    suite.write_text(suite.read_text().replace('[scorers.fields]\ntype = "json_fields"\n', ""))
    rows = home.parent / "eval_sets" / "sums-rows" / "rows.jsonl"
    rows.write_text(rows.read_text().replace("purple", "Say", 1))
    (again,) = llmops("eval", "run", "sums", "--prompt", "qa@1", "--json").json["runs"]
    failed = llmops("eval", "show", again["run_id"], "--failed", "--json").json
    assert [row["id"] for row in failed["results"]] == ["sums-2", "sums-4"]
    assert all(row["scores"]["correct"]["value"] is False for row in failed["results"])
    changed = llmops("eval", "show", again["run_id"], "--changed-from", runs[0], "--json").json["results"]
    assert [row["id"] for row in changed] == [f"sums-{number}" for number in range(6)]  # `fields` is gone
    assert changed[0]["before"]["scores"]["correct"]["value"] is False
    assert changed[0]["scores"]["correct"]["value"] is True
