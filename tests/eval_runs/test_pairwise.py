"""Two recorded runs before a judge: both orders, counted from the second run's side, and never asked twice; and votes
between two releases, counted from a real log."""

import json
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from llmops.errors import CannotRun, UnknownVersion, UsageError
from llmops.eval_runs.calibrating import calibrate_judge
from llmops.eval_runs.pairwise import Votes, judge_runs, votes_between, with_judge
from llmops.generation import GenerationParameters
from llmops.production_log import Feedback, LogRecord, ProductionLog
from llmops.prompt_file import parse_prompt
from llmops.versions import ModelVersion, PromptVersion, Release
from tests.judges.scripted import ScriptedJudge
from tests.registered_home import prompt_text

ROWS = 24


def winner(request):
    """`long` prefers the longer answer, `first` the first one, `broken` says nothing."""
    model, text = request["model"], request["messages"][1]["content"]
    first, second = (len(text.split(f"<{place}>\n")[1].split("\n</")[0]) for place in ("first", "second"))
    if model == "broken":
        return "no"
    longer = "tie" if first == second else "first" if first > second else "second"
    return json.dumps({"rationale": "because", "winner": "first" if model == "first" else longer})


@pytest.fixture(scope="module")
def judge():
    with ScriptedJudge(winner) as running:
        yield running


@pytest.fixture(scope="module")
def judged(workshop):
    """Two runs: the answers of the second prompt are longer in every row."""
    for more in ("", "Indeed. "):
        text = prompt_text("Be brief.").replace("{{ question }}", more + "{{ question }}")
        workshop.registry.prompts.register("pairs", parse_prompt(text))
    workshop.add_suite("pairs", ROWS, prompt="pairs")
    workshop.add_suite("others", 4, prompt="qa")
    for name in ("pairs", "others"):
        workshop.run((), suite=name)
    return workshop


def ask(evaluations, judge, model="long", a="pairs@1", b="pairs@2", **more):
    return judge_runs(evaluations, a, b, lambda *_: None, judge=f"openai:{judge.base_url}#{model}", **more)


def test_wins_are_the_second_runs_and_are_recorded_with_it(judged, judge, tmp_path):
    value = ask(judged.evaluations, judge).to_json()
    assert (value["wins"], value["losses"], value["ties"], value["rows"]) == (ROWS, 0, 0, ROWS)
    assert (value["win_share"], value["inconsistent"], value["n_failed"]) == (1.0, 0.0, 0)
    assert value["ci95"][0] > 0.8
    assert value["ci95"][1] == 1.0
    assert value["p_value"] < 1e-6
    client = judged.registry.store.client
    path = client.download_artifacts(value["runs"]["b"], "comparisons/pairwise-against-pairs-1.json", str(tmp_path))
    record = json.loads((tmp_path / path).read_text(encoding="utf-8"))
    assert {name: record[name] for name in value} == json.loads(json.dumps(value))
    assert {verdict["winner"] for verdict in record["verdicts"]} == {"b"}


def test_the_same_runs_the_other_way_round_mirror_and_ask_nothing(judged, judge):
    forth = ask(judged.evaluations, judge, instructions="Which is more?")
    seen = len(judge.requests)
    back = ask(judged.evaluations, judge, a="pairs@2", b="pairs@1", instructions="Which is more?")
    assert len(judge.requests) == seen
    assert (back.wins, back.losses, back.win_share) == (forth.losses, forth.wins, 1 - forth.win_share)


def test_a_judge_that_favours_a_place_decides_nothing_and_one_that_says_nothing_could_not_run(judged, judge):
    value = ask(judged.evaluations, judge, "first").to_json()
    assert (value["wins"], value["losses"], value["ties"], value["inconsistent"]) == (0, 0, ROWS, 1.0)
    assert (value["win_share"], value["ci95"], value["p_value"]) == (None, None, 1.0)
    assert value["position_bias"]["prefers_first"] == 1.0
    with pytest.raises(CannotRun, match=r"no verdict on any of 2 rows; the first: EngineError"):
        ask(judged.evaluations, judge, "broken", limit=2)


def test_a_limit_asks_only_the_first_rows_and_leaves_a_doubt_as_do_rows_in_clusters(judged, judge):
    evaluations, seen = judged.evaluations, len(judge.requests)
    limited = ask(evaluations, judge, limit=3, instructions="Only three?")
    assert (limited.rows, len(judge.requests) - seen) == (3, 6)
    assert f"only the first 3 of {ROWS} rows were judged" in limited.doubts
    runs = [evaluations.resolve(name).run_id for name in ("pairs@1", "pairs@2")]
    assert not any("clusters" in doubt for doubt in ask(evaluations, judge, a=runs[0], b=runs[1]).doubts)
    evaluations._suites["pairs"] = replace(evaluations.suite("pairs"), cluster_by="tags.parity")
    assert "24 rows come in 2 clusters" in "; ".join(ask(evaluations, judge, a=runs[0], b=runs[1]).doubts)


