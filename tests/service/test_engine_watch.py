from __future__ import annotations

import pytest

from llmops.engine_host.frames import Pong
from llmops.errors import EngineUnavailable
from service.gateway import EngineWatch

pytestmark = pytest.mark.anyio


def report(waiting=0, running=0, loaded=True, failure=None):
    return {"waiting": waiting, "running": running, "loaded": loaded, "failure": failure}


def watching(*answers):
    """A watch whose process gives these answers, one after the other, and the last one for ever."""
    left = list(answers)

    async def ping():
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return EngineWatch(ping)


async def test_before_the_first_look_the_process_is_not_well():
    watch = watching(Pong({}, 0))
    assert watch.problem == "the engine process has not answered yet"
    await watch.look()
    assert watch.problem is None


async def test_it_shows_what_waits_and_runs_and_what_could_not_be_loaded():
    watch = watching(Pong({"a@1": report(2, 4), "b@1": report(loaded=False, failure="no memory")}, 3))
    await watch.look()
    assert watch.depths() == {"a@1": (2, 4), "b@1": (0, 0)}
    assert (watch.failure("a@1"), watch.failure("b@1"), watch.failure("c@1")) == (None, "no memory", None)
    assert watch.restarts() == 3


async def test_a_process_that_does_not_answer_is_the_problem_until_it_does():
    watch = watching(Pong({"a@1": report(2)}, 1), EngineUnavailable("it is gone"), Pong({}, 2))
    await watch.look()
    await watch.look()
    assert (watch.problem, watch.depths()) == ("it is gone", {})
    await watch.look()
    assert (watch.problem, watch.restarts()) == (None, 2)


@pytest.mark.parametrize(
    ("answer", "waits"),
    [
        (Pong({"a@1": report(running=9)}, 0), False),
        (Pong({"a@1": report(waiting=1)}, 0), True),
        (EngineUnavailable("it is gone"), True),
    ],
)
async def test_production_waits_where_a_request_does_or_nobody_can_say(answer, waits):
    assert await watching(answer).production_waits() is waits
