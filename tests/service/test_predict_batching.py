"""Rows that wait together are scored together, and whatever is wrong with one request stays its own."""

import asyncio
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import EngineBusy, EngineUnavailable
from llmops.tabular import BadRow, Predictions
from service import predictions as predict_batching
from service.predictions import PredictionBatches
from tests.service.tabular_models import Classes, Hours, row


class Door:
    """Holds the first call until it is opened, so that others gather behind it."""

    def __init__(self):
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, _rows):
        self.reached.set()
        assert self.open.wait(30)


def running(work):
    async def run():
        opened = PredictionBatches()
        opened.start()
        try:
            return await work(opened)
        finally:
            await opened.close()

    return asyncio.run(run())


async def hold(batches, rows=None):
    """A first call that is under way until the door opens; and the door."""
    door = Door()
    held = asyncio.create_task(batches.predict(Hours(before=door), rows or [row(1)]))
    await asyncio.to_thread(door.reached.wait, 30)
    return held, door


def gathered(*later):
    """Sends the later requests while a first one is held; gives their outcomes."""

    async def gather(batches):
        held, door = await hold(batches)
        tasks = [asyncio.create_task(batches.predict(model, rows)) for model, rows in later]
        await asyncio.sleep(0)
        door.open.set()
        assert (await held).values == [1.0]
        return await asyncio.gather(*tasks, return_exceptions=True)

    return running(gather)


def test_requests_that_wait_together_are_one_call_for_each_model_and_each_gets_its_own_rows():
    bike = Hours(10.0)
    later = [(bike, [row(hour) for hour in range(size)]) for size in (1, 3, 2)]
    found = gathered(*later, (Classes(), [{"alcohol": 14.0}]))
    assert [each.values for each in found] == [[0.0], [0.0, 10.0, 20.0], [0.0, 10.0], [1]]
    assert [each.probabilities for each in found] == [None, None, None, [{"0": 0.0, "1": 1.0}]]
    assert bike.calls == [6]


@settings(max_examples=25)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=12))
def test_a_bad_row_is_told_to_its_own_request_in_its_own_numbers(requests):
    sent = [[row(hour) if good else row("seven") for hour, good in enumerate(goods)] for goods in requests]
    model = Hours()
    for goods, outcome in zip(requests, gathered(*((model, rows) for rows in sent)), strict=True):
        if all(goods):
            assert outcome.values == [float(hour) for hour in range(len(goods))]
        else:
            assert isinstance(outcome, BadRow)
            assert (outcome.row, outcome.column) == (goods.index(False), "hour")


def test_an_estimator_that_fails_on_one_request_answers_the_others():
    def fails_on_nine(rows):
        if any(each["hour"] == 9 for each in rows):
            raise ZeroDivisionError

    model = Hours(before=fails_on_nine)
    found = gathered(*((model, [row(hour)]) for hour in (8, 9, 10)))
    assert (found[0].values, found[2].values) == ([8.0], [10.0])
    assert isinstance(found[1], ZeroDivisionError)


def test_a_model_that_gives_another_number_of_values_is_an_error():
    class Short:
        def predict(self, _rows, /):
            return Predictions([1.0])

    async def ask(batches):
        with pytest.raises(ValueError, match="1 values for 2 rows"):
            await batches.predict(Short(), [row(), row()])

    running(ask)


def test_a_request_whose_client_has_gone_is_not_scored():
    model = Hours()

    async def ask(batches):
        held, door = await hold(batches)
        gone = asyncio.create_task(batches.predict(model, [row(1)]))
        stays = asyncio.create_task(batches.predict(model, [row(2)]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        door.open.set()
        await held
        return (await stays).values

    assert running(ask) == [2.0]
    assert model.calls == [1]


def test_rows_that_wait_are_bounded_and_one_request_is_taken_whatever_its_size(monkeypatch):
    monkeypatch.setattr(predict_batching, "MOST_WAITING_ROWS", 5)

    async def ask(batches):
        held, door = await hold(batches, [row(hour) for hour in range(8)])
        with pytest.raises(EngineBusy):
            await batches.predict(Hours(), [row()])
        door.open.set()
        assert len((await held).values) == 8
        assert (await batches.predict(Hours(), [row(5)])).values == [5.0]

    running(ask)


def test_a_call_has_a_bounded_number_of_rows(monkeypatch):
    monkeypatch.setattr(predict_batching, "MOST_ROWS_AT_ONCE", 4)
    model = Hours()
    found = gathered(*((model, [row(hour)] * size) for hour, size in enumerate((3, 3, 1, 9, 1))))
    assert [each.values for each in found] == [[float(hour)] * size for hour, size in enumerate((3, 3, 1, 9, 1))]
    assert model.calls == [3, 4, 9, 1]


def test_a_call_that_never_ends_is_a_problem_until_it_does(monkeypatch):
    monkeypatch.setattr(predict_batching, "STUCK_SECONDS", 0.0)

    async def ask(batches):
        assert batches.problem is None
        held, door = await hold(batches)
        assert "has been running" in batches.problem
        door.open.set()
        await held

    running(ask)


def test_after_the_end_nothing_is_scored_and_what_was_queued_is():
    async def ask():
        batches = PredictionBatches()
        with pytest.raises(EngineUnavailable):
            await batches.predict(Hours(), [row()])
        batches.start()
        held, door = await hold(batches)
        queued = asyncio.create_task(batches.predict(Hours(), [row(2)]))
        await asyncio.sleep(0)
        closing = asyncio.create_task(batches.close())
        await asyncio.sleep(0)
        with pytest.raises(EngineUnavailable):
            await batches.predict(Hours(), [row()])
        door.open.set()
        await closing
        return (await held).values, (await queued).values

    assert asyncio.run(ask()) == ([1.0], [2.0])