def test_its_word_is_trusted_only_after_that_very_judge_was_calibrated_on_pairs(judged, judge, tmp_path):
    before = ask(judged.evaluations, judge, limit=4)
    assert not before.trusted
    assert "not calibrated" in before.why
    pairs = [
        {"inputs": {"question": f"{i}?"}, "output_a": "x" * (1 + i % 2), "output_b": "x" * (2 - i % 2),
         "label": "a" if i % 2 else "b"}
        for i in range(60)
    ]  # fmt: skip
    labels = tmp_path / "pairs.jsonl"
    labels.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    settings = with_judge(judged.settings, before.judge)
    calibrate_judge(labels, replace(judged, settings=settings).evaluations, lambda *_: None, judge=before.judge)
    assert ask(judged.evaluations, judge, limit=4).trusted
    assert not ask(judged.evaluations, judge, limit=4, instructions="Another question").trusted


def test_runs_are_of_one_suite_and_recorded_and_a_judge_is_named(judged, judge):
    evaluations = judged.evaluations
    with pytest.raises(CannotRun, match="give runs of one suite"):
        ask(evaluations, judge, b=evaluations.resolve("qa@1", "others").run_id)
    with pytest.raises(UnknownVersion, match="pairs@9"):
        ask(evaluations, judge, b="pairs@9")
    with pytest.raises(UsageError, match="which judge"):
        judge_runs(evaluations, "pairs@1", "pairs@2", lambda *_: None)


def release(version, app="assistant"):
    prompt = PromptVersion("qa", version, parse_prompt("---\ninput_variable: q\n---\n# user\n{{ q }}\n"))
    return Release(app, version, prompt, ModelVersion("tiny", 1, "file:x", "gguf", "a"), GenerationParameters())


def test_votes_are_counted_for_two_releases_of_one_app_as_they_were_named(tmp_path):
    with closing(ProductionLog(f"sqlite:///{tmp_path / 'log.db'}")) as log:
        for number, (of, label, compared) in enumerate([
            ("assistant@9", "better", "assistant@10"),
            ("assistant@10", "better", "assistant@9"),
            ("assistant@9", "worse", "assistant@10"),
            ("assistant@9", "tie", "assistant@10"),
            ("assistant@9", "better", "assistant@11"),
        ]):  # fmt: skip
            one, other = (LogRecord(f"{number}-{name}", datetime.now(UTC), 200, "ok", release=name)
                          for name in (of, compared))  # fmt: skip
            log.append([one, other])
            log.add_feedback(
                Feedback(one.request_id, one.key, "anonymous", app=one.app, release=of, label=label,
                         compared_to=other.request_id, compared_key=other.key, compared_release=compared)
            )  # fmt: skip
        found, turned = votes_between(log, release(9), release(10)), votes_between(log, release(10), release(9))
        for pair in ((release(9), release(9)), (release(9), release(10, "other")), (release(9), release(12))):
            assert votes_between(log, *pair) is None
    assert (found.a, found.b, found.n, found.wins_a, found.wins_b, found.ties) == (
        "assistant@9", "assistant@10", 4, 1, 2, 1,
    )  # fmt: skip
    assert (turned.a, turned.wins_a, turned.wins_b, turned.p_value) == ("assistant@10", 2, 1, found.p_value)


def test_the_interval_of_votes_is_the_exact_sign_test_inverted_and_ties_alone_decide_nothing():
    votes = Votes.counted("a@1", "a@2", 2, 8, 5)
    assert votes.share_b == 0.8
    assert votes.ci95 == pytest.approx((0.4439, 0.9748), abs=1e-4)  # Clopper and Pearson
    assert votes.p_value == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert votes.sentence() == (
        "votes: 2 for a@1, 8 for a@2, 5 for neither; 80% of those decided prefer a@2 (95 % interval 44% to 97%), "
        "p = 0.109"
    )
    assert votes.to_json()["n"] == 15
    tied = Votes.counted("a@1", "a@2", 0, 0, 3)
    assert (tied.n, tied.ties, tied.p_value, tied.ci95) == (3, 3, None, None)
    assert tied.sentence() == "votes: 0 for a@1, 0 for a@2, 3 for neither"
