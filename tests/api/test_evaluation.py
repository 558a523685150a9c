"""`llmops.evaluate`, `compare`, `gate` and `leaderboard`: own rows, scorers and models; a real MLflow store."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import datasets
import pandas as pd
import pytest

import llmops
from llmops.api.results import Evaluation
from llmops.errors import BadFile, LlmopsError, UsageError
from llmops.evaluation.eval_set import load_eval_set
from llmops.evaluation.eval_set_source import eval_set_of_rows
from tests.registered_home import Workshop

N = 24
ROWS = [
    {"id": f"r{n}", "inputs": {"n": n}, "expectations": {"answers": [str(n + n)]}, "tags": {"odd": str(n % 2)}}
    for n in range(N)
]


def double(inputs: Mapping[str, Any]) -> str:
    return str(2 * int(inputs["n"]))


@llmops.scorer
def right(answer: str, expected: Mapping[str, Any]) -> bool:
    return answer in expected["answers"]


@pytest.fixture
def evaluate(workshop: Workshop) -> Callable[..., Evaluation]:
    """On the workshop's home, recorded in bulk."""

    def run(suite: Any = "doubles", **arguments: Any) -> Evaluation:
        given = {"recorder": "bulk", "progress": False, "settings": workshop.settings, **arguments}
        if suite == "doubles":
            given = {"rows": ROWS, "scorers": [right], "models": double, **given}
        return llmops.evaluate(suite, **given)

    return run


