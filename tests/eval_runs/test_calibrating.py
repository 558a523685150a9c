"""A judge gates only after it was measured against people, as that very judge; what was measured is on record."""

import json
from dataclasses import replace

import pytest

from llmops.errors import BadFile, CannotRun, EngineUnavailable, UsageError
from llmops.eval_runs.calibrating import Rubric, calibrate_judge, holds_pairs, load_pair_labels
from llmops.eval_runs.pairwise import KAPPA_ASKED, with_judge
from llmops.eval_runs.scorer_factory import untrusted
from llmops.recording import find_calibration
from tests.judges.scripted import ScriptedJudge
from tests.registered_home import rows

LABELS = [(f"a right answer {i}", True) if i % 2 else (f"a wrong answer, and a long one {i}", False) for i in range(60)]


def verdict(request):
    """`good` knows a wrong answer; `kind` finds everything right, `first` the first of two, `broken` says nothing."""
    model, text = request["model"], request["messages"][1]["content"]
    if model == "broken":
        return "I would rather not say."
    if "<first>" in text:
        first, second = ("right" in text.split(f"<{place}>")[1].split("</")[0] for place in ("first", "second"))
        fair = "tie" if first == second else "first" if first else "second"
        return json.dumps({"rationale": "because", "winner": "first" if model == "first" else fair})
    enum = request["response_format"]["json_schema"]["schema"]["properties"]["score"]["enum"]
    wrong = "wrong" in text and model != "kind"
    best, worst = (enum[0], enum[-1]) if enum[0] == "pass" else (enum[-1], enum[0])
    return json.dumps({"rationale": "because", "score": worst if wrong else best})


@pytest.fixture(scope="module")
def judge():
    with ScriptedJudge(verdict) as running:
        yield running


def write(path, values):
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
    return path


@pytest.fixture
def labels(tmp_path):
    values = [{"inputs": {"question": "What?"}, "output": text, "label": label} for text, label in LABELS]
    return write(tmp_path / "labels.jsonl", values)


def pair_rows(n):
    """People prefer the right answer, wherever it stands; every third pair has two right ones."""
    made = []
    for i in range(n):
        a, b, label = ("right", "wrong", "a") if i % 2 else ("wrong", "right", "b")
        if i % 3 == 0:
            a, b, label = "right", "right too", "tie"
        row = {"inputs": {"question": f"Q{i}?"}, "output_a": f"{a} {i}", "output_b": f"{b} {i}", "label": label}
        made.append(row)
    return made


@pytest.fixture
def pairs(tmp_path):
    return write(tmp_path / "pairs.jsonl", pair_rows(60))


def add_judged_suite(workshop, name, judge, model="good", more="", kappa=""):
    """A suite whose gate hangs on a judge."""
    folder = workshop.folder / f"{name}-rows"
    folder.mkdir(exist_ok=True)
    write(folder / "rows.jsonl", rows(name, 24))
    (workshop.folder / f"{name}.toml").write_text(
        f'eval_sets = ["{name}-rows"]\nprompt = "qa"\nmodel = "tiny@1"\n'
        f'[judges.ours]\nbase_url = "{judge.base_url}"\nmodel = "{model}"\nretries = 0\n{kappa}\n'
        '[scorers.helpful]\ntype = "judge.rubric"\ninstructions = "Is it right?"\n'
        f'{more}\n[gate]\nprimary = "helpful"\nrule = "not-worse"\nmargin = 0.2\n'
    )


def calibrated(workshop, labels, suite=None, scorer=None, *, judge=None, key_variable=None, **options):
    evaluations = replace(workshop, settings=with_judge(workshop.settings, judge, key_variable)).evaluations
    return calibrate_judge(
        labels, evaluations, lambda _done, _total: None, suite=suite, scorer=scorer, judge=judge, **options
    )


def upstream(judge, model="good"):
    return f"openai:{judge.base_url}#{model}"


def test_a_judge_decides_a_gate_only_after_it_was_found_to_agree_with_people(workshop, judge, labels):
    def gated(suite):
        return workshop.evaluations.gate("qa@2", "qa@1", suite).verdict

    for name, model in (("well-judged", "good"), ("badly-judged", "kind")):
        add_judged_suite(workshop, name, judge, model)
        workshop.run((), suite=name)
        before = gated(name)
        assert before.verdict == "inconclusive"
        assert "helpful cannot gate: its judge is not calibrated" in before.reasons[0]
    good = calibrated(workshop, labels, "well-judged", "helpful")
    kind = calibrated(workshop, labels, "badly-judged", "helpful")
    assert good.untrusted is None
    assert gated("well-judged").verdict == "pass"
    after = gated("badly-judged")
    assert after.verdict == "inconclusive"
    assert after.reasons[0] == f"helpful cannot gate: {kind.untrusted}"


