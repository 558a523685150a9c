"""Actions: done once, resumed after a crash, recorded, told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import sqlalchemy as sa

from llmops.errors import CannotRun, StoreUnavailable
from llmops.production_log import open_engine
from monitoring.act.action_tables import alert_outbox
from monitoring.act.actions import CLAIM_SECONDS, MOST_ATTEMPTS, Actions, Interrupted, read_actions
from monitoring.act.alarm_book import AlarmBook
from monitoring.act.alerts.outbox import Outbox
from monitoring.act.alerts.settings import AlertSettings, WebhookSettings
from monitoring.act.alerts.webhook import Webhook
from monitoring.act.policy import Decision, Policy, Situation, decide
from tests.monitoring.acting import Clock, NotingActuator, finding

SITUATION = Situation("assistant@2", None, "assistant@1")
POLICIES = {"assistant": Policy("rollback", dry_run=False)}


@dataclass
class Bench:
    """One database, one actuator, and as many daemons' actions as asked for."""

    engine: sa.Engine
    clock: Clock
    actuator: NotingActuator

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.engine, [Webhook(WebhookSettings("ops", url="http://127.0.0.1:9/"))], now=self.clock)
        self.book = AlarmBook(self.engine, AlertSettings(), self.outbox)

    def actions(self, holder: str = "one") -> Actions:
        settings = AlertSettings()
        return Actions(self.engine, self.actuator, self.outbox, settings, POLICIES, holder, self.clock)

    def decision(self, policy: Policy = POLICIES["assistant"], **found: Any) -> Decision:
        self.book.record("assistant", f"tick {self.clock.at}", [finding(**found)], self.clock.at)
        return decide("assistant", self.book.entries(), policy, SITUATION)

    def alerts(self) -> list[Any]:
        with self.engine.begin() as connection:
            rows = connection.execute(sa.select(alert_outbox.c.payload).order_by(alert_outbox.c.id)).scalars()
            return [row for row in rows if row["event"] == "action"]


@pytest.fixture
def bench(log_url: str) -> Iterator[Bench]:
    engine = open_engine(log_url)
    yield Bench(engine, Clock(), NotingActuator(SITUATION))
    engine.dispose()


def test_an_action_is_done_recorded_and_told_once(bench: Bench) -> None:
    actions, decision = bench.actions(), bench.decision()

    assert actions.claim(decision, SITUATION)
    (ended,) = actions.carry_out_due(slow=False)
    assert not actions.claim(decision, SITUATION)
    assert actions.carry_out_due(slow=False) == []

    assert (ended.status, ended.run_id) == ("done", "run-1")
    assert bench.actuator.did == [("rollback", "assistant@2")]
    assert bench.actuator.recorded == ["assistant/rollback/assistant@2/1"]
    (alert,) = bench.alerts()
    assert (alert["succeeded"], alert["dry_run"], alert["outcome"]) == (True, False, {"did": "rollback"})
    assert [row["request_id"] for row in alert["rows"]] == ["r1", "r2"]
    assert ended.order.evidence["situation"]["previous"] == "assistant@1"


def test_a_dry_run_says_what_it_would_do_and_does_nothing(bench: Bench) -> None:
    actions, decision = bench.actions(), bench.decision(Policy("rollback"))

    assert actions.claim(decision, SITUATION)
    (ended,) = actions.carry_out_due(slow=False)

    assert ended.outcome == {"would": "rollback of assistant@2"}
    assert bench.actuator.did == []
    assert bench.alerts()[0]["dry_run"]
    assert actions.claim(bench.decision(), SITUATION)  # no longer dry: now it is done


def test_two_daemons_that_decide_alike_act_once(bench: Bench) -> None:
    decision = bench.decision()
    start = threading.Barrier(4)

    def work(number: int) -> None:
        actions = bench.actions(str(number))
        start.wait()
        actions.claim(decision, SITUATION)
        actions.carry_out_due(slow=False)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert bench.actuator.did == [("rollback", "assistant@2")]
    assert len(bench.alerts()) == 1


class Killed(BaseException):
    """As `kill -9`: nothing of ours handles it."""


def test_what_a_killed_daemon_left_is_taken_up_by_another(bench: Bench) -> None:
    bench.actuator.failures = [Killed()]
    first = bench.actions("first")
    first.claim(bench.decision(), SITUATION)
    with pytest.raises(Killed):
        first.carry_out_due(slow=False)
    second = bench.actions("second")
    assert second.carry_out_due(slow=False) == []  # the claim of the first lasts

    bench.clock.move(seconds=CLAIM_SECONDS + 1)
    (ended,) = second.carry_out_due(slow=False)

    assert ended.status == "done"
    assert bench.actuator.did == [("rollback", "assistant@2")]


def test_what_was_done_and_not_yet_recorded_is_only_recorded(bench: Bench) -> None:
    bench.actuator.record_failures = [Killed()]
    first = bench.actions("first")
    first.claim(bench.decision(), SITUATION)
    with pytest.raises(Killed):
        first.carry_out_due(slow=False)
    bench.clock.move(seconds=CLAIM_SECONDS + 1)

    (ended,) = bench.actions("second").carry_out_due(slow=False)

    assert bench.actuator.did == [("rollback", "assistant@2")]
    assert ended.run_id == "run-1"


