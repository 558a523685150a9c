"""Eval sets as MLflow's evaluation datasets: each content once, shown on the suite's Datasets page; and which rows
of a large one MLflow shows one by one."""

import hashlib
import heapq
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any, TypeVar

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Results, RowResult
from llmops.hashing import canonical_json, content_hash
from llmops.production_log import in_batches
from llmops.recording.cell import CellIdentity
from llmops.recording.traces import ROW_ID_TAG, TextCleaner
from llmops.registry.store import Store, translated

MAX_TRACED_ROWS = 5000
"""Above it, MLflow gets a sample of the rows; all rows are in the run's `rows.jsonl` and count in its metrics."""

RULE_ALL, RULE_SAMPLE = "all", "smallest sha256 of the row id"

T = TypeVar("T")


def rank(row_id: str) -> str:
    """Rows with the smallest rank are chosen: the same ones in every run of the same rows."""
    return hashlib.sha256(row_id.encode(errors="surrogatepass")).hexdigest()


def sampled(rows: Iterable[tuple[str, T]], limit: int = MAX_TRACED_ROWS) -> list[T]:
    """Of (row id, item) pairs, the items of the `limit` smallest ranks, in the order given. Holds no more of them."""
    numbered = ((rank(row_id), number, item) for number, (row_id, item) in enumerate(rows))
    chosen = heapq.nsmallest(limit, numbered, key=itemgetter(0, 1))
    return [item for _, _, item in sorted(chosen, key=itemgetter(1))]


def traced(results: Results, limit: int) -> Iterator[tuple[int, RowResult]]:
    """The rows that become traces, each with its number in the run. Reads the results twice, and keeps ids alone."""
    chosen = None if len(results) <= limit else set(sampled(((r.row.id, r.row.id) for r in results), limit))
    for number, result in enumerate(results):
        if chosen is None or result.row.id in chosen:
            yield number, result


_HASH_TAG, _FILLED_TAG, _ROWS_TAG = "llmops.content_hash", "llmops.filled", "llmops.rows"
_RECORDS_AT_A_TIME = 500
_SESSION_INPUT = "goal"  # an input of this name makes MLflow take the row for a simulated session, or refuse it


def register_eval_set(
    store: Store, name: str, content_hash: str, rows: Iterable[EvalRow], suite: str | None = None
) -> str:
    """Id of the MLflow evaluation dataset with this content, made when absent.

    rows: read once, and only when the content is new; of more than `MAX_TRACED_ROWS` the same sample that runs show.
    suite: the experiment whose Datasets page shows it. MLflow keeps one record for rows of equal inputs.

    Raises StoreUnavailable.
    """
    experiment_ids = [store.experiment(suite)] if suite is not None else []
    with translated(f"dataset {name}"):
        dataset = _find(store, name, content_hash)
        if dataset is None:
            tags = {_HASH_TAG: content_hash, _FILLED_TAG: "false"}
            dataset = store.client.create_dataset(name, experiment_ids, tags)
        elif missing := sorted(set(experiment_ids) - set(dataset.experiment_ids)):
            store.client.add_dataset_to_experiments(dataset.dataset_id, missing)
        if dataset.tags[_FILLED_TAG] != "true":
            store.make_current()  # `merge_records` is one of MLflow's functions that look for the store themselves
            total = _fill(dataset, rows)
            store.client.set_dataset_tags(dataset.dataset_id, {_FILLED_TAG: "true", _ROWS_TAG: str(total)})
        return str(dataset.dataset_id)


def dataset_inputs(store: Store, cell: CellIdentity, rows: int) -> list[Any]:
    """What a run was scored on, as MLflow's dataset entities.

    The first is all of it, which the run's metrics belong to: the eval set, or, where a suite has several, one of the
    suite's name, with each eval set after it. MLflow's errors pass through.
    """
    eval_sets = [_entity(store, name, digest, rows) for name, digest in cell.eval_sets.items()]
    if len(eval_sets) == 1:
        return eval_sets
    return [_entity(store, cell.suite, content_hash(dict(cell.eval_sets)), rows), *eval_sets]


def _entity(store: Store, name: str, digest: str, rows: int) -> Any:
    from mlflow.entities import Dataset

    registered = _find(store, name, digest)
    source = {"eval_set": name, "sha256": digest}
    profile = canonical_json({"num_rows": rows})
    if registered is None:
        return Dataset(name, digest[:16], "llmops", canonical_json(source), profile=profile)
    source["dataset_id"] = str(registered.dataset_id)
    return Dataset(name, digest[:16], "mlflow_evaluation_dataset", canonical_json(source), profile=profile)


def _find(store: Store, name: str, digest: str) -> Any | None:
    # Unlike other searches, that of datasets takes backquotes for a part of the tag's name.
    datasets = store.client.search_datasets(filter_string=f"tags.{_HASH_TAG} = '{digest}'")
    return next((dataset for dataset in datasets if dataset.name == name), None)


def _fill(dataset: Any, rows: Iterable[EvalRow]) -> int:
    """Puts the rows in; again, where a killed process left off. Returns how many rows the eval set has."""
    total = 0

    def numbered() -> Iterator[tuple[str, EvalRow]]:
        nonlocal total
        for row in rows:
            total += 1
            yield row.id, row

    kept = sampled(numbered())
    wrapped = any(_SESSION_INPUT in row.inputs for row in kept)
    clean, records = TextCleaner(), []
    for row in kept:
        inputs, tags = clean(dict(row.inputs)), clean({**row.tags, ROW_ID_TAG: row.id})
        inputs = {"inputs": inputs} if wrapped else inputs
        records.append({"inputs": inputs, "expectations": clean(dict(row.expectations)), "tags": tags})
    for some in in_batches(records, _RECORDS_AT_A_TIME):
        dataset.merge_records(some)
    return total
