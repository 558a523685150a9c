"""The LLM lifecycle from a new prompt version to its promotion or withdrawal, on a real registry and log."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from labs.llm.pipeline import LlmSteps, completed, pipeline
from llmops.errors import CannotRun, GateRefused, UnknownVersion, UsageError
from llmops.generation import GenerationParameters
from llmops.pipelines import Pipelines, StepFailed
from llmops.production_log import LogRecord, ProductionLog
from llmops.settings import Settings
from llmops.traffic_policy import TrafficPolicy
from tests.labs.llm.canary import canary_traffic
from tests.labs.llm.direct import Direct
from tests.registered_home import write_prompts

STEPS = ["register", "evaluate", "gate", "canary", "monitor"]


@dataclass
class App:
    """An app, its gateway's log, and the clock that a canary waits by. arrives: what is logged while it waits."""

    name: str
    workshop: Any
    settings: Settings
    at: datetime = datetime(2026, 5, 1, 12, tzinfo=UTC)
    arrives: list[list[LogRecord]] = field(default_factory=list)
    naps: list[float] = field(default_factory=list)

    @property
    def books(self) -> Any:
        return self.workshop.registry.release_versions

    @property
    def steps(self) -> LlmSteps:
        return LlmSteps(self.settings, lambda: self.at, self.nap)

    def nap(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.at += timedelta(seconds=seconds)
        if self.arrives:
            log = ProductionLog(self.settings.resolved_log_url)
            log.import_records(self.arrives.pop(0))
            log.close()

    def traffic(self, rows: int, **how: Any) -> list[LogRecord]:
        """From now on."""
        return canary_traffic(self.name, self.at, rows, **how)

    def run(self, **inputs: Any) -> tuple[dict[str, Any], list[str]]:
        """Result and steps."""
        given = {"suite": "sums", "app": self.name, "minimum_rows": 60, "deadline_seconds": 25, **inputs}
        direct = Direct()
        return dict(pipeline(self.settings, work=self.steps).function(direct, completed(given))), direct.done

    def aliases(self) -> dict[str, str]:
        return {alias: release.ref for release in self.books.versions(self.name) for alias in release.aliases}


@pytest.fixture
def app(workshop: Any, request: pytest.FixtureRequest, tmp_path: Path) -> App:
    """With a champion, version 1: the older prompt."""
    (tmp_path / "prompts").mkdir()
    settings = workshop.with_settings(
        prompts=tmp_path / "prompts", log_url=f"sqlite:///{tmp_path}/log.db", pipelines_url=f"sqlite:///{tmp_path}/p.db"
    ).settings
    made = App(f"app{abs(hash(request.node.nodeid)) % 10**8}", workshop, settings)
    registry = workshop.registry
    prompt = registry.prompts.get("qa@1")
    release, _ = made.books.create(made.name, prompt, registry.models.get("tiny@1"), prompt.template.parameters)
    made.books.promote(release, why="the first one")
    return made


def test_a_better_challenger_goes_through_gate_and_canary_to_champion_in_a_durable_run(app):
    app.arrives = [app.traffic(30), app.traffic(40, first=60)]
    inputs = {"suite": "sums", "app": app.name, "canary": "20%", "minimum_rows": 60, "deadline_seconds": 90}
    with Pipelines(app.settings) as pipelines:
        done = pipelines.run(pipeline(app.settings, work=app.steps), inputs, cycle="may")
    assert [step.name for step in done.steps] == [*STEPS, "promote", "renew the monitor's reference"]
    assert (done.result["verdict"], done.result["outcome"], done.is_negative) == ("pass", "promoted", False)
    assert app.aliases() == {"champion": f"{app.name}@2", "previous": f"{app.name}@1"}
    assert app.workshop.registry.release_versions.policy(app.name) is None
    assert done.result["told"] == (
        f"{app.name}@2 is the champion: 70 requests beside 69 of the champion: no harmful flag and no latency rose"
    )
    assert done.result["gate"]["suite"] == "sums"
    assert done.result["monitor"]["canary"]["rows"] == {"champion": 69, "challenger": 70}
    assert app.naps == [10.0, 10.0]
    assert [move["what"] for move in app.books.history(app.name)][-4:] == ["traffic", "challenge", "promote", "traffic"]


def test_what_serves_already_is_left_alone_and_what_was_rolled_back_is_not_promoted_again(app):
    result, steps = app.run(prompt="qa@1")
    assert (result["verdict"], result["outcome"], steps) == ("pass", "unchanged", ["register"])
    plan = app.steps.register("sums", app.name, None, None)
    app.books.promote(app.books.get(plan["challenger"]), why="by hand")
    app.books.roll_back(app.name)
    result, steps = app.run()
    assert (result["verdict"], result["outcome"], steps) == ("fail", "not promoted", ["register"])
    assert f"{app.name}@2 was rolled back at " in result["told"]
    assert app.aliases()["champion"] == f"{app.name}@1"


def test_a_challenger_that_refuses_is_withdrawn_and_the_traffic_is_what_it_was(app):
    before = TrafficPolicy(shadow=0.25, sticky="key")
    app.workshop.registry.release_versions.set_policy(app.name, before)
    app.arrives = [app.traffic(150, refused=0.4)]
    result, steps = app.run()
    assert steps == [*STEPS, "roll back"]
    assert (result["verdict"], result["outcome"]) == ("fail", "rolled back")
    assert "output.refusal" in result["monitor"]["canary"]["worse"]
    assert "worse on the same traffic" in result["told"]
    assert app.aliases() == {"champion": f"{app.name}@1"}
    assert app.workshop.registry.release_versions.policy(app.name) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "verdict"), [('rule = "not-worse"\nmargin = 0.2', "fail"), ('rule = "better"', "inconclusive")]
)
def test_what_does_not_pass_the_gate_gets_no_traffic(app, rule, verdict):
    folder = app.workshop.folder
    text = (folder / "sums.toml").read_text().replace('rule = "not-worse"\nmargin = 0.2', rule)
    floor = "correct = 0.9" if verdict == "fail" else "correct = 0.4"
    (folder / "strict.toml").write_text(text.replace("correct = 0.4", floor))
    result, steps = app.run(suite="strict")
    assert steps == STEPS[:3]
    assert (result["verdict"], result["outcome"]) == (verdict, "not promoted")
    assert f"the gate says {verdict}: " in result["told"]
    assert app.aliases() == {"champion": f"{app.name}@1"}
    assert app.workshop.registry.release_versions.policy(app.name) is None


