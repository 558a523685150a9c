"""Shards without a cluster: the local runner's results, nothing made twice, failures tried again."""

import pickle
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from llmops.engines.fake import FakeEngine
from llmops.engines.protocol import EngineIdentity
from llmops.errors import CannotRun, EngineError, EngineRejected, EngineUnavailable
from llmops.eval_runs import sharding
from llmops.eval_runs.matrix import RowChoice, RunOptions, cell_identity
from llmops.eval_runs.sharding import CellWork, RayMatrix, ShardDone, ShardWorker, collect, report_of, shards_of
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.results import EvalReport
from llmops.recording import MAX_TRACED_ROWS
from llmops.recording.runs import EvalRecorder
from tests.registered_home import Workshop

N = 24  # rows of the suite


class ShardedCell:
    """A cell of the suite `sums` in shards of 5 rows, below a folder of their own, with a cache of its own."""

    def __init__(self, workshop: Workshop, folder: Path, **options: object) -> None:
        suite = workshop.evaluations.suite("sums")
        settings = replace(workshop.settings, shards=str(folder / "shards"))
        matrix = RayMatrix(settings, workshop.registry, suite, RunOptions(**options), lambda *_: None)
        [cell] = workshop.evaluations.cells(suite, ["qa@1"])
        self.task, self.work = matrix.task(cell, RowChoice()), matrix.cell_work(cell, RowChoice())
        self.cache = GenerationCache(folder / "cache")
        matrix.cache.close()

    def run(self, work: CellWork | None = None) -> list[ShardDone]:
        """Evaluates each shard as another process would."""
        with closing(ShardWorker()) as worker:
            shards = shards_of(self.work, self.task, self.cache, 5)
            return [sent(worker.evaluate(sent(work or self.work), sent(each))) for each in shards]

    def report(self, done: list[ShardDone]) -> EvalReport:
        return report_of(self.work, done, self.cache)


def sent(value):
    """As it arrives in another process."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own


@pytest.fixture
def cell(workshop: Workshop, tmp_path: Path) -> Iterator[ShardedCell]:
    made = ShardedCell(workshop, tmp_path)
    with closing(made.cache):
        yield made


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeEngine], FakeEngine]:
    """Has a worker open this engine, and gives it."""

    def opens(engine: FakeEngine) -> FakeEngine:
        monkeypatch.setattr(sharding, "open_engine", lambda *_: engine)
        return engine

    return opens


def test_the_rows_are_the_local_runs(workshop, cell):
    report = cell.report(cell.run())
    [local] = workshop.run()
    assert report.metrics == local.run.metrics
    assert [scores_of(row) for row in report.results] == [
        scores_of(row) for row in workshop.evaluations.rows(local.run)
    ]
    assert (report.generated, report.from_cache, report.generated_tokens) == (N, 0, report.tokens_out)
    assert report.seconds > 0


def scores_of(row):
    return row.row, row.output.text, row.scores


def test_a_shard_that_is_there_is_not_made_again(cell, opened):
    engine = opened(FakeEngine(slots=4))
    work = replace(cell.work, scorer_specs=cell.work.scorer_specs[:3])  # the fourth has no score of any row
    first = cell.run(work)
    assert len(engine.requests) == N
    assert [each.shard for each in cell.run(work)] == [each.shard for each in first]
    assert len(engine.requests) == N
    again = cell.run(replace(work, anew=True))  # scored again, and the answers kept
    assert [(each.shard, each.made.n) for each in again] == [(each.shard, 0) for each in first]
    assert len(engine.requests) == N


def test_what_the_local_cache_holds_is_not_made_again_and_the_other_way_round(workshop, cell, opened):
    engine = opened(FakeEngine(slots=4))
    cell.report(cell.run())
    keys = [job.key for job in cell.task.jobs()]
    assert all(map(cell.cache.holds, keys))
    for path in Path(cell.work.folder).rglob("*.parquet"):
        path.unlink()
    assert [each.made.n for each in cell.run()] == [0] * 5
    assert len(engine.requests) == N


def test_a_row_that_failed_is_a_record_and_is_tried_again_and_older_shards_stay(cell, opened):
    opened(FakeEngine(slots=4, failure=EngineRejected("out of order")))
    failed = cell.run()
    report = cell.report(failed)
    assert {row.scores["correct"].error for row in report.results} == {"generation failed: out of order"}
    assert not any(cell.cache.holds(job.key) for job in cell.task.jobs())
    opened(FakeEngine(slots=4))
    mended = cell.run()
    assert [each.made.n for each in mended] == [5, 5, 5, 5, 4]
    assert all(row.output.error is None for row in cell.report(mended).results)
    assert all(row.output.error for row in report.results)  # as it was recorded


def test_an_engine_that_goes_away_ends_a_shard_and_what_it_answered_is_kept(cell, opened):
    class Dying(FakeEngine):
        async def stream(self, request):
            if len(self.requests) == 3:
                raise EngineUnavailable("gone", lasting=True)
            async for chunk in super().stream(request):
                yield chunk

    opened(Dying(slots=1))
    done = cell.run()[0]
    assert (done.shard, str(done.error)) == (None, "gone")
    assert isinstance(done.error, EngineError)
    assert list(collect(cell.work, [done], cell.cache)) == []
    assert sum(cell.cache.holds(job.key) for job in cell.task.jobs()) == 3
    engine = opened(FakeEngine(slots=4))
    assert sum(each.made.n for each in cell.run()) == len(engine.requests) == N - 3


def test_a_node_whose_engine_would_answer_otherwise_is_refused(cell):
    other = replace(cell.task, identity=EngineIdentity("fake", "2", {}), rows=())
    done = cell.run(replace(cell.work, task=other))[0]
    assert isinstance(done.error, CannotRun)
    assert "install the same versions" in str(done.error)


@pytest.mark.parametrize("most_traced", [10, MAX_TRACED_ROWS], ids=["rows in Parquet", "rows in MLflow"])
def test_comparisons_and_reports_read_either(workshop, tmp_path, most_traced, monkeypatch):
    monkeypatch.setattr("llmops.recording.runs.MAX_TRACED_ROWS", most_traced)
    cell = ShardedCell(workshop, tmp_path, seed=most_traced)
    store = workshop.registry.store
    suite = workshop.evaluations.suite("sums")
    [found] = workshop.evaluations.cells(suite, ["qa@1"])
    identity = cell_identity(suite, found, workshop.settings, RunOptions(seed=most_traced), RowChoice())
    with closing(cell.cache):
        run = EvalRecorder(store).record(identity, cell.report(cell.run()), "bulk")
    files = {item.path for item in store.client.list_artifacts(run.run_id)}
    assert ("shards.json" in files, "rows.jsonl" in files) == ((True, False) if most_traced == 10 else (False, True))
    assert run.params["traced_rows"] == str(min(N, most_traced))
    [local] = workshop.run()
    compared = workshop.evaluations.compare_runs(suite, "a", local.run, "b", run)
    assert {name: metric.ties for name, metric in compared.metrics.items()}["correct"] == N
    if most_traced == 10:
        assert run.params["rows_in"].startswith("5 Parquet files below ")
        assert EvalRecorder(store).find("sums", identity.hash) == run
        next(Path(cell.work.folder).rglob("*.parquet")).unlink()
        assert EvalRecorder(store).find("sums", identity.hash) is None  # as for a run whose artifacts are gone