def test_a_store_that_is_away_is_tried_again_ever_more_rarely(bench: Bench) -> None:
    bench.actuator.failures = [StoreUnavailable("away"), StoreUnavailable("away")]
    actions = bench.actions()
    actions.claim(bench.decision(), SITUATION)

    tried = [len(actions.carry_out_due(slow=False)) for _ in range(20) if bench.clock.move(seconds=2)]

    assert sum(tried) == 1
    assert bench.actuator.did == [("rollback", "assistant@2")]
    assert tried.index(1) in range(6, 10)


def test_an_action_that_never_succeeds_is_failed_and_told(bench: Bench) -> None:
    bench.actuator.failures = [StoreUnavailable("away")] * 100
    actions = bench.actions()
    actions.claim(bench.decision(), SITUATION)
    ended = [item for _ in range(30) if bench.clock.move(hours=1) for item in actions.carry_out_due(slow=False)]

    assert [(item.status, item.attempts) for item in ended] == [("failed", MOST_ATTEMPTS)]
    assert bench.alerts()[0]["outcome"] == {"error": "away"}
    assert not bench.alerts()[0]["succeeded"]


@pytest.mark.parametrize("error", [CannotRun("no previous"), RuntimeError("a bug")])
def test_what_trying_again_cannot_mend_fails_at_once(bench: Bench, error: Exception) -> None:
    bench.actuator.failures = [error]
    actions = bench.actions()
    actions.claim(bench.decision(), SITUATION)
    (ended,) = actions.carry_out_due(slow=False)

    assert ended.status == "failed"
    assert str(error) in str(ended.outcome)


def test_an_action_done_but_never_recorded_counts_as_done(bench: Bench) -> None:
    bench.actuator.record_failures = [StoreUnavailable("MLflow is away")] * 100
    actions = bench.actions()
    actions.claim(bench.decision(), SITUATION)
    ended = [item for _ in range(30) if bench.clock.move(hours=1) for item in actions.carry_out_due(slow=False)]

    assert [(item.status, item.run_id) for item in ended] == [("done", None)]
    assert bench.actuator.did == [("rollback", "assistant@2")]


def test_one_action_answers_the_alarms_that_come_while_its_own_lasts(bench: Bench) -> None:
    policy = Policy("retrain", dry_run=False, retrain_command=("true",))
    actions = bench.actions()
    assert actions.claim(bench.decision(policy), SITUATION)
    second = bench.decision(policy, what="error")
    assert [alarm.id for alarm in second.alarms] == [1, 2]
    assert not actions.claim(second, SITUATION)
    bench.book.record("assistant", "window", [finding("error")], bench.clock.move(days=1), closes=bench.clock.at)
    third = decide("assistant", bench.book.entries(), policy, SITUATION)

    assert [alarm.id for alarm in third.alarms] == [2]
    assert not actions.claim(third, SITUATION)
    assert len(read_actions(bench.engine, app="assistant")) == 1


def test_a_slow_action_that_is_interrupted_is_begun_anew_at_once(bench: Bench) -> None:
    policy = Policy("retrain", dry_run=False, retrain_command=("true",))
    bench.actuator.failures = [Interrupted("the daemon ends")]
    first = bench.actions("first")
    first.claim(bench.decision(policy), SITUATION)
    assert first.carry_out_due(slow=False) == []
    assert first.carry_out_due(slow=True) == []
    first.release_claims()

    (ended,) = bench.actions("second").carry_out_due(slow=True)

    assert (ended.status, ended.attempts) == ("done", 1)


def test_the_claim_of_a_slow_action_lasts_while_it_is_renewed(bench: Bench) -> None:
    policy = Policy("retrain", dry_run=False, retrain_command=("true",))
    first, second = bench.actions("first"), bench.actions("second")
    first.claim(bench.decision(policy), SITUATION)
    bench.actuator.failures = [Killed()]
    with pytest.raises(Killed):
        first.carry_out_due(slow=True)
    for _ in range(10):
        bench.clock.move(seconds=200)
        first.renew_claims()
        assert second.carry_out_due(slow=True) == []
    bench.clock.move(seconds=301)

    assert [item.status for item in second.carry_out_due(slow=True)] == ["done"]


def test_an_app_with_a_very_long_name_is_acted_on_and_told_of(bench: Bench) -> None:
    app = "a" * 120
    bench.book.record(app, "tick", [replace(finding(), app=app, release=f"{app}@2")], bench.clock.at)
    policy = Policy("rollback", dry_run=False)
    situation = Situation(f"{app}@2", None, f"{app}@1")
    actions = bench.actions()
    actions.claim(decide(app, bench.book.entries(), policy, situation), situation)

    (record,) = actions.carry_out_due(slow=False)

    assert record.status == "done"
    (alert,) = bench.alerts()
    assert len(alert["id"]) <= 200