def test_what_was_measured_is_recorded_under_the_judge_the_gate_uses(workshop, judge, labels):
    add_judged_suite(workshop, "recorded", judge)
    found = calibrated(workshop, labels, "recorded")  # its only judge scorer needs no name
    record = find_calibration(workshop.registry.store, found.calibration.judge_hash)
    assert (record["kappa"], record["kappa_low"], record["accuracy"]) == (1.0, found.value["ci95"][0], 1.0)
    assert len(record["rows"]) == len(LABELS)
    metrics = workshop.registry.store.client.get_run(found.value["run_id"]).data.metrics
    assert (metrics["kappa"], metrics["n"], metrics["n_failed"]) == (1.0, 60.0, 0.0)


def test_the_answer_has_what_the_contract_names_and_a_judge_is_never_asked_the_same_twice(workshop, judge, labels):
    value = calibrated(workshop, labels, judge=upstream(judge, "kind")).value
    assert value["judge"] == upstream(judge, "kind")
    assert (value["kappa"], value["agreement"], value["n"], value["n_failed"]) == (0.0, 0.5, 60, 0)
    assert value["confusion"] == {"labels": [False, True], "counts": [[0, 30], [0, 30]]}
    assert value["length_bias"]["correlation"] > 0.8  # it is kind to the long, wrong answers
    assert value["position_bias"] is None
    assert (value["trusted"], value["kappa_asked"]) == (False, KAPPA_ASKED)
    json.dumps(value)
    seen = len(judge.requests)
    assert calibrated(workshop, labels, judge=upstream(judge, "kind")).value["kappa"] == 0.0
    assert len(judge.requests) == seen


@pytest.mark.parametrize(
    ("kappa", "asked", "trusted"), [("kappa = 0.99", None, False), ("kappa = 0.99", 0.5, True), ("", 0.999, False)]
)
def test_trust_goes_by_the_suites_kappa_unless_another_is_given(workshop, judge, labels, kappa, asked, trusted):
    add_judged_suite(workshop, "strict", judge, kappa=kappa)
    found = calibrated(workshop, labels, "strict", "helpful", kappa=asked)
    assert (found.untrusted is None) == trusted


def test_one_scorer_is_chosen_by_its_judge_or_by_name(workshop, judge, labels):
    other = f'judge = "ours"\n[judges.theirs]\nbase_url = "{judge.base_url}"\nmodel = "kind"\n'
    more = '[scorers.kind]\ntype = "judge.rubric"\ninstructions = "Is it nice?"\njudge = "theirs"\n'
    add_judged_suite(workshop, "two-judges", judge, more=other + more)
    assert calibrated(workshop, labels, "two-judges", judge="theirs").calibration.scorer == "kind"
    assert calibrated(workshop, labels, "two-judges", "helpful").calibration.scorer == "helpful"
    for scorer, named, problem in (
        (None, None, "it has helpful, kind"),
        ("helpful", "theirs", r"asks openai:.*#kind; it has kind"),
        (None, "hers", "the suite has no judge 'hers'"),
    ):
        with pytest.raises(UsageError, match=problem):
            calibrated(workshop, labels, "two-judges", scorer, judge=named)


def test_an_upstream_stands_in_for_the_judge_that_a_suite_leaves_to_the_settings(workshop, judge, labels):
    add_judged_suite(workshop, "open", judge)
    path = workshop.folder / "open.toml"
    head, _, rest = path.read_text().partition("[judges.ours]")
    path.write_text(head + "[scorers" + rest.partition("[scorers")[2])
    with pytest.raises(UsageError, match="it has none; without a judge are helpful"):
        calibrated(workshop, labels, "open", "helpful")
    found = calibrated(workshop, labels, "open", "helpful", judge=upstream(judge))
    by_setting = workshop.with_settings(judge=upstream(judge)).evaluations
    assert untrusted(by_setting.suite("open"), workshop.registry.store) == {}
    assert found.untrusted is None
    other = workshop.with_settings(judge=upstream(judge, "kind")).evaluations
    assert list(untrusted(other.suite("open"), workshop.registry.store)) == ["helpful"]


