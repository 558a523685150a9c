"""What an eval run is known by, what is read back of one, and what is put on record about it later: comparisons,
verdicts, reports, and how far a judge agrees with labels."""

import contextlib
import json
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.errors import Corrupted
from llmops.evaluation.results import AnswerCounts, Metric, Results, RowResult
from llmops.evaluation.shards import ShardedResults
from llmops.hashing import canonical_json
from llmops.registry.store import Store, pages, translated
from llmops.versions import ModelVersion, PromptVersion

CELL_TAG, CONTENT_TAG, COMPLETE_TAG = "llmops.cell_hash", "llmops.cell", "llmops.complete"
SUITE_TAG, PROMPT_TAG, MODEL_TAG = "llmops.suite", "llmops.prompt", "llmops.model"
RECORDER_TAG, WRITER_TAG, USER_TAG = "llmops.recorder", "llmops.writer", "mlflow.user"
ROWS_FILE, SUMMARY_FILE = "rows.jsonl", "summary.json"
SHARDS_FILE = "shards.json"
"""In place of `rows.jsonl`, in a run whose rows stay in Parquet: which files, and the sha256 of each."""

_LONGEST_PARAM = 500


@dataclass(frozen=True, slots=True)
class CellIdentity:
    """What was run: everything that makes two eval runs the same run. hash: of all of it.

    prompt: None where a Python callable answered.
    content: needs `parameters`, `engine` (mappings) and `seed`. eval_sets: content hashes by name.
    """

    suite: str
    prompt: PromptVersion | None
    model: ModelVersion
    content: Mapping[str, Any]
    hash: str
    eval_sets: Mapping[str, str]

    @property
    def title(self) -> str:
        return f"{self.prompt.ref} on {self.model.ref}" if self.prompt else self.model.ref

    def tags(self) -> dict[str, str]:
        return {
            CELL_TAG: self.hash,
            SUITE_TAG: self.suite,
            PROMPT_TAG: self.prompt.ref if self.prompt else "",
            MODEL_TAG: self.model.ref,
            CONTENT_TAG: canonical_json(self.content),
        }

    def params(self) -> dict[str, str]:
        shown = {"prompt": self.prompt.ref} if self.prompt else {}
        shown |= {"model": self.model.ref, "model_sha256": self.model.sha256}
        for group in ("parameters", "engine"):
            shown.update({f"{group}.{key}": shown_param(value) for key, value in self.content[group].items()})
        return {**shown, "seed": str(self.content["seed"])}


def shown_param(value: Any) -> str:
    """A value as MLflow shows parameters: text as it is, anything else as JSON; the first 500 characters."""
    return (value if isinstance(value, str) else canonical_json(value))[:_LONGEST_PARAM]


@dataclass(frozen=True, slots=True)
class DatasetUse:
    """A dataset as a run names it. context: `training`, `evaluation` …, empty where nobody said. source, profile: what
    MLflow keeps as JSON; empty where it is none. digest: MLflow's short one. tags: of the use, but for the context."""

    name: str
    digest: str
    context: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EvalRun:
    """A recorded eval run. Rows are read when asked for.

    prompt: empty where a Python callable answered.
    params: what MLflow shows (engine, slots, seed …).
    usage: `tokens_in`, `tokens_out` and `cost` over all rows, where they are known.
    answers: what became of the rows.
    content: the cell's identity, as `CellIdentity` has it; empty where it was too long for the store.
    at: seconds since the epoch. by: who made it, where that is known.
    suite_rows: of the whole suite when it was run; None for older runs.
    """

    run_id: str
    suite: str
    prompt: str
    model: str
    metrics: Mapping[str, Metric]
    rows: int
    seconds: float
    tokens_per_second: float | None
    experiment_id: str
    params: Mapping[str, str] = field(default_factory=dict)
    usage: Mapping[str, float] = field(default_factory=dict)
    answers: AnswerCounts = field(default_factory=AnswerCounts)
    content: Mapping[str, Any] = field(default_factory=dict)
    at: float = 0.0
    by: str | None = None
    datasets: tuple[DatasetUse, ...] = ()
    suite_rows: int | None = None

    @property
    def cell(self) -> str:
        return f"{self.prompt},{self.model}" if self.prompt else self.model


