import json

import numpy as np
import pytest

from llmops.errors import CannotRun, EngineUnavailable
from llmops.production_log import LogRecord
from monitoring.descriptors import DescriptorSet
from monitoring.descriptors.outside_kinds import cosines_by
from tests.judges.scripted import ScriptedJudge
from tests.moments import START


def records(*answers, question="Is it so?"):
    return [LogRecord(f"r{n}", START, 200, "ok", input=question, output=text) for n, text in enumerate(answers)]


def judged(judge, answers, **table):
    endpoint = {"base_url": judge.base_url, "model": "scripted", "retries": 0, "timeout": 60.0}
    tables = [{"name": "j", "kind": "judge", "instructions": "Is it polite?", "endpoint": endpoint, **table}]
    declared = DescriptorSet.from_config(tables)
    return declared.descriptors["j"], declared.describe(records(*answers))


def verdict(score):
    return json.dumps({"rationale": "as I read it", "score": score})


def test_a_judge_sees_question_and_answer_and_gives_a_flag():
    with ScriptedJudge(lambda body: verdict("fail" if "rude" in body["messages"][1]["content"] else "pass")) as judge:
        descriptor, described = judged(judge, ["thank you", "a rude word"])
        assert all("Is it so?" in request.text for request in judge.requests)
    assert (descriptor.kind, descriptor.side) == ("flag", "output")
    assert described.columns["j"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("scale", "score", "kind", "value"),
    [
        ({"scale": [1, 5]}, 4, "numeric", 0.75),
        ({"scale": ["warm", "cold"]}, "cold", "label", "cold"),
        ({"scale": ["warm", "cold"], "good": "warm"}, "cold", "flag", 0),
    ],
)
def test_points_are_a_number_and_labels_without_a_good_one_a_label(scale, score, kind, value):
    with ScriptedJudge(lambda body: verdict(score)) as judge:
        descriptor, described = judged(judge, ["a"], **scale)
    assert (descriptor.kind, described.columns["j"].tolist()) == (kind, [value])


@pytest.mark.parametrize(
    ("reply", "reason"), [("great!", "not JSON"), ((503, {}, "{}"), "")], ids=["breaks the schema", "is down"]
)
def test_a_judge_without_a_verdict_is_a_counted_failure_and_not_asked_about_every_row(reply, reason):
    with ScriptedJudge(lambda body: reply) as judge:
        _, described = judged(judge, ["a"] * (2 if reason else 200))
        asked = len(judge.requests)
    assert described.failures["j"] == len(described)
    assert reason in described.reasons["j"]
    assert np.isnan(described.columns["j"]).all()
    assert asked < 20


def test_a_judge_that_cannot_be_reached_is_told_by_its_address_before_any_row_is_described():
    with ScriptedJudge(lambda body: verdict("pass")) as judge:
        gone = judge

    with pytest.raises(EngineUnavailable, match=rf"judge j at {gone.base_url} cannot be reached: .*; is it running\?"):
        judged(gone, ["a"])
    assert judged(gone, [])[1].columns["j"].tolist() == []  # nothing to ask


def test_only_a_sample_is_judged():
    with ScriptedJudge(lambda body: verdict("pass")) as judge:
        _, described = judged(judge, ["a"] * 200, sampled=0.1)
        asked = len(judge.requests)
    assert 5 < asked < 50
    assert np.nansum(described.columns["j"]) == asked
    assert not described.failures


def evidently(name, returns, parameters=None):
    table = {"name": "e", "kind": "evidently", "of": "output", "class": name, "returns": returns}
    return DescriptorSet.from_config([{**table, "parameters": parameters or {}}])


def test_any_of_evidentlys_text_descriptors_can_be_declared():
    described = evidently("IsValidPython", "flag").describe(records("x = 1", "x = = 1", ""))
    assert described.columns["e"][:2].tolist() == [1, 0]
    assert np.isnan(described.columns["e"][2])
    words = {"words_list": ["sorry"], "lemmatize": False}
    described = evidently("IncludesWords", "flag", words).describe(records("so sorry", "fine"))
    assert described.columns["e"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "problem"), [("TextLenght", "did you mean TextLength"), ("ExactMatch", "does not read one text")]
)
def test_one_that_is_not_there_or_reads_more_cannot_run(name, problem):
    with pytest.raises(CannotRun, match=problem):
        evidently(name, "numeric").describe(records("a"))


def test_one_whose_data_is_missing_cannot_run_and_downloads_nothing(tmp_path, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    nltk.data.clear_cache()  # what another test found
    with pytest.raises(CannotRun, match="Evidently's Sentiment cannot run here"):
        evidently("Sentiment", "numeric").describe(records("a"))
    assert list(tmp_path.iterdir()) == []


def test_similarity_is_the_cosine_of_question_and_answer_and_none_for_a_blank():
    def letters(texts):
        assert all(text.encode() for text in texts)
        counts = np.array([[text.count(letter) for letter in "ab"] for text in texts], dtype=float)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    found = cosines_by(letters)(records("aa", "b", " ", "ab\ud800", question="a"))
    assert found == [pytest.approx(1), 0, None, pytest.approx(2**-0.5)]
    assert cosines_by(letters)(records("", question="a")) == [None]