def test_importing_llmops_loads_nothing_of_its_own_and_nothing_heavy():
    code = (
        "import sys; before = set(sys.modules); import llmops; dir(llmops);"
        "print(sorted(name for name in set(sys.modules) - before if name.startswith('llmops.')),"
        "[name for name in ('numpy', 'pydantic', 'mlflow', 'asyncio', 'click') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


def test_every_public_name_is_there_and_any_other_is_an_attribute_error():
    assert all(getattr(llmops, name) is not None for name in llmops.__all__)
    assert set(llmops.__all__) <= set(dir(llmops))
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        llmops.evalute  # type: ignore[attr-defined]  # noqa: B018


def test_a_callable_on_own_rows_is_recorded_with_what_answered_and_on_what(workshop, evaluate):
    done = evaluate()
    (run,) = done.runs
    assert (run.name, run.metrics["right"].mean, run.done.run.rows) == ("double@1", 1.0, N)
    assert run.to_dict()["prompt"] is None
    found = workshop.registry.store.mlflow_client.get_run(run.run_id)
    model = workshop.registry.models.get("double@1")
    assert model.source == "python:tests.api.test_evaluation:double"
    assert [item.model_id for item in found.inputs.model_inputs] == [model.model_id]
    assert [item.dataset.name for item in found.inputs.dataset_inputs] == ["doubles"]
    assert "mlflow.linkedPrompts" not in found.data.tags
    assert (found.data.params["engine.name"], found.data.params["model"]) == ("python", "double@1")


def test_a_callable_is_asked_again_by_each_evaluation_unless_a_version_is_named(evaluate):
    asked = []

    def count(inputs: Mapping[str, Any]) -> str:
        asked.append(inputs["n"])
        return str(len(asked))

    first, second = evaluate(models=count), evaluate(models=count)
    assert (len(asked), first[0].run_id != second[0].run_id) == (2 * N, True)
    assert first[0].rows[0].output.text != second[0].rows[0].output.text
    named = [evaluate(models=llmops.model(count, version=version)) for version in ("1", "1", "2")]
    assert len(asked) == 4 * N
    assert [run.name for each in named for run in each.runs] == ["count@2", "count@2", "count@3"]
    assert named[0][0].run_id == named[1][0].run_id


def test_a_callable_that_raises_or_returns_no_text_fails_that_row_once_and_is_counted(evaluate):
    asked = []

    async def shaky(inputs: Mapping[str, Any]) -> Any:
        asked.append(inputs["n"])
        await asyncio.sleep(0)
        if inputs["n"] == "3":
            raise ValueError("no three")
        return 4 if inputs["n"] == "4" else double(inputs)

    done = evaluate(models=shaky)
    metric = done[0].metrics["right"]
    assert (metric.mean, metric.n_scored, metric.n_failed, len(asked)) == (1.0, N - 2, 2, N)
    whys = {failure.why for failure in done[0].failures}
    assert whys == {"generation failed: ValueError: no three", "generation failed: it returned int, not text"}
    assert any("no three" in note for note in done.notes)


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_a_callable_that_hangs_fails_its_rows_when_its_time_is_over_and_holds_up_no_other(evaluate, kind):
    over = threading.Event()

    def hang(inputs: Mapping[str, Any]) -> str:
        if inputs["n"] in ("3", "4"):
            over.wait(300)
        return double(inputs)

    async def hang_awaited(inputs: Mapping[str, Any]) -> str:
        if inputs["n"] in ("3", "4"):
            await asyncio.sleep(300)
        return double(inputs)

    call = hang if kind == "function" else hang_awaited
    done = evaluate(models=llmops.model(call, slots=1, timeout=1))
    over.set()
    assert (done[0].metrics["right"].n_scored, done[0].metrics["right"].n_failed) == (N - 2, 2)
    assert {failure.why for failure in done[0].failures} == {"generation failed: no answer within 1 s"}


def test_functions_and_the_suites_scorers_score_side_by_side_and_a_function_that_fails_is_counted(evaluate):
    @llmops.scorer(limits=(0, 100), higher_is_better=None)
    def length(inputs: Mapping[str, Any], answer: str) -> int | None:
        if inputs["question"].startswith("Is “1”"):
            raise KeyError("gone")
        return None if inputs["question"].startswith("Is “2”") else min(100, len(answer))

    done = evaluate("sums", scorers=[length], prompts="qa@1")
    metrics = done[0].metrics
    assert {"correct", "exact_match", "words", "fields", "length"} == metrics.keys()
    assert (metrics["length"].n_scored, metrics["length"].n_failed) == (22, 2)
    whys = {failure.why for failure in done[0].failures if failure.scorers == ["length"]}
    assert whys == {"KeyError: 'gone'", "the scorer gave no score"}
    assert done[0].done.run.prompt == "qa@1"


def test_another_source_or_version_of_a_scorer_is_another_scorer(evaluate):
    def wrong(answer, expected):
        return answer not in expected["answers"]

    model = llmops.model(double, name="fixed", version="1")
    runs = [
        evaluate(models=model, scorers=[llmops.scorer(name="right", version=version)(function)])[0]
        for version, function in ((None, right.function), (None, right.function), ("2", right.function), (None, wrong))
    ]
    same, again, other, turned = (run.run_id for run in runs)
    assert (same == again, len({same, other, turned})) == (True, 3)
    assert runs[3].metrics["right"].mean == 0.0


@pytest.mark.parametrize("kind", ["list", "frame", "dataset"])
def test_own_rows_are_known_by_their_content_whatever_holds_them(tmp_path, kind):
    rows: Any = {"list": ROWS, "frame": pd.DataFrame(ROWS), "dataset": datasets.Dataset.from_list(ROWS)}[kind]
    (tmp_path / "doubles").mkdir()
    (tmp_path / "doubles" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    found, on_disk = eval_set_of_rows("doubles", rows), load_eval_set(tmp_path / "doubles")
    assert (found.n_rows, found.content_hash) == (on_disk.n_rows, on_disk.content_hash)


def test_a_frames_columns_are_mapped_and_a_missing_value_is_no_field():
    frame = pd.DataFrame({"q": ["one", "two"], "year": [2001, None]})
    first, second = eval_set_of_rows("years", frame, {"inputs.question": "q", "expectations.year": "year"}).rows
    assert (first.inputs, first.expectations, second.expectations) == ({"question": "one"}, {"year": 2001.0}, {})


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"inputs": {"n": 1}}, {"inputs": {"n": ""}}], "rows of x:2: inputs.n: must be text, and not empty"),
        ([{"id": "a", "inputs": {"n": 1}}, {"id": "a", "inputs": {"n": 2}}], "rows of x:2: id: 'a' stands on two rows"),
        ([{"inputs": {"n": 1}, "expect": 1}], "rows of x:1: expect: unknown field"),
        ([1], "rows of x:1: must be an object"),
        ([], "rows of x: there are none"),
    ],
)
def test_a_wrong_row_is_named_by_number_and_field(rows, said):
    with pytest.raises(BadFile) as caught:
        eval_set_of_rows("x", rows)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"suite": "absent"}, "no suite 'absent'"),
        ({"suite": "absent", "rows": ROWS}, "no suite 'absent'"),
        ({"models": ()}, "models: doubles names none"),
        ({"models": "tiny@1"}, "prompts: doubles names none"),
        ({"prompts": "qa@1"}, "prompts: a callable reads a row's inputs"),
        ({"models": lambda inputs: inputs}, "<lambda> cannot be registered"),
        ({"on": "ray"}, "on: double, right are functions of this process"),
        ({"limit": 0}, "limit: must be 1 or more"),
        ({"recorder": "slow"}, "recorder: must be one of auto"),
        ({"scorers": [right, "no_such"]}, "unknown scorer type 'no_such'"),
        ({"gate": {"primary": "other"}}, "is no scorer of this suite"),
        ({"suite": "sums", "columns": {}}, "columns: goes with rows"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_anything_is_asked(evaluate, arguments, said):
    with pytest.raises(LlmopsError, match=said):
        evaluate(**{"models": llmops.model(lambda _: pytest.fail("asked"), name="double"), **arguments})


def test_a_scorer_of_unknown_arguments_is_refused():
    with pytest.raises(UsageError, match="unknown argument output; there are inputs, expected, answer"):
        llmops.scorer(lambda output: output)


def test_it_works_where_an_event_loop_runs_already(evaluate):
    async def notebook() -> Evaluation:
        return evaluate()

    assert asyncio.run(notebook())[0].metrics["right"].mean == 1.0


def test_own_suites_are_compared_gated_and_ranked_and_the_verdict_is_on_record(workshop, evaluate):
    def poor(inputs: Mapping[str, Any]) -> str:
        return double(inputs) if int(inputs["n"]) % 3 == 0 else "<b>?</b>"

    done = evaluate(models=[poor, double])
    found = llmops.compare(done[0], done[1], settings=workshop.settings)
    assert (found.metrics["right"].difference, found.comparison.a) == (pytest.approx(2 / 3), done[0].name)
    assert set(found.to_pandas()["slice"]) == {"", "odd=0", "odd=1"}
    gated = llmops.gate(done[1], against=done[0], settings=workshop.settings)
    assert (gated.passed, gated.verdict.verdict) == (True, "pass")
    assert llmops.gate(done[0], against=done[1], settings=workshop.settings).verdict.verdict == "fail"
    tags = workshop.registry.store.client.get_run(done[1].run_id).data.tags
    assert (tags["llmops.gate"], tags["llmops.gate.against"]) == ("pass", done[0].name)
    with pytest.raises(UsageError, match="an evaluation of 2 cells"):
        llmops.compare(done, done[0], settings=workshop.settings)
    given = {"rows": ROWS, "scorers": [right], "models": [poor, double], "recorder": "bulk", "progress": False}
    board = llmops.leaderboard("doubles", settings=workshop.settings, **given)
    assert list(board.to_pandas()["name"]) == ["double@1", done[0].name]


def test_rows_are_a_frame_and_a_notebook_shows_escaped_tables(evaluate):
    done = evaluate(models=llmops.model(lambda _: "<script>alert(1)</script>", name="marked"))
    frame = done.to_pandas()
    assert len(frame) == N
    assert frame.loc[0, ["cell", "id", "inputs.n", "answer", "right", "tags.odd"]].tolist() == [
        "marked@1", "r0", "0", "<script>alert(1)</script>", False, "0",
    ]  # fmt: skip
    shown = evaluate("sums", prompts="qa@1", scorers=[llmops.scorer(name="<i>")(lambda answer: True)])._repr_html_()
    assert "&lt;i&gt;" in shown
    assert "<i>" not in shown


def test_a_callable_can_be_neither_released_nor_served(workshop, evaluate):
    evaluate()
    with pytest.raises(UsageError, match="double@1 is a Python callable, which no gateway can serve"):
        llmops.create_release("doubling", prompt="qa@1", model="double@1", settings=workshop.settings)
    with pytest.raises(UsageError, match=r"only llmops\.evaluate"):
        evaluate("sums", prompts="qa@1", models="double@1")
    assert not [model.ref for model in workshop.registry.registered().models if model.name == "double"]