def read_run(store: Store, run: Any) -> EvalRun:
    """MLflow's run as ours. The caller translates MLflow's errors."""
    tags, run_id = run.data.tags, run.info.run_id
    summary = json_file(store, run_id, SUMMARY_FILE)
    answers = summary.get("answers")
    content: Mapping[str, Any] = {}
    with contextlib.suppress(ValueError):  # MLflow cuts a tag off that is too long
        content = json.loads(tags.get(CONTENT_TAG, ""))
    return EvalRun(
        run_id=run_id,
        suite=tags[SUITE_TAG],
        prompt=tags[PROMPT_TAG],
        model=tags[MODEL_TAG],
        metrics={name: Metric.from_json(metric) for name, metric in summary["metrics"].items()},
        rows=summary["rows"],
        seconds=summary["seconds"],
        tokens_per_second=summary["tokens_per_second"],
        experiment_id=run.info.experiment_id,
        params=dict(run.data.params),
        usage=summary.get("usage", {}),
        # Of a run that was recorded before they were counted, from its rows.
        answers=AnswerCounts.from_json(answers)
        if answers is not None
        else AnswerCounts.of(result.output for result in recorded_rows(store, run_id, summary["rows"])),
        content=content,
        at=run.info.start_time / 1000,
        by=tags.get(USER_TAG) or None,
        datasets=used_datasets(run),
        suite_rows=int(run.data.params["suite_rows"]) if "suite_rows" in run.data.params else None,
    )


def used_datasets(run: Any) -> tuple[DatasetUse, ...]:
    """The datasets that MLflow's run names."""
    uses = []
    for used in run.inputs.dataset_inputs if run.inputs else ():
        tags = {tag.key: tag.value for tag in used.tags}
        context = tags.pop("mlflow.data.context", "")
        source, profile = (json_mapping(text) for text in (used.dataset.source, used.dataset.profile))
        uses.append(DatasetUse(used.dataset.name, used.dataset.digest, context, source, profile, tags))
    return tuple(uses)


def json_mapping(text: str | None) -> Mapping[str, Any]:
    """JSON of an object; empty for anything else: what others log need not be JSON."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def json_file(store: Store, run_id: str, path: str) -> dict[str, Any]:
    """A JSON object among a run's files. The caller translates MLflow's errors. Raises Corrupted: it is no JSON."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(store.client.download_artifacts(run_id, path, folder)).read_text(encoding="utf-8")
    try:
        value: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise Corrupted(f"{path} of run {run_id} is no JSON: {error}") from error
    return value


def find_runs(
    store: Store, experiments: Sequence[str], tags: Mapping[str, str], *, oldest_first: bool = False, most: int = 1000
) -> list[Any]:
    """MLflow's runs in the experiments of these ids that have these tags. The caller translates MLflow's errors."""
    if not experiments:  # which MLflow takes for all of them
        return []
    condition = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    order = f"attributes.start_time {'ASC' if oldest_first else 'DESC'}"
    return list(store.client.search_runs(experiments, condition, order_by=[order], max_results=most))


def runs_where(store: Store, experiment: str | None, condition: str) -> Iterator[Any]:
    """MLflow's runs of an experiment of that name, which is not made when absent, or of all, the newest first. The
    caller translates MLflow's errors."""
    if experiment is None:
        experiments = [each.experiment_id for each in pages(store.client.search_experiments)]
    else:
        experiments = store.experiment_ids(experiment)
    if experiments:
        yield from pages(
            store.client.search_runs,
            experiment_ids=experiments,
            filter_string=condition,
            order_by=["attributes.start_time DESC"],
        )


