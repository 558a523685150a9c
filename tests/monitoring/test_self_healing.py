"""End to end: a release that starts refusing is stopped or rolled back by itself, and no request fails meanwhile.

A real gateway (uvicorn, fake engine), a log on each database in turn, a real MLflow store, a real daemon and a real
webhook. Three apps go through it at once: `canary`'s challenger refuses, `champion`'s newly promoted release refuses,
and so does the challenger of `rehearsal`, whose policy is a dry run.
"""

import dataclasses
import itertools
import threading
import time
from collections import namedtuple
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from llmops.engines.fake import FakeEngine
from llmops.generation import GenerationParameters
from llmops.production_log import ProductionLog
from llmops.prompt_file import parse_prompt
from llmops.registry import Registry
from llmops.settings import Settings
from llmops.traffic_policy import TrafficPolicy
from llmops.versions import ModelVersion
from monitoring.act.alerts import AlertSettings, Webhook
from monitoring.act.policy import Policy
from monitoring.config import read_config
from monitoring.daemon.loop import Daemon
from monitoring.daemon.work import LogWork, WindowSchedule
from monitoring.descriptors import DescriptorSet
from monitoring.release_actions import RegistryActuator
from monitoring.run import pin_reference
from service.app import create_app
from service.gateway import Gateway
from tests.monitoring.acting import Receiver, http_receiver
from tests.monitoring.conftest import REFUSAL
from tests.service.conftest import PROMPT, served, wait_until

APPS = ("canary", "champion", "rehearsal")
POLICIES = {name: Policy("rollback", dry_run=name == "rehearsal") for name in APPS}
ASKED_FIRST = 60
DESCRIPTORS = [
    {"name": "output.refusal", "kind": "refusal", "of": "output"},
    {"name": "input.length", "kind": "length", "of": "input"},
]
ANSWERS_AFTER = 20
"""Of each app, after the last move: the gateway has followed by then."""
PAUSE = 0.05
"""Seconds from one answer to the next question of an app: gateway, daemon and clients share one process."""
LONGEST = 600
"""Seconds: it took 48 on two cores with ten times as much to do as they can."""


Answer = namedtuple("Answer", ["app", "asked_at", "status", "release", "request_id"])


