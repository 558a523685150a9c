"""The monitor's actions on a real registry."""

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from llmops.errors import CannotRun, StoreUnavailable
from llmops.generation import GenerationParameters
from llmops.production_log.record import pseudonym_of
from llmops.traffic_policy import TrafficPolicy
from monitoring.act.actions import Interrupted, MonitorAction
from monitoring.act.policy import Policy, Situation
from monitoring.release_actions import RegistryActuator

OBSERVE = Policy()
ALARMS = [{"id": 7, "rows": ["r1", "r2"]}, {"id": 8, "rows": ["r2"]}]
EVIDENCE = {"alarms": ALARMS, "situation": {}, "verdict": None}


@pytest.fixture
def app(workshop, request):
    """An app of its own with three releases."""
    name = f"app{abs(hash(request.node.nodeid)) % 10**8}"
    registry = workshop.registry
    model = registry.models.get("tiny@1")
    for number, prompt in enumerate(("qa@1", "qa@2", "qa@1"), 1):
        parameters = GenerationParameters(max_tokens=10 * number)
        registry.release_versions.create(name, registry.prompts.get(prompt), model, parameters)
    return name


@pytest.fixture
def actuator(workshop):
    return RegistryActuator(workshop.settings, threading.Event())


def action(app, kind, version, policy=OBSERVE):
    release = f"{app}@{version}"
    return MonitorAction(f"{app}/{kind}/{release}/7", app, kind, release, "refusals rose", False, EVIDENCE, policy)


@pytest.fixture
def releases(workshop):
    return workshop.registry.release_versions


def promote(releases, *refs):
    for ref in refs:
        releases.promote(releases.get(ref), why="a test")


def challenge(releases, app, version, policy):
    """With a canary of a release beside the first."""
    promote(releases, f"{app}@1")
    releases.challenge(releases.get(f"{app}@{version}"))
    releases.set_policy(app, policy)


def test_the_situation_says_who_serves(releases, app, actuator):
    assert actuator.situation("nobody") == Situation()
    challenge(releases, app, 3, TrafficPolicy(canary=0.2))
    promote(releases, f"{app}@2")
    found = actuator.situation(app)
    assert (found.champion, found.challenger, found.previous) == (f"{app}@2", f"{app}@3", f"{app}@1")
    assert found.canary == 0.2
    assert found.champion_since is not None


def test_a_canary_is_stopped_and_its_challenger_withdrawn(releases, app, actuator):
    challenge(releases, app, 2, TrafficPolicy(canary=0.2, shadow=1.0, sticky="key"))
    done, again = (actuator.carry_out(action(app, "stop-canary", 2)) for _ in range(2))
    assert done["withdrawn"] == f"{app}@2"
    assert "no challenger any more" in again["note"]
    assert releases.policy(app) == TrafficPolicy(sticky="key")
    assert actuator.situation(app).challenger is None
    challenge(releases, app, 3, TrafficPolicy(canary=0.2))
    actuator.carry_out(action(app, "stop-canary", 2))
    assert actuator.situation(app).canary == 0.2, "another challenger keeps its traffic"


def test_a_rollback_moves_the_alias_once_and_never_to_and_fro(releases, app, actuator):
    promote(releases, f"{app}@1", f"{app}@2")
    done, again = (actuator.carry_out(action(app, "rollback", 2)) for _ in range(2))
    assert done == {"champion": f"{app}@1", "previous": f"{app}@2"}
    assert "no champion any more" in again["note"]
    assert releases.champion(app).ref == f"{app}@1"
    now = actuator.situation(app)
    assert now.previous is None
    assert "itself rolled back" in now.no_return
    promote(releases, f"{app}@3")
    assert actuator.situation(app).previous == f"{app}@1"
    actuator.carry_out(action(app, "rollback", 2))
    assert releases.champion(app).ref == f"{app}@3", "promoted meanwhile"


def test_a_release_is_evaluated_anew_on_the_suite_of_its_gate(workshop, app, actuator):
    with pytest.raises(CannotRun, match="no gate on record"):
        actuator.carry_out(action(app, "re-evaluate", 1))
    (first,) = workshop.run(releases=[f"{app}@1"])
    workshop.evaluations.gate(f"{app}@1", None, "sums")
    done, again = (actuator.carry_out(action(app, "re-evaluate", 1)) for _ in range(2))
    assert done["suite"] == "sums"
    assert done["run_id"] not in ("", first.run.run_id)
    assert done["metrics"]["correct"] == done["at_gate"]["correct"]
    assert again["run_id"] == done["run_id"]


SCRIPT = "import sys, json; e = json.load(open(sys.argv[1])); print(e['release'], sys.argv[2]); sys.exit(%d)"


def retraining(code, **changed):
    command = (sys.executable, "-c", SCRIPT % code, "{evidence}", "{app}")
    return Policy("retrain", False, retrain_command=command, **changed)


def test_a_retrain_command_gets_the_evidence(workshop, app, actuator):
    done = actuator.carry_out(action(app, "retrain", 1, retraining(0)))
    assert done["exit_code"] == 0
    assert done["told"] == f"{app}@1 {app}"
    evidence = json.loads(Path(done["evidence"]).read_text())
    assert [alarm["id"] for alarm in evidence["alarms"]] == [7, 8]


