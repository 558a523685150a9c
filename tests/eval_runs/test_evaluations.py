"""Runs, comparisons and gates end to end: fake engine, real MLflow store."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from llmops.engines.fake import FakeEngine
from llmops.engines.opening import engine_identity
from llmops.engines.protocol import EngineIdentity
from llmops.errors import CannotRun, EngineUnavailable, GateRefused, UnknownVersion, UsageError
from llmops.eval_runs import matrix as module
from llmops.eval_runs.evaluations import CellRun
from llmops.eval_runs.served_mode import mode_change, served_mode
from llmops.prompt_file import parse_prompt
from llmops.recording import EvalRun
from llmops.settings import Settings
from llmops.versions import ModelVersion

SCORERS = {"correct", "exact_match", "words", "fields"}


def no_engine(*_: Any) -> Any:
    raise AssertionError("an engine was loaded")


@pytest.fixture(scope="module")
def first(workshop: Any) -> CellRun:
    return workshop.run(recorder="auto")[0]


def test_metrics_count_scored_and_failed_rows_and_a_run_names_what_it_was_made_of(workshop, first):
    counted = {name: (found.mean, found.n_scored, found.n_failed) for name, found in first.run.metrics.items()}
    assert counted.keys() == SCORERS
    assert (counted["correct"], counted["fields"]) == ((0.5, 24, 0), (None, 0, 24))
    assert (first.run.rows, first.run.prompt, first.run.model) == (24, "qa@1", "tiny@1")
    why = "MissingExpectation: expectations hold no expected_json"
    assert [failure.to_json() for failure in workshop.evaluations.failures(first)] == [
        {"why": why, "rows": 24, "first": "sums-0", "scorers": ["fields"]}
    ]
    found = workshop.registry.store.mlflow_client.get_run(first.run.run_id)
    model = workshop.registry.models.get("tiny@1")
    assert json.loads(found.data.tags["mlflow.linkedPrompts"]) == [{"name": "qa", "version": "1"}]
    assert model.model_id in {item.model_id for item in found.inputs.model_inputs}
    assert "sums-rows" in {item.dataset.name for item in found.inputs.dataset_inputs}
    assert found.data.params["model_sha256"] == model.sha256
    assert found.data.metrics["correct/n_scored"] == 24
    assert found.data.metrics["fields/n_failed"] == 24


def test_an_identical_run_is_reused_and_force_records_a_new_one_and_generates_nothing(workshop, first, monkeypatch):
    monkeypatch.setattr(module, "open_engine", no_engine)
    again, forced = workshop.run()[0], workshop.run(force=True)[0]
    assert [(item.generated, item.from_cache) for item in (again, forced)] == [(0, 24)] * 2
    assert again.run == first.run
    assert forced.run.run_id != first.run.run_id
    assert forced.run.metrics == first.run.metrics


def test_a_limited_or_seeded_run_does_not_stand_for_the_full_one(workshop, first):
    limited = workshop.run(limit=5)[0]
    assert limited.run.rows == 5
    assert workshop.evaluations.resolve("qa@1").rows == 24
    one, two, again = (workshop.run(seed=seed, limit=3)[0] for seed in (1, 2, 1))
    assert len({one.run.run_id, two.run.run_id, first.run.run_id}) == 3
    assert (one.generated, two.generated) == (3, 3)
    assert again.run.run_id == one.run.run_id


def test_by_default_every_version_of_the_suites_prompt_is_a_cell_and_a_release_is_given_alone(workshop, add_suite):
    add_suite("orphan", 2, prompt="absent")
    evaluations = workshop.evaluations
    cells = evaluations.cells(evaluations.suite("sums"))
    assert [(cell.prompt.ref, cell.model.ref) for cell in cells] == [("qa@1", "tiny@1"), ("qa@2", "tiny@1")]
    with pytest.raises(UsageError, match="--release"):
        evaluations.cells(evaluations.suite("sums"), ["qa@1"], [], ["assistant@1"])
    with pytest.raises(UnknownVersion, match="llmops prompts register"):
        evaluations.cells(evaluations.suite("orphan"))


@pytest.mark.slow
def test_an_engine_that_goes_away_leaves_no_run_and_is_closed(workshop, monkeypatch):
    engine = FakeEngine(slots=4, failure=EngineUnavailable("gone"))
    monkeypatch.setattr(module, "open_engine", lambda *_: engine)
    before = len(workshop.registry.store.client.search_runs([workshop.registry.store.experiment("sums")]))
    with pytest.raises(EngineUnavailable):
        workshop.run(limit=4, seed=98)
    assert engine.closed
    assert len(workshop.registry.store.client.search_runs([workshop.registry.store.experiment("sums")])) == before


def test_one_engine_serves_all_cells_of_a_model(workshop, monkeypatch):
    opened = []

    def opening(*_: Any) -> FakeEngine:
        opened.append(FakeEngine(slots=4))
        return opened[-1]

    monkeypatch.setattr(module, "open_engine", opening)

    done = workshop.run(prompts=["qa@1", "qa@2"], limit=3, seed=55)

    assert [item.generated for item in done] == [3, 3]
    assert len(opened) == 1
    assert opened[0].closed


def test_runs_of_two_suites_cannot_be_compared(workshop, first, add_suite):
    add_suite("other", 3)
    other = workshop.run(suite="other")[0]
    with pytest.raises(CannotRun, match="give runs of one suite"):
        workshop.evaluations.compare(first.run.run_id, other.run.run_id)
    with pytest.raises(CannotRun, match="ran on suite other, not on sums"):
        workshop.evaluations.gate(other.run.run_id, None, "sums")
    with pytest.raises(UsageError, match="other, sums uses the prompt qa; name one with --suite"):
        workshop.evaluations.resolve("qa@1")
    assert workshop.evaluations.resolve("qa@1", "other").run_id == other.run.run_id


def test_a_run_is_found_by_id_prompt_and_cell_and_does_not_differ_from_itself(workshop, first):
    resolve = workshop.evaluations.resolve
    assert resolve(first.run.run_id) == first.run
    assert resolve("qa@1").cell == resolve("qa@1,tiny@1").cell == "qa@1,tiny@1"
    assert resolve("qa@1").run_id == resolve("qa@1,tiny").run_id
    found = workshop.evaluations.compare(first.run.run_id, "qa@1,tiny@1")
    assert found.rows == 24
    assert found.metrics.keys() == SCORERS - {"fields"}
    assert found.not_compared["fields"].failed_a == found.not_compared["fields"].failed_b == 24
    for metric in found.metrics.values():
        assert (metric.difference, metric.p_value, metric.wins, metric.losses) == (0, 1, 0, 0)
    assert set(found.slices) == {"parity=0", "parity=1"}
    gated = workshop.evaluations.gate("qa@1", "qa@1,tiny@1", "sums")
    assert (gated.verdict.verdict, gated.comparison.metrics["correct"].ties) == ("pass", 24)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0" * 32, "0" * 32),
        ("qa@9", "there are qa@1, qa@2"),
        ("qa@1,tiny@9", "there are tiny@1"),
        ("absent@1", "no prompt 'absent'"),
        ("qa@2", "llmops eval run sums --prompt qa@2 --model tiny@1"),
    ],
)
def test_what_was_not_run_says_what_to_do(workshop, first, text, message):
    with pytest.raises(UnknownVersion, match=re.escape(message)):
        workshop.evaluations.resolve(text)


def test_gates_are_kept_on_releases_and_open_promotion(workshop, first):
    registry, evaluations = workshop.registry, workshop.evaluations
    model = registry.models.get("tiny@1")
    prompts = [registry.prompts.get(ref) for ref in ("qa@1", "qa@2")]
    one, two = (
        registry.release_versions.create("assistant", prompt, model, prompt.template.parameters)[0]
        for prompt in prompts
    )

    with pytest.raises(UnknownVersion, match="llmops eval run sums --release assistant@2"):
        evaluations.gate("assistant@2", None, "sums")
    released = workshop.run(releases=["assistant@1", "assistant@2"])
    assert [item.to_json()["release"] for item in released] == ["assistant@1", "assistant@2"]
    assert evaluations.resolve("assistant@1").cell == "qa@1,tiny@1"

    gated = evaluations.gate("assistant@1", None, "sums")
    assert (gated.verdict.verdict, gated.comparison) == ("pass", None)
    registry.release_versions.promote(one)

    with pytest.raises(GateRefused):
        registry.release_versions.promote(two)
    gated = evaluations.gate("assistant@2", None, "sums")
    found = gated.comparison
    assert (gated.verdict.verdict, found.a, found.b, found.rows) == ("pass", "assistant@1", "assistant@2", 24)
    assert registry.release_versions.gates(two)["sums"]["against"] == "assistant@1"
    registry.release_versions.promote(two)

    assert registry.release_versions.champion("assistant").ref == "assistant@2"
    names = [item.path for item in registry.store.client.list_artifacts(released[1].run.run_id, "gate")]
    assert names == ["gate/against-assistant-1.json"]


# Served as evaluated


def test_a_gate_names_the_mode_in_which_other_answers_would_be_served(workshop, first):
    as_evaluated = workshop.evaluations.gate(first.run.run_id, None, "sums")
    assert not any("evaluated by" in reason for reason in as_evaluated.verdict.reasons)
    busier = workshop.with_settings(engine_slots=9)
    gated = busier.evaluations.gate(first.run.run_id, None, "sums")
    assert gated.verdict.reasons[-1] == (
        "evaluated by fake with slots 4, served by fake with slots 9: how many answers differ is not known"
    )
    assert gated.verdict.verdict == as_evaluated.verdict.verdict


def test_a_format_that_the_engine_cannot_enforce_is_refused_before_anything_is_answered(workshop, monkeypatch):
    monkeypatch.setattr(module, "open_engine", no_engine)
    form = '{"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {"type": "null"}}}}'
    text = f"---\ninput_variable: question\nresponse_format: {form}\n---\n# user\n{{{{ question }}}}\n"
    prompt, _ = workshop.registry.prompts.register("formed", parse_prompt(text))
    where = r"^formed@1 on tiny@1: response_format\.json_schema\.schema\.not: the llamacpp engine cannot"
    with pytest.raises(UsageError, match=where):
        workshop.with_settings(engine="llamacpp").run(prompts=[prompt.ref])


SETTINGS = Settings(home=Path("/nowhere"))
LOCAL = ModelVersion("tiny", 1, "file:x.gguf", "gguf", "0" * 64, Path("x.gguf"))
UPSTREAM = ModelVersion("far", 1, "openai:http://127.0.0.1:9/v1#m", "openai", "")
AS_SERVED = engine_identity(LOCAL, SETTINGS)
ALONE = replace(AS_SERVED, settings={**AS_SERVED.settings, "slots": 1})


def made_by(identity: EngineIdentity, **params: Any) -> EvalRun:
    shown = {f"engine.{name}": value for name, value in asdict(identity).items()}
    texts = {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in {**shown, **params}.items()
    }
    return EvalRun("r", "s", "p@1", "m@1", {}, 0, 0.0, None, "e", texts)


MEASURED = {"n": 32, "flips": 0, "served": asdict(AS_SERVED)}
BUSIER = replace(SETTINGS, engine_slots=8, engine_prompt_cache="no")
UNKNOWN = "how many answers differ is not known"


@pytest.mark.parametrize(
    ("run", "model", "settings", "said"),
    [
        (made_by(AS_SERVED, noise={"n": 32, "flips": 0}), LOCAL, SETTINGS, None),
        (
            made_by(AS_SERVED, noise={"n": 32, "flips": 3}), LOCAL, SETTINGS,
            "made again, as they are served, 3 of 32 answers differ (2% to 25% of all)",
        ),
        (
            made_by(AS_SERVED), LOCAL, SETTINGS,
            "how many answers differ when they are made again, as they are served, is not known",
        ),
        (
            made_by(ALONE, served=MEASURED), LOCAL, SETTINGS,
            "evaluated by llamacpp with slots 1, served by llamacpp with slots 16: "
            "0 of 32 answers differ (0% to 11% of all)",
        ),
        (  # measured for other settings
            made_by(ALONE, served=MEASURED), LOCAL, BUSIER,
            "evaluated by llamacpp with slots 1, cache template, "
            f"served by llamacpp with slots 8, cache no: {UNKNOWN}",
        ),
        (made_by(engine_identity(UPSTREAM, SETTINGS)), UPSTREAM, SETTINGS, None),  # its mode is its own
        (replace(made_by(AS_SERVED), params={}), LOCAL, SETTINGS, None),  # which engine it was, the run does not say
    ],
)  # fmt: skip
def test_a_verdict_says_how_served_answers_differ_from_those_evaluated(run, model, settings, said):
    assert served_mode(run, model, settings) == said


@pytest.mark.parametrize(
    ("before", "change"),
    [
        (AS_SERVED, None),
        (ALONE, "evaluated by llamacpp with slots 1, served by llamacpp with slots 16"),
        (replace(AS_SERVED, name="openvino"), "evaluated by openvino, served by llamacpp"),
        (replace(AS_SERVED, build="old"), f"evaluated by llamacpp with old, served by llamacpp with {AS_SERVED.build}"),
    ],
)
def test_a_change_of_mode_since_a_gate_is_named(before, change):
    assert mode_change(asdict(before), LOCAL, SETTINGS) == change
