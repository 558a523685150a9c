"""A real MLflow store on SQLite for the whole room (opening one takes seconds), and made-up reports."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import EvalReport, Metric, Output, RowResult, RunFindings, Score
from llmops.hashing import content_hash
from llmops.prompt_file import parse_prompt
from llmops.recording import CellIdentity, EvalRecorder, EvalRun
from llmops.recording.resuming import stored_traces
from llmops.registry import Registry, Store
from llmops.settings import Settings
from llmops.versions import ModelVersion

PROMPT = "---\ninput_variable: question\nparameters: {max_tokens: 16}\n---\n# user\n{{ question }}\n"
FINDINGS = {"correct": RunFindings({"macro_f1": 0.25, "f1[größe]": 0.5}, {"confusion.json": b"[[1]]"})}

_numbers = itertools.count(1)


class OnlyIterable:
    """Rows that can be counted and read again, and nothing else, as they come from a file."""

    def __init__(self, rows: list[RowResult]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[RowResult]:
        return iter(self._rows)


def row(i: int) -> RowResult:
    """Odd rows are right; every third has no score of `judge`; every fifth has no answer."""
    failed = i % 5 == 4
    given = EvalRow(
        f"row-{i}", {"question": f"Is {i} só?"}, {"answers": [str(i)], "ü": {"n": i}}, (), {"odd": str(i % 2)}
    )
    output = Output("", error="gone") if failed else Output(f"It is “{i}”.", "stop", 7, 3, 12.5, 4.0)
    judged = Score(error="no verdict") if i % 3 == 2 else Score(0.25 * (i % 4), "Because.", label="fair")
    return RowResult(given, output, {"correct": Score(i % 2 == 1, "Looked."), "judge": judged})


def report(rows: int | list[RowResult]) -> EvalReport:
    """Of that many rows, or of those given."""
    results = OnlyIterable([row(i) for i in range(rows)] if isinstance(rows, int) else rows)
    metrics = {"correct": Metric(0.5, len(results), 0, (0.25, 0.75)), "judge": Metric(None, 0, len(results), None)}
    tokens = [(result.output.tokens_in or 0, result.output.tokens_out or 0) for result in results]
    return EvalReport(results, metrics, len(results), 0, 2.0, *map(sum, zip(*tokens, strict=True)), 30, FINDINGS)


@dataclass(frozen=True)
class Desk:
    """A store with a prompt and a model, and what it takes to record there."""

    registry: Registry
    suite: str = "sums"

    @property
    def store(self) -> Store:
        return self.registry.store

    @property
    def client(self) -> Any:
        return self.registry.store.mlflow_client

    @property
    def recorder(self) -> EvalRecorder:
        return EvalRecorder(self.store)

    def cell(
        self, suite: str | None = None, eval_sets: tuple[str, ...] = ("sums-rows",), seed: int | None = None
    ) -> CellIdentity:
        """The cell of that seed, or one that no other test has."""
        seed = next(_numbers) if seed is None else seed
        content = {"parameters": {"max_tokens": 16}, "engine": {"name": "fake", "slots": 4}, "seed": seed}
        return CellIdentity(
            suite or self.suite,
            self.registry.prompts.get("qa@1"),
            self.registry.models.get("tiny@1"),
            content,
            content_hash(content),
            {name: content_hash(name) for name in eval_sets},
        )

    def traces(self, run_id: str) -> dict[str, Any]:
        """MLflow's traces of a run by row id, with their spans."""
        client = self.client
        experiment_id = client.get_run(run_id).info.experiment_id
        found = [client.get_trace(t.info.trace_id) for t in stored_traces(client, experiment_id, run_id)]
        by_row = {trace.info.tags["row_id"]: trace for trace in found}
        assert len(by_row) == len(found)
        return by_row

    def runs(self, cell: CellIdentity) -> list[Any]:
        """MLflow's runs of a cell, whatever their state."""
        condition = f"tags.`llmops.cell_hash` = '{cell.hash}'"
        return list(self.client.search_runs([self.store.experiment(cell.suite)], condition))

    def files(self, run: EvalRun, folder: str | None = None) -> set[str]:
        found = self.client.list_artifacts(run.run_id, folder)
        below: set[str] = set().union(*(self.files(run, item.path) for item in found if item.is_dir))
        return below | {item.path for item in found if not item.is_dir}


def open_desk(settings: Settings) -> Desk:
    registry = Registry(settings)
    registry.prompts.register("qa", parse_prompt(PROMPT))
    model = ModelVersion("tiny", 0, "file:/tiny.gguf", "gguf", "a" * 64, Path("aa/tiny.gguf"), "MIT", 3)
    registry.models.register(model)
    return Desk(registry)


@pytest.fixture(scope="session")
def desk(tmp_path_factory):
    return open_desk(Settings(home=tmp_path_factory.mktemp("home")))