FAILED = r"\d+ requests \(\d+ failed\) beside \d+ \(\d+ failed\) of the champion"
OTHER = "Write to {}@example.org about the weather in Paris, please, at length."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("traffic", "inputs", "verdict", "told"),
    [
        (
            {"rows": 150, "refused": 0.4},
            {"accept": ["output.refusal"]},
            "pass",
            "but output.refusal, which is accepted",
        ),
        ({"rows": 40}, {}, "inconclusive", r"40 of the challenger \(60 needed\), 40 of the champion \(20 needed\)"),
        ({"rows": 150, "asked": OTHER}, {}, "inconclusive", "the questions of both sides differ"),
        ({"rows": 150, "failed": 0.5}, {}, "inconclusive", FAILED),  # an outage of both sides says nothing
        ({"rows": 150, "failed": 0.03}, {}, "pass", FAILED),
    ],
)
def test_what_a_canary_shows_decides(app, traffic, inputs, verdict, told):
    app.arrives = [app.traffic(**traffic)]
    result, steps = app.run(**inputs)
    outcome = "promoted" if verdict == "pass" else "rolled back"
    assert (result["verdict"], result["outcome"]) == (verdict, outcome)
    assert re.search(told, result["told"])
    if verdict != "pass":
        assert steps == [*STEPS, "roll back"]
        assert app.aliases() == {"champion": f"{app.name}@1"}
    assert app.naps == ([10.0, 10.0, 5.0] if traffic["rows"] < 60 else [10.0])


@pytest.mark.slow
def test_a_challenger_that_somebody_withdraws_is_no_longer_waited_for(app):
    steps = app.steps
    plan = steps.register("sums", app.name, None, None)
    canary = steps.canary(plan, 0.1)
    app.books.withdraw(app.name)
    found = steps.monitor(plan, canary, 60, 25)
    assert (found["verdict"], found["why"]) == ("inconclusive", f"{app.name}@2 is no challenger any more")
    assert steps.roll_back(plan) == {"withdrawn": False, "traffic": None}
    assert app.naps == []


