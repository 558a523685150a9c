"""MLflow's prompt optimizers through ours, and ours through MLflow's door."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest

import llmops
from llmops.engines.fake import FakeEngine
from llmops.engines.opening import open_engine
from llmops.errors import CannotRun, EngineError, UsageError
from llmops.eval_runs import matrix
from llmops.optimizing.mlflow_optimizers import ExamplesOptimizer
from llmops.registry import Registry
from llmops.registry import model_registration as models
from llmops.registry.store import Store
from tests.engines.upstream_server import reply, serving, whole
from tests.optimizing.conftest import code_of, right_where, row

# Of MLflow's own type hints, when its models are first imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")

GOOD = "Say two words backwards."
by_instruction = right_where(lambda request: request.messages[0]["content"] == GOOD)


@pytest.fixture
def proposing(codes, monkeypatch):
    """Optimises with proposals of a local server, which says `answer`; `seen` keeps what it was asked."""
    state = SimpleNamespace(answer="", seen=[], status=200)

    def opened(model, settings, name=None):
        upstream = model.name == "writer"
        return open_engine(model, replace(settings, engine=None), name) if upstream else FakeEngine(by_instruction)

    async def behave(seen, send):
        state.seen.append(seen)
        return await reply(state.status, whole(state.answer))(seen, send)

    with serving(behave) as server:
        monkeypatch.setattr(matrix, "open_engine", opened)
        models.register(codes, Registry(codes), "writer", f"openai:{server.url}#writer")

        def optimize(**options):
            given = {"settings": codes, "proposer": "writer@1", "progress": False, "budget": 200, **options}
            return llmops.optimize("codes", **given)

        state.optimize, state.settings = optimize, codes
        yield state


@pytest.mark.parametrize(
    ("optimizer", "answer"),
    [("instructions", GOOD), ("gepa", f"```\n{GOOD}\n```"), ("metaprompt", json.dumps({"instruction": GOOD}))],
)
def test_instructions_that_a_model_writes_race_like_all_others_and_nothing_is_registered(proposing, optimizer, answer):
    proposing.answer = answer
    found = proposing.optimize(optimizer=optimizer)
    assert found.passed
    assert found.best["instruction"].startswith({"instructions": "proposal"}.get(optimizer, optimizer))
    assert GOOD in found.best["prompt"]
    assert [each.version for each in Registry(proposing.settings).prompts.versions("codes")] == [1]
    # The model that writes saw rows of demonstration alone.
    held = Store(proposing.settings).mlflow_client.download_artifacts(found.run_id, "split.json")
    shown = json.loads(Path(held).read_text())["demonstrations"]
    asked = " ".join(json.dumps(seen.body) for seen in proposing.seen)
    assert {each["id"] for each in map(row, range(100)) if each["inputs"]["question"] in asked} <= set(shown)
    n_asked = len(proposing.seen)
    assert proposing.optimize(optimizer=optimizer).run_id == found.run_id
    assert len(proposing.seen) == n_asked


def test_a_model_that_proposes_nothing_of_use_or_turns_requests_away_is_said_so_though_mlflow_passes_over_it(proposing):
    for optimizer, proposing.answer, problem in (
        ("metaprompt", "I would rather not.", "proposal is no JSON object"),
        ("gepa", "Give the code.", "there is no candidate"),  # what it has already
    ):
        with pytest.raises(CannotRun, match=problem):
            proposing.optimize(optimizer=optimizer)
    proposing.status = 400
    for optimizer in ("instructions", "gepa", "metaprompt"):
        with pytest.raises(EngineError, match="writer@1: "):
            proposing.optimize(optimizer=optimizer, seed=1)


DATA = [{"inputs": each["inputs"], "expectations": each["expectations"]} for each in map(row, range(100))]


@mlflow.genai.scorer
def correct(outputs, expectations):
    return expectations["expected_response"] in outputs


@pytest.fixture
def prompt(codes, monkeypatch):
    """A text prompt that MLflow's registry has, and what answers it: the better, the more examples there are."""
    monkeypatch.setenv("LLMOPS_HOME", str(codes.home))
    store = Store(codes)
    store.make_current()
    mlflow.set_experiment("optimised by MLflow")
    registered = mlflow.genai.register_prompt("code", "Give the code of: {{question}}")

    def predict(question):
        text = mlflow.genai.load_prompt(registered.uri).format(question=question)
        *examples, last = text.split("Give the code of: ")[1:]
        asked = SimpleNamespace(messages=[{"role": "assistant", "content": ""}] * len(examples))
        asked.messages.append({"role": "user", "content": last})
        return code_of(asked)

    def optimize(optimizer, data=DATA, scorers=(correct,)):
        return mlflow.genai.optimize_prompts(
            predict_fn=predict,
            train_data=data,
            prompt_uris=[registered.uri],
            optimizer=optimizer,
            scorers=list(scorers),
            enable_tracking=False,
        )

    return SimpleNamespace(optimize=optimize, settings=codes)


@pytest.mark.slow  # MLflow traces every answer
def test_mlflow_registers_what_our_optimizer_found_better_on_held_out_rows_and_these_are_read_once(prompt):
    found = prompt.optimize(ExamplesOptimizer(budget=250))
    [version] = found.optimized_prompts
    assert version.version == 2
    assert version.template.endswith("Give the code of: {{question}}")
    assert version.template.count("Give the code of: ") > 2
    assert found.final_eval_score > found.initial_eval_score + 0.2
    assert prompt.optimize(ExamplesOptimizer(budget=250, seed=1)).final_eval_score is not None
    with pytest.raises(CannotRun, match="held-out rows are read once"):
        prompt.optimize(ExamplesOptimizer(budget=250, seed=2))


@pytest.mark.slow
def test_mlflow_registers_nothing_where_no_example_helps(prompt, caplog):
    none = [{**each, "expectations": {"expected_response": f"nobody says {n}"}} for n, each in enumerate(DATA)]
    found = prompt.optimize(ExamplesOptimizer(budget=100), none)
    assert (found.optimized_prompts, found.final_eval_score) == ([], None)
    assert "nothing is registered" in caplog.text


def test_our_optimizer_takes_one_prompt_that_has_a_variable():
    with pytest.raises(UsageError, match="one prompt"):
        ExamplesOptimizer().optimize(None, DATA, {"a": "{{x}}", "b": "{{x}}"})
    with pytest.raises(UsageError, match="no variable"):
        ExamplesOptimizer().optimize(None, DATA, {"a": "Say it."})
