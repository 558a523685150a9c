"""Actions: done once, resumed after a crash, recorded, told. The lease: one holder at a time."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import sqlalchemy as sa

from llmops.errors import CannotRun, StoreUnavailable
from monitoring.act.action_tables import Lease, alert_outbox, monitor_actions, monitor_leases, was_noted
from monitoring.act.actions import CLAIM_SECONDS, MOST_ATTEMPTS, ActionQueue, Interrupted, read_actions
from monitoring.act.alarm_book import AlarmBook
from monitoring.act.alerts import AlertSettings, Webhook
from monitoring.act.outbox import Outbox
from monitoring.act.policy import Policy, Situation, decide
from tests.at_once import at_once
from tests.monitoring.acting import Clock, NotingActuator, finding
from tests.monitoring.described import selected

SITUATION = Situation("assistant@2", None, "assistant@1")
ROLLBACK = Policy("rollback", dry_run=False)
RETRAIN = Policy("retrain", dry_run=False, retrain_command=("true",))
DID = [("rollback", "assistant@2")]


@dataclass
class Bench:
    """One database, one actuator, and as many daemons' queues as asked for."""

    engine: sa.Engine
    clock: Clock
    actuator: NotingActuator

    def __post_init__(self):
        self.outbox = Outbox(self.engine, [Webhook("ops", url="http://127.0.0.1:9/")], now=self.clock)
        self.book = AlarmBook(self.engine, AlertSettings(), self.outbox)

    def queue(self, holder="one"):
        policies = {"assistant": ROLLBACK}
        return ActionQueue(self.engine, self.actuator, self.outbox, AlertSettings(), policies, holder, self.clock)

    def decision(self, policy=ROLLBACK, **found):
        self.book.record("assistant", f"tick {self.clock.at}", [finding(**found)], self.clock.at)
        return decide("assistant", self.book.entries(), policy, SITUATION)

    def queued(self, holder="one", policy=ROLLBACK):
        """A daemon's queue with an action in it."""
        queue = self.queue(holder)
        assert queue.put(self.decision(policy), SITUATION)
        return queue

    def ended(self, queue, rounds, **pause):
        """What comes to its end in so many rounds, which a pause precedes."""
        return [each for _ in range(rounds) if self.clock.move(**pause) for each in queue.carry_out_due(slow=False)]

    def alerts(self):
        payloads = selected(self.engine, sa.select(alert_outbox.c.payload).order_by(alert_outbox.c.id))
        return [each for each in payloads if each["event"] == "action"]


@pytest.fixture
def bench(engine, clock):
    return Bench(engine, clock, NotingActuator(SITUATION))


def test_an_action_is_done_recorded_and_told_once(bench):
    queue, decision = bench.queue(), bench.decision()
    assert queue.put(decision, SITUATION)
    (ended,) = queue.carry_out_due(slow=False)
    assert not queue.put(decision, SITUATION)
    assert queue.carry_out_due(slow=False) == []
    assert (ended.status, ended.run_id, ended.evidence["situation"]["previous"]) == ("done", "run-1", "assistant@1")
    assert (bench.actuator.did, bench.actuator.recorded) == (DID, ["assistant/rollback/assistant@2/1"])
    (alert,) = bench.alerts()
    assert (alert["succeeded"], alert["dry_run"], alert["outcome"]) == (True, False, {"did": "rollback"})
    assert [row["request_id"] for row in alert["rows"]] == ["r1", "r2"]


def test_a_dry_run_says_what_it_would_do_and_does_nothing(bench):
    queue = bench.queued(policy=Policy("rollback"))
    (ended,) = queue.carry_out_due(slow=False)
    assert (ended.outcome, bench.actuator.did) == ({"would": "rollback of assistant@2"}, [])
    assert bench.alerts()[0]["dry_run"]
    assert queue.put(bench.decision(), SITUATION)  # no longer dry: now it is done


def test_two_daemons_that_decide_alike_act_once(bench):
    decision = bench.decision()

    def work(holder):
        queue = bench.queue(holder)
        queue.put(decision, SITUATION)
        queue.carry_out_due(slow=False)

    at_once(*(partial(work, str(number)) for number in range(4)))
    assert bench.actuator.did == DID
    assert len(bench.alerts()) == 1


class Killed(BaseException):
    """As `kill -9`: nothing of ours handles it."""


@pytest.mark.parametrize("killed_in", ["failures", "record_failures"])
def test_what_a_killed_daemon_left_is_taken_up_by_another_and_done_once(bench, killed_in):
    setattr(bench.actuator, killed_in, [Killed()])
    first, second = bench.queued("first"), bench.queue("second")
    with pytest.raises(Killed):
        first.carry_out_due(slow=False)
    assert second.carry_out_due(slow=False) == []  # the claim of the first lasts
    bench.clock.move(seconds=CLAIM_SECONDS + 1)
    (ended,) = second.carry_out_due(slow=False)
    assert (ended.status, ended.run_id, bench.actuator.did) == ("done", "run-1", DID)


def test_an_action_claimed_by_a_clock_that_was_ahead_is_taken_up_when_it_is_right_again(bench):
    bench.clock.move(days=3)
    queue = bench.queued()
    with bench.engine.begin() as connection:  # its holder died
        connection.execute(sa.update(monitor_actions).values(claimed_by="dead", claimed_until=bench.clock() + 30))
    bench.clock.move(days=-3)
    queue.carry_out_due(slow=False)
    assert bench.actuator.did == DID


