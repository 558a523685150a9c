"""Micro-batching: rows of requests that wait at the same moment are scored in one vectorised call.

One thread of its own scores them, so that several requests never compute side by side on the same cores. While it
scores one batch the next one gathers: batches grow with the load, and a request that comes alone waits for nobody.
"""

import asyncio
import itertools
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from llmops.errors import CannotRun, EngineBusy, EngineUnavailable
from llmops.load_once import ModelCache
from llmops.processes import run_blocking, settle
from llmops.tabular import BadRow, Predictions, TabularModel
from llmops.versions import TabularVersion

TabularOpener = Callable[[TabularVersion], TabularModel]
"""Loads a model; blocks while it does. Raises CannotRun."""


def tabular_models(open_model: TabularOpener | None) -> ModelCache[TabularVersion, TabularModel]:
    """Models by the sha256 of what is stored and by their rows' schema, so that two versions of the same share one.

    open_model: loads one; None where there are none.
    """

    def refuse(version: TabularVersion) -> TabularModel:
        raise CannotRun(f"{version.ref}: this gateway was made without a way to load tabular models")

    return ModelCache(open_model or refuse, _key)


def _key(version: TabularVersion) -> tuple[str, bytes]:
    schema = orjson.dumps(dict(version.schema), default=dict, option=orjson.OPT_SORT_KEYS)
    return version.sha256, schema


MOST_ROWS_AT_ONCE = 10_000
"""Rows of one call, unless one request alone has more."""

MOST_WAITING_ROWS = 100_000
"""Rows that may wait to be scored; a request that would make them more is told to come back."""

STUCK_SECONDS = 60.0
"""A call that takes longer is a reason to get no more traffic."""

CLOSE_SECONDS = 5.0
_MOST_TRIES = 8  # of scoring what is left of a batch without the requests whose rows are bad

Rows = Sequence[Mapping[str, Any]]


class _Waiting(NamedTuple):
    model: TabularModel
    rows: Rows
    future: asyncio.Future[Predictions]


_Outcome = Predictions | Exception


class PredictionBatches:
    """Scores rows in its thread. `start` it in the event loop that will wait for it."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="predictions", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting_rows = 0
        self._busy_since: float | None = None
        self._closed = False

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def problem(self) -> str | None:
        """Why predictions do not come; None when they do."""
        since = self._busy_since
        seconds = 0.0 if since is None else time.monotonic() - since
        return f"one prediction has been running for {seconds:.0f} s" if seconds > STUCK_SECONDS else None

    async def predict(self, model: TabularModel, rows: Rows) -> Predictions:
        """What the model says of the rows. A waiter that is cancelled before its rows' turn costs nothing.

        Raises:
            EngineBusy: too many rows wait already.
            EngineUnavailable: there is no thread to score them.
            BadRow: one of these rows; row numbers are those of `rows`.
        """
        if self._loop is None or self._closed:
            raise EngineUnavailable("predictions are not open")
        if self._waiting_rows and self._waiting_rows + len(rows) > MOST_WAITING_ROWS:
            raise EngineBusy(f"{self._waiting_rows} rows wait to be scored already")
        future: asyncio.Future[Predictions] = self._loop.create_future()
        self._waiting_rows += len(rows)
        try:
            self._queue.put(_Waiting(model, rows, future))
            return await future
        finally:
            self._waiting_rows -= len(rows)

    async def close(self) -> None:
        """Scores what is queued, then ends the thread; it is left where it does not end soon."""
        self._closed = True
        self._queue.put(None)
        if self._thread.is_alive():
            await run_blocking(lambda: self._thread.join(CLOSE_SECONDS), name="close predictions")

    def _run(self) -> None:
        left: _Waiting | None = None
        while True:
            batch, left, ended = self._take(left)
            self._busy_since = time.monotonic()
            by_model: defaultdict[int, list[_Waiting]] = defaultdict(list)
            for item in batch:
                by_model[id(item.model)].append(item)
            for same in by_model.values():
                outcomes = _scored(same[0].model, [item.rows for item in same])
                if self._loop is not None:
                    settle(self._loop, list(zip([item.future for item in same], outcomes, strict=True)))
            self._busy_since = None
            if ended:
                return

    def _take(self, left: _Waiting | None) -> tuple[list[_Waiting], _Waiting | None, bool]:
        """What is scored next, the request that no longer fits into it, and whether this is the end."""
        item = left or self._queue.get()
        batch: list[_Waiting] = []
        rows = 0
        while item is not None:
            if batch and rows + len(item.rows) > MOST_ROWS_AT_ONCE:
                return batch, item, False
            if not item.future.done():  # its client has gone
                batch.append(item)
                rows += len(item.rows)
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, None, False
        return batch, None, True


def _scored(model: TabularModel, requests: Sequence[Rows]) -> Sequence[_Outcome]:
    """What becomes of each request, scored with all others in one call.

    A request with a bad row is taken out; where the call fails otherwise, each one is scored alone. So what is wrong
    with one request is told to that one only, in its own numbers of rows.
    """
    outcomes: dict[int, _Outcome] = {}
    for _ in range(_MOST_TRIES):
        left = [number for number in range(len(requests)) if number not in outcomes]
        if len(left) < 2:
            break
        try:
            together = model.predict([row for number in left for row in requests[number]])
            outcomes |= zip(left, _shares(together, [len(requests[number]) for number in left]), strict=True)
        except BadRow as problem:
            ends = itertools.accumulate(len(requests[number]) for number in left)
            bad = next(number for number, end in zip(left, ends, strict=True) if problem.row < end)
            outcomes[bad] = _scored_alone(model, requests[bad])
        except Exception:  # noqa: BLE001  found again, and told, by the request that it belongs to
            break
    return [
        outcomes[number] if number in outcomes else _scored_alone(model, rows) for number, rows in enumerate(requests)
    ]


def _scored_alone(model: TabularModel, rows: Rows) -> _Outcome:
    try:
        (share,) = _shares(model.predict(rows), [len(rows)])
    except Exception as error:  # noqa: BLE001  handed to the waiter, who raises it
        return error
    return share


def _shares(predicted: Predictions, counts: Sequence[int]) -> Iterator[Predictions]:
    """Each request's part. Raises ValueError when the model gave another number of values than it got rows."""
    values, probabilities = predicted.values, predicted.probabilities
    if len(values) != sum(counts) or (probabilities is not None and len(probabilities) != len(values)):
        raise ValueError(f"the model gave {len(values)} values for {sum(counts)} rows")
    start = 0
    for count in counts:
        end = start + count
        yield Predictions(values[start:end], None if probabilities is None else probabilities[start:end])
        start = end