@pytest.mark.slow
def test_each_step_done_twice_leaves_what_it_leaves_once(app):
    app.arrives = [app.traffic(60)]
    given = completed({"suite": "sums", "app": app.name, "minimum_rows": 60})
    result = pipeline(app.settings, work=app.steps).function(Direct(times=2), given)
    assert (result["outcome"], app.aliases()) == (
        "promoted", {"champion": f"{app.name}@2", "previous": f"{app.name}@1"}
    )  # fmt: skip
    assert len(app.books.versions(app.name)) == 2
    assert app.workshop.registry.release_versions.policy(app.name) is None
    assert [move["what"] for move in app.books.history(app.name)].count("promote") == 2, "the fixture's, and this one"


@pytest.mark.slow
def test_an_app_without_a_champion_promotes_what_passes_the_gate(app):
    app.name += "-new"
    result, steps = app.run()
    assert steps == [*STEPS[:3], "promote", "renew the monitor's reference"]
    assert (result["outcome"], result["champion"], app.aliases()) == ("promoted", None, {"champion": f"{app.name}@1"})


@pytest.mark.slow
def test_another_challenger_is_not_pushed_aside(app):
    registry = app.workshop.registry
    prompt = registry.prompts.get("qa@1")
    other, _ = app.books.create(app.name, prompt, registry.models.get("tiny@1"), GenerationParameters(max_tokens=7))
    app.books.challenge(other)
    with (
        Pipelines(app.settings) as pipelines,
        pytest.raises(StepFailed, match=r"step canary: .* is the challenger") as raised,
    ):
        pipelines.run(pipeline(app.settings, work=app.steps), {"suite": "sums", "app": app.name}, cycle="x")
    assert isinstance(raised.value.__cause__, CannotRun)
    assert app.aliases()["challenger"] == other.ref


@pytest.mark.slow
def test_a_champion_that_changed_meanwhile_is_not_replaced(app):
    registry = app.workshop.registry
    steps = app.steps
    plan = steps.register("sums", app.name, None, None)
    steps.evaluate("sums", plan)
    assert steps.gate("sums", plan)["verdict"] == "pass"
    third, _ = app.books.create(
        app.name, registry.prompts.get("qa@2"), registry.models.get("tiny@1"),
        GenerationParameters(max_tokens=9),
    )  # fmt: skip
    app.books.promote(third, why="in a hurry")
    with pytest.raises(GateRefused):
        steps.promote(plan)


@pytest.mark.slow
def test_prompt_files_that_are_new_are_registered_and_the_newest_is_taken(app):
    write_prompts(app.settings.prompts, "new-prompt", ["Be brief.", "Be very brief."])
    app.workshop.add_suite("brief", 4, "new-prompt")
    for _ in range(2):
        plan = app.steps.register("brief", f"{app.name}-brief", None, None)
        assert (plan["prompt"], plan["model"], plan["champion"]) == ("new-prompt@2", "tiny@1", None)
    assert app.steps.register("brief", f"{app.name}-brief", "new-prompt@1", "tiny@1")["prompt"] == "new-prompt@1"
    app.workshop.add_suite("nobody", 4, "nobody")
    with pytest.raises(UnknownVersion, match="prompt 'nobody' is not registered and has no file"):
        app.steps.register("nobody", app.name, None, None)
    with pytest.raises(UnknownVersion):
        app.steps.register("brief", app.name, None, "huge@1")


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"suit": "qa"}, "suit: no input of pipeline llm; there are app, canary"),
        ({"suite": 3}, "suite: must be text"),
        ({"app": ""}, "app: must be text"),
        ({"canary": "half"}, "canary: 'half' is not a share"),
        ({"canary": 0}, "canary: must be more than 0"),
        ({"minimum_rows": 5}, "minimum_rows: must be a whole number of at least 20"),
        ({"deadline_seconds": -1}, "deadline_seconds: must be a number of seconds"),
        ({"accept": [3]}, "accept: must be names of descriptors"),
        ({"deadline_seconds": True}, "deadline_seconds: must be a number of seconds"),
    ],
)
def test_wrong_inputs_are_named(inputs, text):
    with pytest.raises(UsageError, match=text):
        completed(inputs)


def test_inputs_have_defaults():
    assert completed({"accept": "latency_ms, error"})["accept"] == ["latency_ms", "error"]
    assert completed({"canary": "5%"}) == {
        "suite": "qa", "app": "assistant", "prompt": None, "model": None, "canary": 0.05, "minimum_rows": 200,
        "deadline_seconds": 86400.0, "accept": [],
    }  # fmt: skip