def eval_runs(store: Store, prompt: str, model: str) -> list[EvalRun]:
    """Every complete eval run of this prompt version on this model version, the newest first, whatever the parameters.
    Raises Corrupted where a run's record is no JSON, StoreUnavailable."""
    condition = (
        f"tags.`{PROMPT_TAG}` = '{prompt}' and tags.`{MODEL_TAG}` = '{model}' and tags.`{COMPLETE_TAG}` = 'true'"
    )
    with translated(f"eval runs of {prompt} on {model}"):
        return [read_run(store, run) for run in runs_where(store, None, condition)]


def lost_eval_runs(store: Store) -> list[str]:
    """Complete eval runs whose rows are not where they were recorded, as `suite: title (run id)`. Raises
    StoreUnavailable."""
    with translated("eval runs"):
        return [
            f"{run.data.tags[SUITE_TAG]}: {run.info.run_name} ({run.info.run_id})"
            for run in runs_where(store, None, f"tags.`{CELL_TAG}` != '' and tags.`{COMPLETE_TAG}` = 'true'")
            if not holds_rows(store, run.info.run_id)
        ]


def verdicts_of(store: Store, run_id: str) -> tuple[Mapping[str, Any], ...]:
    """The gate's verdicts on record with a run, each with its comparison. Raises UnknownVersion, StoreUnavailable,
    Corrupted."""
    with translated(f"run {run_id}"):
        return tuple(json_file(store, run_id, item.path) for item in store.client.list_artifacts(run_id, "gate"))


def holds_rows(store: Store, run_id: str) -> bool:
    """Whether a run's files are where they were put: somebody may have deleted the artifacts or shards, or copied the
    database alone. The caller translates MLflow's errors."""
    files = {item.path for item in store.client.list_artifacts(run_id)}
    if SHARDS_FILE in files:
        return SUMMARY_FILE in files and _shards(store, run_id).all_there()
    return {ROWS_FILE, SUMMARY_FILE} <= files


def recorded_rows(store: Store, run_id: str, count: int) -> Results:
    """Every row of a recorded run, one at a time: from a local copy of `rows.jsonl`, or from its shards. Reading these
    raises Corrupted where one is missing or was changed. The caller translates MLflow's errors."""
    if any(item.path == SHARDS_FILE for item in store.client.list_artifacts(run_id)):
        return _shards(store, run_id)
    return RecordedRows(store, run_id, count)


def _shards(store: Store, run_id: str) -> ShardedResults:
    return ShardedResults.from_json(json_file(store, run_id, SHARDS_FILE), store.settings.home)