def test_a_store_that_is_away_is_tried_again_ever_more_rarely(bench):
    bench.actuator.failures = [StoreUnavailable("away"), StoreUnavailable("away")]
    queue = bench.queued()
    tried = [len(bench.ended(queue, 1, seconds=2)) for _ in range(20)]
    assert (sum(tried), bench.actuator.did) == (1, DID)
    assert tried.index(1) in range(6, 10)


@pytest.mark.parametrize(
    ("away", "status", "did"),
    [("failures", "failed", []), ("record_failures", "done", DID)],
    ids=["never done", "done, and never recorded"],
)
def test_an_action_is_given_up_after_many_attempts_and_told(bench, away, status, did):
    setattr(bench.actuator, away, [StoreUnavailable("away")] * 100)
    ended = bench.ended(bench.queued(), 30, hours=1)
    assert [(each.status, each.attempts, each.run_id) for each in ended] == [(status, MOST_ATTEMPTS, None)]
    (alert,) = bench.alerts()
    assert (alert["outcome"]["error"], alert["succeeded"], bench.actuator.did) == ("away", status == "done", did)


@pytest.mark.parametrize("error", [CannotRun("no previous"), RuntimeError("a bug")])
def test_what_trying_again_cannot_mend_fails_at_once(bench, error):
    bench.actuator.failures = [error]
    (ended,) = bench.queued().carry_out_due(slow=False)
    assert ended.status == "failed"
    assert str(error) in str(ended.outcome)


def test_one_action_answers_the_alarms_that_come_while_its_own_lasts(bench):
    queue = bench.queued(policy=RETRAIN)
    second = bench.decision(RETRAIN, what="error")
    assert [alarm.id for alarm in second.alarms] == [1, 2]
    assert not queue.put(second, SITUATION)
    bench.book.record("assistant", "window", [finding("error")], bench.clock.move(days=1), closes=bench.clock.at)
    third = decide("assistant", bench.book.entries(), RETRAIN, SITUATION)
    assert [alarm.id for alarm in third.alarms] == [2]
    assert not queue.put(third, SITUATION)
    assert len(read_actions(bench.engine, app="assistant")) == 1


def test_a_slow_action_that_is_interrupted_is_begun_anew_at_once(bench):
    bench.actuator.failures = [Interrupted("the daemon ends")]
    first = bench.queued("first", RETRAIN)
    assert [first.carry_out_due(slow=slow) for slow in (False, True)] == [[], []]
    first.release_claims()
    (ended,) = bench.queue("second").carry_out_due(slow=True)
    assert (ended.status, ended.attempts) == ("done", 1)


def test_the_claim_of_a_slow_action_lasts_while_it_is_renewed(bench):
    bench.actuator.failures = [Killed()]
    first, second = bench.queued("first", RETRAIN), bench.queue("second")
    with pytest.raises(Killed):
        first.carry_out_due(slow=True)
    for _ in range(10):
        bench.clock.move(seconds=200)
        first.renew_claims()
        assert second.carry_out_due(slow=True) == []
    bench.clock.move(seconds=301)
    assert [each.status for each in second.carry_out_due(slow=True)] == ["done"]


def test_an_app_with_a_very_long_name_is_acted_on_and_told_of(bench):
    app = "a" * 120
    bench.book.record(app, "tick", [replace(finding(), app=app, release=f"{app}@2")], bench.clock.at)
    situation, queue = Situation(f"{app}@2", None, f"{app}@1"), bench.queue()
    queue.put(decide(app, bench.book.entries(), ROLLBACK, situation), situation)
    (ended,) = queue.carry_out_due(slow=False)
    (alert,) = bench.alerts()
    assert (ended.status, len(alert["id"]) <= 200) == ("done", True)


# The lease


def test_one_holds_a_lease_until_it_is_given_back(engine):
    first, second = (Lease(engine, "daemon", holder, 30) for holder in ("first", "second"))
    assert [first.take(), first.take(), second.take()] == [True, True, False]
    second.give_back()  # it has none
    assert not second.take()
    first.give_back()
    assert second.take()


@pytest.mark.parametrize("ends_in", [-30, 3600], ids=["half a minute later", "an hour ahead, for the clock went back"])
def test_another_takes_a_lease_that_ended_or_was_taken_by_a_clock_that_was_ahead(engine, ends_in):
    dead, other = (Lease(engine, "daemon", holder, 30) for holder in ("dead", "other"))
    assert [dead.take(), other.take()] == [True, False]
    with engine.begin() as connection:
        connection.execute(sa.update(monitor_leases).values(until=monitor_leases.c.until + ends_in))
    assert [other.take(), dead.take()] == [True, False], "whoever lives notices that it holds the lease no more"


def test_of_many_that_take_a_lease_at_once_one_gets_it(engine):
    taken = []
    leases = [Lease(engine, "daemon", str(number), 30) for number in range(6)]
    at_once(*(lambda lease=lease: taken.append(lease.take()) for lease in leases))
    assert sorted(taken) == [False] * 5 + [True]


def test_clocks_of_two_machines_may_differ_a_little():
    assert [was_noted(1000.0, 990.0), was_noted(90_000.0, 1000.0)] == [True, False]
