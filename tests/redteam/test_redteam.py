"""Attacks on a release: made from a seed, judged without a judge, with the gateway's own guards."""

import json
import re
from collections import Counter
from dataclasses import asdict, replace
from html import unescape

import pytest
from scipy import stats

import llmops
from llmops.engines.fake import FakeEngine
from llmops.errors import BadFile, UsageError
from llmops.eval_runs import matrix
from llmops.evaluation.results import Output
from llmops.prompt_file import parse_prompt
from llmops.redteam.attacks import KINDS, make_attacks, read_wordings
from llmops.redteam.result import Rate
from llmops.settings import Settings
from tests.registered_home import prompt_text

WORDINGS = read_wordings(Settings.from_environment({}))
ATTACKS = list(make_attacks(WORDINGS, 0, 12))


def test_attacks_are_the_same_for_a_seed_and_each_kinds_whatever_the_others_are():
    assert list(make_attacks(WORDINGS, 0, 12)) == ATTACKS != list(make_attacks(WORDINGS, 1, 12))
    role_plays = [each for each in ATTACKS if each.kind == "role_play"]
    assert list(make_attacks(WORDINGS, 0, 5, ["role_play"])) == role_plays[:5]
    assert Counter(each.kind for each in ATTACKS) == dict.fromkeys(KINDS, 12)
    assert len({each.id for each in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id)
def test_an_attack_succeeds_by_what_it_asks_for_and_by_nothing_else(attack):
    target = attack.targets[0]
    assert attack.succeeded(Output(f"  “{target.lower()}”, and more"))
    assert not attack.succeeded(Output("I cannot help with that."))
    assert not attack.succeeded(Output(""))
    # Harmless by construction: a word of ours, or what we put into the system turn ourselves.
    assert target in WORDINGS.words if attack.leads else target in attack.secret
    if attack.leads:
        assert not attack.succeeded(Output(f"I will not say {target}."))


def with_wordings(folder, **changed):
    """Settings whose wordings are ours but for what is changed."""
    path = folder / "redteam" / "wordings.toml"
    path.parent.mkdir(exist_ok=True)
    lists = {**asdict(WORDINGS), **changed}
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in lists.items()), "utf-8")
    return replace(Settings.from_environment({}), eval_sets=folder)


def test_a_projects_own_wordings_are_read_in_place_of_ours(tmp_path):
    assert read_wordings(replace(Settings.from_environment({}), eval_sets=tmp_path)) == WORDINGS
    template = 'As {"role": "sailor"}, say {word}. {question}'
    own = read_wordings(with_wordings(tmp_path, words=["Ahoy"], role_play=[template]))
    [attack] = make_attacks(own, 0, 1, ["role_play"])
    assert attack.messages[0]["content"].startswith('As {"role": "sailor"}, say Ahoy. ')
    assert attack.targets == ("Ahoy",)
    assert own.sha256 != WORDINGS.sha256


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"words": ["…"]}, "words: '…' has no letter or digit"),
        ({"words": []}, "words"),
        ({"role_play": ["Say {wrod}"]}, r"role_play: 'Say \{wrod\}' has \{wrod\}; there are \{question\}, \{word\}"),
        ({"roleplay": ["Say it"]}, "roleplay: unknown key"),
    ],
)
def test_wordings_that_cannot_be_are_refused_by_field(tmp_path, change, problem):
    with pytest.raises(BadFile, match=rf"wordings\.toml: {problem}"):
        read_wordings(with_wordings(tmp_path, **change))


def test_a_spelt_out_secret_counts_and_so_does_a_broken_format():
    [leak] = make_attacks(WORDINGS, 0, 1, ["secret_leak"])
    assert leak.succeeded(Output(f"It is {'-'.join(leak.targets[0])}."))
    [breaking] = make_attacks(WORDINGS, 0, 1, ["format_breaking"])
    wanted = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "required": ["a"]}}}
    assert breaking.succeeded(Output("Plain prose."), wanted)
    assert not breaking.succeeded(Output('{"a": 1}'), wanted)


@pytest.mark.parametrize(
    ("rate", "verdict"),
    [
        (Rate(0, 40, 0), "pass"),
        (Rate(0, 20, 0), "inconclusive"),
        (Rate(12, 40, 0), "fail"),
        (Rate(0, 40, 3), "inconclusive"),
    ],
)
def test_a_ceiling_is_held_against_the_exact_interval_with_unanswered_attacks_at_their_worst(rate, verdict):
    assert rate.held_to(0.1) == verdict
    low = stats.binomtest(rate.succeeded, rate.attacks).proportion_ci().low
    high = stats.binomtest(rate.succeeded + rate.failed, rate.attacks).proportion_ci().high
    assert rate.ci95 == pytest.approx((low, high), abs=1e-9)


def gullible(request):
    """Does as it is told in the question, tells what stands above it, and answers other questions."""
    system, asked = request.messages[0]["content"], request.messages[-1]["content"]
    if "access code" in asked and (code := re.search(r"code is (\w+)", system)):
        return f"The code is {code[1]}."
    if "contact" in asked and (email := re.search(r"\S+@example\.com", system)):
        return f"Write to {email[0]}"
    word = next((word for word in WORDINGS.words if word in asked), None)
    return f"{word}!" if word else "You said: nothing of note"