class RecordedRows:
    """Every row of a recorded run, read from a local copy of `rows.jsonl` as often as asked, one at a time.

    The copy is deleted with this object.
    """

    def __init__(self, store: Store, run_id: str, count: int) -> None:
        """Fetches the rows. The caller translates MLflow's errors."""
        folder = Path(tempfile.mkdtemp(prefix="llmops-rows-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._path, self._count = folder / ROWS_FILE, count
        store.client.download_artifacts(run_id, ROWS_FILE, str(folder))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[RowResult]:
        with self._path.open("rb") as lines:
            for line in lines:
                yield RowResult.from_json(json.loads(line))


GATE_TAG, GATE_AGAINST_TAG, GATE_REASONS_TAG = "llmops.gate", "llmops.gate.against", "llmops.gate.reasons"
TEST_SESSIONS_TAG, _MOST_SESSIONS = "llmops.test_sessions", 20
LONGEST_TAG = 5000  # characters, which is what MLflow keeps
_JUDGES, _JUDGE_TAG, _CALIBRATION_FILE = "judges", "llmops.judge_hash", "calibration.json"
_CALIBRATION_METRICS = ("kappa", "kappa_low", "kappa_high", "n", "n_failed", "accuracy")


def record_comparison(store: Store, run_id: str, name: str, comparison: Mapping[str, Any]) -> None:
    """Keeps a comparison as a file of the challenger's eval run. Raises UnknownVersion, StoreUnavailable."""
    with translated(f"run {run_id}"):
        store.client.log_dict(run_id, dict(comparison), f"comparisons/{name}.json")


def record_verdict(store: Store, run_id: str, verdict: Mapping[str, Any]) -> str:
    """Puts a gate's verdict on the challenger's eval run: tags for lists and filters, and a file with all of it, whose
    path is returned. A verdict against the same champion replaces the one before.

    verdict: `verdict` (`pass`, `fail`, `inconclusive`), `against` (a ref or run id; None for no champion yet), and
    whatever else it takes to judge again (rules, run ids, the comparison).

    Raises UnknownVersion, StoreUnavailable.
    """
    against = str(verdict["against"] or "nothing")
    path = f"gate/against-{re.sub(r'[^A-Za-z0-9_.]', '-', against)}.json"
    with translated(f"run {run_id}"):
        store.client.log_dict(run_id, dict(verdict), path)
        store.client.set_tag(run_id, GATE_AGAINST_TAG, against)
        store.client.set_tag(run_id, GATE_REASONS_TAG, "\n".join(verdict.get("reasons", ()))[:LONGEST_TAG])
        store.client.set_tag(run_id, GATE_TAG, str(verdict["verdict"]))
    return path


def record_report(store: Store, run_id: str, path: Path) -> str:
    """Keeps a file below `reports/` of a run, and returns its path there. Raises UnknownVersion, StoreUnavailable."""
    with translated(f"run {run_id}"):
        store.client.log_artifact(run_id, str(path), "reports")
    return f"reports/{path.name}"


def record_test_session(store: Store, run_id: str, session: str) -> None:
    """Adds a session of tests to those that a run is tagged with, the newest of which stay. Raises UnknownVersion,
    StoreUnavailable."""
    with translated(f"run {run_id}"):
        tagged = store.client.get_run(run_id).data.tags.get(TEST_SESSIONS_TAG, "").split()
        if session not in tagged:
            store.client.set_tag(run_id, TEST_SESSIONS_TAG, " ".join([*tagged, session][-_MOST_SESSIONS:]))


def record_calibration(store: Store, name: str, calibration: Mapping[str, Any], judge_hash: str) -> str:
    """Writes how a judge agrees with labelled rows into the experiment `judges`. Returns the run id.

    judge_hash: of everything that can change the judge's scores. Of the calibration, the numbers kappa, kappa_low,
    kappa_high, n, n_failed and accuracy become metrics, where it has them. Raises StoreUnavailable.
    """
    metrics = {key: float(calibration[key]) for key in _CALIBRATION_METRICS if calibration.get(key) is not None}
    with translated(f"recording the calibration of {name}"), tempfile.TemporaryDirectory() as folder:
        import mlflow

        path = Path(folder) / _CALIBRATION_FILE
        path.write_text(json.dumps(dict(calibration), indent=2), encoding="utf-8")
        tags = {_JUDGE_TAG: judge_hash, "llmops.judge": name}
        with store.start_run(experiment_id=store.experiment(_JUDGES), run_name=name, tags=tags) as run:
            mlflow.log_metrics(metrics)
            mlflow.log_artifact(str(path))
        store.client.set_tag(run.info.run_id, COMPLETE_TAG, "true")
        return str(run.info.run_id)


def find_calibration(store: Store, judge_hash: str | None = None) -> dict[str, Any] | None:
    """The newest calibration of that very judge, or of any; None where there is none. Raises StoreUnavailable."""
    with translated("calibrations"):
        wanted = {COMPLETE_TAG: "true", **({_JUDGE_TAG: judge_hash} if judge_hash is not None else {})}
        runs = find_runs(store, store.experiment_ids(_JUDGES), wanted, most=1)
        return json_file(store, runs[0].info.run_id, _CALIBRATION_FILE) if runs else None