HANGING = Policy("retrain", retrain_command=(sys.executable, "-c", "import time; time.sleep(60)"), retrain_timeout=0.2)


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        (retraining(5), "exit code 5"),
        (Policy("retrain", retrain_command=("/no/such",)), "cannot be started"),
        (HANGING, "longer than"),
    ],
)
def test_a_retrain_command_that_fails_hangs_or_is_missing_is_an_error(app, actuator, policy, problem):
    with pytest.raises(CannotRun, match=problem):
        actuator.retrain(action(app, "retrain", 1, policy))


def test_a_retrain_command_ends_with_the_daemon(workshop, app):
    stop, hanging = threading.Event(), action(app, "retrain", 1, replace(HANGING, retrain_timeout=60))
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(Interrupted):
        RegistryActuator(workshop.settings, stop).retrain(hanging)


def test_a_recipe_begins_a_cycle_of_improve_whose_outcome_is_the_actions(
    workshop, app, actuator, releases, tmp_path, monkeypatch
):
    promote(releases, f"{app}@1")
    (tmp_path / "recipe.toml").write_text('optimizer = "examples"\n')
    policy = Policy("retrain", False, suite="sums", recipe=str(tmp_path / "recipe.toml"))
    alarm = {"id": 7, "what": "output.refusal", "kind": "drift", "side": "output", "why": "rose", "release": None,
             "rows": ["r1"]}  # fmt: skip
    asked = replace(action(app, "retrain", 1, policy), evidence={**EVIDENCE, "alarms": [alarm]})
    monkeypatch.setenv("LLMOPS_HOME", str(workshop.settings.home))
    monkeypatch.setenv("LLMOPS_EVAL_SETS", str(workshop.folder))
    done = actuator.carry_out(asked)
    assert done["pipeline"].startswith("improve@")
    assert (done["verdict"], "outcome: unchanged" in done["told"]) == ("pass", True), done["told"]
    with pytest.raises(CannotRun, match=r"(?s)ended with exit code 3: .*gone\.toml"):
        actuator.carry_out(replace(asked, key="another", policy=replace(policy, recipe="gone.toml")))


def test_what_is_evaluated_anew_and_has_become_worse_is_improved_by_the_recipe(
    workshop, app, actuator, releases, monkeypatch
):
    promote(releases, f"{app}@1")
    workshop.run(releases=[f"{app}@1"])
    workshop.evaluations.gate(f"{app}@1", None, "sums")
    begun = []
    monkeypatch.setattr(actuator, "_improve", lambda action, suite: begun.append(suite) or {"pipeline": "improve@x"})
    asked = action(app, "re-evaluate", 1, Policy("re-evaluate", False, recipe="recipe.toml"))
    assert (actuator.carry_out(asked)["worse"], begun) == (False, [])
    monkeypatch.setattr("monitoring.release_actions.is_worse", lambda _metric: True)
    assert (actuator.carry_out(asked)["improved"], begun) == ({"pipeline": "improve@x"}, ["sums"])


def test_an_action_is_recorded_once_with_its_evidence_and_names_no_user(workshop, app, actuator):
    about = {"user": "anna@example.com"}
    evidence = {
        "alarms": [{**ALARMS[0], "slice": about}, ALARMS[1]],
        "verdict": {"slices": [{"slice": about, "rows": 5}], "alarms": []},
    }
    done = replace(action(app, "rollback", 1), evidence=evidence)
    run_id, again = (actuator.record(done, {"champion": f"{app}@1"}) for _ in range(2))
    assert again == run_id
    client = workshop.registry.store.client
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert (run.data.tags["llmops.action"], run.data.tags["llmops.dry_run"]) == ("rollback", "false")
    assert {file.path for file in client.list_artifacts(run_id)} == {"action.json", "evidence.json", "rows.txt"}
    kept = {name: Path(client.download_artifacts(run_id, name)).read_text() for name in ("rows.txt", "evidence.json")}
    assert kept["rows.txt"] == "r1\nr2\n"
    assert "anna" not in kept["evidence.json"]
    assert kept["evidence.json"].count(pseudonym_of("anna@example.com")) == 2


def test_a_rollback_cut_off_between_its_two_aliases_is_finished(releases, app, actuator, monkeypatch):
    promote(releases, f"{app}@1", f"{app}@2")
    client = actuator._registry.store.client
    move = client.set_registered_model_alias

    def killed(name, alias, version):
        if alias == "previous":
            raise StoreUnavailable("gone")
        move(name, alias, version)

    with monkeypatch.context() as patched:
        patched.setattr(client, "set_registered_model_alias", killed)
        with pytest.raises(StoreUnavailable):
            actuator.roll_back(action(app, "rollback", 2))
    half_way = actuator.situation(app)
    assert (half_way.champion, half_way.previous) == (f"{app}@1", None)

    assert actuator.roll_back(action(app, "rollback", 2)) == {"champion": f"{app}@1", "previous": f"{app}@2"}
    assert "itself rolled back" in actuator.situation(app).no_return
    assert "no champion any more" in actuator.roll_back(action(app, "rollback", 2))["note"]