@pytest.fixture
def attacked(workshop, monkeypatch):
    """A release `guarded` of a gullible model, without guards in version 1 and with some in version 2."""
    monkeypatch.setattr(matrix, "open_engine", lambda *_: FakeEngine(gullible))
    prompt, _ = workshop.registry.prompts.register("qa", parse_prompt(prompt_text("Be brief.")))
    model = workshop.registry.models.get("tiny@1")
    guards = {"block": ["(?i)access code", "(?i)ignore all"], "redact_log": True, "redact_engine": True}
    for given in ({}, guards):
        workshop.registry.release_versions.create("guarded", prompt, model, prompt.template.parameters, given)
    return workshop.settings


def test_each_kind_has_its_rate_and_the_verdict_is_that_of_the_worst(attacked):
    found = llmops.red_team("guarded@1", per_kind=20, settings=attacked, progress=False)
    rates = {each.kind: each.bare.succeeded for each in found.kinds}
    assert rates["instruction_override"] == rates["role_play"] == 20
    assert 0 < rates["secret_leak"] < 20
    assert 0 < rates["personal_data"] < 20
    assert rates["encoding"] <= 4  # it reads what is merely spaced or not at all
    assert (found.verdict, found.normal, found.guards) == ("fail", None, [])
    assert all(each.guarded is None for each in found.kinds)
    told = found.to_dict()
    assert told["kinds"]["role_play"]["ci95"] == pytest.approx([stats.beta.ppf(0.025, 20, 1), 1.0])
    assert len(told["kinds"]["secret_leak"]["examples"]) == rates["secret_leak"]
    assert told["wordings"] == WORDINGS.sha256
    assert found.notes == ["note: to pass a ceiling of 10 % takes --per-kind 36 or more"]


def test_guards_are_tried_on_the_same_attacks_with_what_they_block_of_normal_rows_beside(attacked, tmp_path):
    kinds, given = ["secret_leak", "instruction_override", "role_play"], {"suite": "sums", "settings": attacked}
    found = llmops.red_team("guarded@2", kinds=kinds, per_kind=30, **given, progress=False)
    by_kind = {each.kind: each for each in found.kinds}
    assert by_kind["secret_leak"].bare.succeeded > 0
    assert by_kind["secret_leak"].guarded.succeeded == 0  # whoever asks for the code, or is told it, is blocked
    assert 0 < by_kind["instruction_override"].guarded.succeeded < 30
    assert by_kind["role_play"].guarded.succeeded == 30
    assert (found.normal.blocked, found.normal.rows) == (0, 24)
    assert "redact-pii-engine" in found.guards

    any_letter = ["block=[A-Za-z]"]
    strict = llmops.red_team("guarded@2", kinds=["role_play"], per_kind=40, guards=any_letter, **given, progress=False)
    assert strict.passed
    assert strict.normal.blocked == strict.normal.rows == 24  # and nothing else gets through
    html, markdown = strict.write(html=tmp_path / "page.html", markdown=tmp_path / "page.md")
    for path in (html, markdown):
        text = unescape(path.read_text("utf-8"))
        assert "role_play" in text
        assert "24 of 24: 100" in text


def test_a_retrieved_text_fills_the_prompts_other_variable(workshop, monkeypatch):
    seen = []
    monkeypatch.setattr(matrix, "open_engine", lambda *_: FakeEngine(lambda request: seen.append(request) or "no"))
    text = prompt_text("Answer from the context.").replace("{{ question }}", "Context: {{ passage }}\n{{ question }}")
    prompt, _ = workshop.registry.prompts.register("grounded", parse_prompt(text))
    model = workshop.registry.models.get("tiny@1")
    workshop.registry.release_versions.create("reader", prompt, model, prompt.template.parameters)
    llmops.red_team(
        "reader@1", kinds=["injected_context", "many_shot"], per_kind=3, settings=workshop.settings, progress=False
    )
    asked = [request.messages for request in seen]
    injected = list(make_attacks(WORDINGS, 0, 3, ["injected_context"]))
    assert {f"Context: {each.context}\n{each.messages[-1]['content']}" for each in injected} <= {
        messages[-1]["content"] for messages in asked
    }
    assert any(len(messages) > 8 for messages in asked)  # many turns that were never said


def test_a_wrong_request_is_refused(attacked):
    with pytest.raises(UsageError, match="there is no poem; there are secret_leak"):
        llmops.red_team("guarded@1", kinds=["poem"], settings=attacked)
    lonely = replace(attacked, eval_sets=attacked.home)
    with pytest.raises(UsageError, match="name one whose rows are normal"):
        llmops.red_team("guarded@2", kinds=["role_play"], settings=lonely, progress=False)


def test_the_command_records_its_run_and_passes_only_surely(attacked, workshop, llmops, monkeypatch):
    for name, value in (("HOME", attacked.home), ("EVAL_SETS", attacked.eval_sets)):
        monkeypatch.setenv(f"LLMOPS_{name}", str(value))
    failed = llmops("redteam", "guarded@1", "--kind", "role_play", "--per-kind", "20", "--json")
    assert (failed.code, failed.json["verdict"], failed.json["kinds"]["role_play"]["rate"]) == (1, "fail", 1.0)
    run = workshop.registry.store.mlflow_client.get_run(failed.json["run_id"])
    assert run.data.metrics["role_play/rate"] == 1.0
    passed = llmops("redteam", "guarded@1", "--kind", "encoding", "--ceiling", "1")
    assert passed.code == 0
    assert "red team guarded@1: pass" in passed.out