@pytest.mark.parametrize(
    ("rubric", "best", "worst"),
    [(Rubric(scale="1,5"), 5, 1), (Rubric(scale="poor, rich", good=("rich",)), "rich", "poor")],
)
def test_numbers_and_texts_are_judged_on_a_scale_that_was_given(workshop, judge, tmp_path, rubric, best, worst):
    values = [
        {"inputs": {"question": "What?"}, "output": text, "label": best if label else worst} for text, label in LABELS
    ]
    path = write(tmp_path / "labels.jsonl", values)
    assert calibrated(workshop, path, judge=upstream(judge), rubric=rubric).untrusted is None
    with pytest.raises(UsageError, match="--scale: the labels are not true and false"):
        calibrated(workshop, path, judge=upstream(judge))


def test_a_judge_without_a_key_or_any_verdict_is_not_measured_and_nothing_is_recorded(workshop, judge, labels, pairs):
    def recorded():
        store = workshop.registry.store
        return len(store.client.search_runs([store.experiment("judges")]))

    before, seen = recorded(), len(judge.requests)
    for path in (labels, pairs):
        with pytest.raises(EngineUnavailable, match="NO_SUCH_KEY holds no key"):
            calibrated(workshop, path, judge=upstream(judge), key_variable="NO_SUCH_KEY")
        assert len(judge.requests) == seen  # it stops before the first question
    for path in (labels, pairs):
        with pytest.raises(CannotRun, match=r"#broken gave no verdict on any of 60 labels; the first: EngineError"):
            calibrated(workshop, path, judge=upstream(judge, "broken"))
    assert recorded() == before


NOWHERE = "openai:http://127.0.0.1:9/v1#x"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "which judge"),
        ({"judge": "ours"}, "only a suite has judges by name"),
        ({"judge": "ours", "key_variable": "KEY"}, "--key-variable goes with"),
        ({"scorer": "helpful", "judge": NOWHERE}, "only a suite has scorers"),
        ({"suite": "misused", "scorer": "helpful", "rubric": Rubric("Other")}, "the suite's scorer has its own"),
        ({"judge": "openai:http://127.0.0.1:9/v1"}, "base_url"),
    ],
)
def test_what_does_not_go_together_is_refused(workshop, judge, labels, asked, message):
    add_judged_suite(workshop, "misused", judge)
    with pytest.raises(UsageError, match=message):
        calibrated(workshop, labels, **asked)


def test_pairs_are_judged_in_both_orders_and_compared_with_people(workshop, judge, pairs):
    seen = len(judge.requests)
    fair = calibrated(workshop, pairs, judge=upstream(judge))
    assert len(judge.requests) - seen == 120
    assert (fair.untrusted, fair.position_bias.flipped) == (None, 0)
    assert fair.value["confusion"] == {
        "labels": ["a", "b", "tie"], "counts": [[20, 0, 0], [0, 20, 0], [0, 0, 20]]
    }  # fmt: skip
    partial = calibrated(workshop, pairs, judge=upstream(judge, "first")).value
    assert partial["kappa"] == 0
    assert partial["confusion"]["counts"][0] == [0, 0, 20]  # a verdict that turns with the order is a tie
    assert (partial["position_bias"]["flipped"], partial["position_bias"]["prefers_first"]) == (1.0, 1.0)
    assert not partial["trusted"]
    for asked in ({"scorer": "helpful"}, {"rubric": Rubric(scale="1,5")}):
        with pytest.raises(UsageError, match="do not go with labels of pairs"):
            calibrated(workshop, pairs, judge=upstream(judge), **asked)


PAIR = pair_rows(1)[0]
SINGLE = {"inputs": {"question": "Q?"}, "output": "x", "label": True}


@pytest.mark.parametrize(
    ("second", "place"),
    [
        (SINGLE, "2: output"),
        ({**PAIR, "label": "c"}, "2: label: must be a, b or tie"),
        ({**PAIR, "label": ["a"]}, "2: label: must be a, b or tie"),
        ({**PAIR, "output_b": None}, "2: output_b: must be text"),
        ({**PAIR, "inputs": {}}, "2: inputs"),
        ({**PAIR, "id": "line-1"}, "2: id: 'line-1' stands on two rows"),
    ],
)
def test_a_wrong_pair_is_named_by_line_and_field(tmp_path, second, place):
    path = write(tmp_path / "pairs.jsonl", [PAIR, second])
    assert holds_pairs(path)
    with pytest.raises(BadFile, match=rf"pairs\.jsonl:{place}"):
        load_pair_labels(path)


@pytest.mark.parametrize(("lines", "problem"), [([SINGLE, PAIR], "2: output_a: unknown field"), ([], "holds no rows")])
def test_a_pair_among_single_outputs_and_an_empty_file_are_wrong(workshop, judge, tmp_path, lines, problem):
    with pytest.raises(BadFile, match=problem):
        calibrated(workshop, write(tmp_path / "labels.jsonl", lines), judge=upstream(judge))