@dataclass
class Traffic:
    """Clients that go on asking, each time as another user."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, http, app, number):
        question = {"role": "user", "content": f"What is the capital of country {number % 50}?"}
        asked_at = time.time()
        reply = http.post("/v1/chat/completions", json={"model": app, "messages": [question], "user": f"u{number}"})
        release = reply.headers.get("x-llmops-release", "")
        self.answers.append(Answer(app, asked_at, reply.status_code, release, reply.headers["x-request-id"]))

    def go_on(self, app):
        with httpx.Client(base_url=self.url, timeout=30) as http:
            for number in itertools.count(1000):
                self.ask(http, app, number)
                if self.stop.wait(PAUSE):
                    return

    def of(self, app):
        return [answer for answer in self.answers if answer.app == app]


@dataclass
class Story:
    """What happened. moved: app → when the monitor moved its champion or challenger, in seconds."""

    registry: Registry
    traffic: Traffic
    receiver: Receiver
    moved: dict[str, float]
    history_before: dict[str, list[dict[str, Any]]]

    def actions(self, app):
        return [got.body for got in self.receiver.got if got.body["event"] == "action" and got.body["app"] == app]

    def moves(self, app):
        return self.registry.release_versions.history(app)[len(self.history_before[app]) :]

    def watch(self):
        """Waits until every app's action has been told; notes when those that were no rehearsal were done.

        It looks at nothing but what the webhook got, so that it does not slow down those it waits for.
        """
        wait_until(lambda: all(map(self.actions, APPS)), LONGEST)
        self.moved = {
            app: datetime.fromisoformat(self.moves(app)[-1]["at"]).timestamp() for app in ("canary", "champion")
        }

    def is_settled(self, app):
        """Whether the old release has given the last answers."""
        after = [each for each in self.traffic.of(app) if each.asked_at > self.moved[app]]
        return len(after) > ANSWERS_AFTER and {each.release for each in after[-ANSWERS_AFTER:]} == {f"{app}@1"}


def answer(request):
    refuses = "a refuser" in request.messages[0]["content"]
    return REFUSAL if refuses else "The capital is well known, and people like it."


def make_releases(registry):
    model, _ = registry.models.register(
        ModelVersion("tiny", 0, "openai:http://127.0.0.1:9/v1#tiny", "openai", "a" * 64)
    )
    for tone in ("a friend", "a refuser"):
        registry.prompts.register("qa", parse_prompt(PROMPT % (tone, "")))
    for app in APPS:
        for version in (1, 2):
            prompt = registry.prompts.get(f"qa@{version}")
            registry.release_versions.create(app, prompt, model, GenerationParameters())
        registry.release_versions.promote(registry.release_versions.get(f"{app}@1"), why="a test")


def begin_to_refuse(registry):
    releases = registry.release_versions
    for app in ("canary", "rehearsal"):
        releases.challenge(releases.get(f"{app}@2"))
        releases.set_policy(app, TrafficPolicy(canary=0.5, sticky="request"))
    releases.promote(releases.get("champion@2"), why="a test")


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def story(request, tmp_path_factory, postgres):
    home = tmp_path_factory.mktemp("home")
    settings = Settings(home=home, log_url=postgres.new_schema() if request.param == "postgresql" else None)
    registry = Registry(settings)
    make_releases(registry)
    descriptors = DescriptorSet.from_config(DESCRIPTORS, settings)
    config = dataclasses.replace(read_config(settings), descriptors=descriptors, policies=POLICIES)
    stop = threading.Event()
    with ExitStack() as stack:
        log = stack.enter_context(closing(ProductionLog(settings.resolved_log_url)))
        gateway = Gateway(settings, registry.registered, lambda model: FakeEngine(answer, name=model.ref), log)
        url = stack.enter_context(served(create_app(gateway)))
        receiver = stack.enter_context(http_receiver())
        traffic = Traffic(url)
        with httpx.Client(base_url=url, timeout=30) as http:
            wait_until(lambda: http.get("/readyz").status_code == 200, 60)
            began = datetime.now(UTC) - timedelta(seconds=1)
            for number in range(ASKED_FIRST):
                for name in APPS:
                    traffic.ask(http, name, number)
        for name in APPS:
            pin_reference(settings, name, began, datetime.now(UTC), "a test", config=config)
        story = Story(registry, traffic, receiver, {}, {})
        actuator = RegistryActuator(settings, stop)
        told = dataclasses.replace(config, alerts=AlertSettings(webhook=(Webhook("ops", url=receiver.url),)))
        work = stack.enter_context(
            LogWork(settings, told, WindowSchedule(), lambda name: actuator.situation(name).champion, settle=0.2)
        )
        daemon = Daemon(work, actuator, lambda _: None, every=0.3)
        threads = [threading.Thread(target=traffic.go_on, args=(name,)) for name in APPS]
        watching = threading.Thread(target=daemon.run, args=(stop,))
        for thread in threads:
            thread.start()
        try:
            begin_to_refuse(registry)
            story.history_before = {name: registry.release_versions.history(name) for name in APPS}
            watching.start()
            story.watch()
            wait_until(lambda: all(story.is_settled(app) for app in ("canary", "champion")), LONGEST)
        finally:
            traffic.stop.set()
            stop.set()
            for thread in (*threads, watching):
                thread.join(60)
        yield story


@pytest.mark.parametrize("app", APPS)
def test_no_request_fails_meanwhile_and_the_gateway_follows_and_goes_back_no_more(story, app):
    asked = sorted(story.traffic.of(app), key=lambda each: each.asked_at)
    assert len(asked) > ASKED_FIRST
    assert {each.status for each in asked} == {200}
    assert {each.release for each in asked} == {f"{app}@1", f"{app}@2"}
    assert set(story.moved) == {"canary", "champion"}
    if app in story.moved:
        last_bad = max(number for number, each in enumerate(asked) if each.release == f"{app}@2")
        assert len(asked) - last_bad > ANSWERS_AFTER
        assert asked[last_bad].asked_at - story.moved[app] < 30, "two seconds, on a machine with nothing else to do"


def test_a_canary_that_refuses_is_stopped_and_withdrawn(story):
    assert [move["what"] for move in story.moves("canary")] == ["traffic", "withdraw"]
    assert story.registry.release_versions.policy("canary") == TrafficPolicy(sticky="request")
    assert story.registry.release_versions.champion("canary").ref == "canary@1"


def test_a_champion_that_refuses_is_rolled_back_once(story):
    assert [(move["what"], move["from"], move["to"]) for move in story.moves("champion")] == [
        ("rollback", "champion@2", "champion@1")
    ]


def test_a_dry_run_leaves_the_registry_untouched_and_says_what_it_would_do(story):
    assert story.moves("rehearsal") == []
    (told,) = story.actions("rehearsal")
    assert (told["action"], told["release"], told["dry_run"]) == ("stop-canary", "rehearsal@2", True)
    assert told["outcome"] == {"would": "stop-canary of rehearsal@2"}


def test_each_action_is_told_once_with_rows_that_refused_and_on_record_in_mlflow_with_its_evidence(story):
    client = story.registry.store.client
    for app, action in (("canary", "stop-canary"), ("champion", "rollback"), ("rehearsal", "stop-canary")):
        (told,) = story.actions(app)
        assert (told["action"], told["release"], told["succeeded"]) == (action, f"{app}@2", True)
        by_id = {each.request_id: each for each in story.traffic.of(app)}
        assert told["rows"]
        assert {by_id[row["request_id"]].release for row in told["rows"]} == {f"{app}@2"}
        experiment = client.get_experiment_by_name(f"monitoring-{app}")
        (run,) = client.search_runs([experiment.experiment_id], f"tags.`llmops.action` = '{action}'")
        assert run.data.tags["llmops.dry_run"] == str(app == "rehearsal").lower()
        assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"evidence.json", "rows.txt"}
