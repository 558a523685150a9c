"""Cells of a suite: what changed is made, and only that; noise, cost and missing judges are on record."""

import json
import socket
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from llmops.engines.fake import FakeEngine
from llmops.errors import BadFile, EngineRejected, EngineUnavailable
from llmops.eval_runs import matrix as module
from llmops.eval_runs.evaluations import CellRun
from llmops.eval_runs.matrix import cost_of
from llmops.generation import GenerationRequest
from llmops.prompt_file import parse_prompt
from llmops.registry import model_registration as models
from llmops.settings import Settings
from tests.judges.scripted import ScriptedJudge
from tests.registered_home import prompt_text

N = 24  # rows of the suite


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """What every model is opened as."""
    opened = FakeEngine(slots=4)
    monkeypatch.setattr(module, "open_engine", lambda *_: opened)
    return opened


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake engine counts as one of this machine, whose noise is measured."""
    monkeypatch.setattr(module, "_LOCAL_ENGINES", ("fake",))


def noise_of(done: CellRun) -> Any:
    return json.loads(done.run.params["noise"]) if "noise" in done.run.params else None


def test_a_scorer_that_cannot_score_stops_a_run_before_the_first_answer(workshop, engine, add_suite):
    odd = '[scorers.odd]\ntype = "ragas.BleuScore"\nkwargs = { smooth_method = "odd" }\n'
    add_suite("odd", 3, more=odd)
    with pytest.raises(BadFile, match=r"odd\.toml: scorers\.odd: cannot score a made-up row: .*smooth_method"):
        workshop.run(suite="odd")
    assert not engine.requests


def test_only_the_prompt_that_changed_is_generated_and_runs_come_in_the_order_of_the_cells(workshop, engine, add_suite):
    for system in ("Be terse.", "Be kind.", "Be late."):
        workshop.registry.prompts.register("trio", parse_prompt(prompt_text(system)))
    add_suite("trio", 5, "trio")
    first = workshop.run(["trio@1", "trio@2", "trio@3"], suite="trio")
    assert [item.generated for item in first] == [5, 5, 5]
    workshop.registry.prompts.register("trio", parse_prompt(prompt_text("Be early.")))
    engine.requests.clear()
    again = workshop.run(["trio@1", "trio@2", "trio@4"], suite="trio")
    assert [(item.generated, item.from_cache) for item in again] == [(0, 5), (0, 5), (5, 0)]
    assert [item.run.run_id for item in again[:2]] == [item.run.run_id for item in first[:2]]
    assert {request.messages[0]["content"] for request in engine.requests} == {"Be early."}
    assert len(engine.requests) == 5
    workshop.run(["qa@2"], seed=11, limit=3)
    done = workshop.run(["qa@1", "qa@2"], seed=11, limit=3)
    assert [(item.run.prompt, item.generated) for item in done] == [("qa@1", 3), ("qa@2", 0)]


# Noise


def test_noise_is_measured_once_for_an_engine_and_its_weights(workshop, engine, local):
    first = workshop.run(seed=21)[0]
    assert len(engine.requests) == 2 * N  # every answer, and every one of the sample again
    second = workshop.run(["qa@1", "qa@2"], seed=22)
    assert len(engine.requests) == 4 * N
    assert [noise_of(item) for item in (first, *second)] == [{"n": N, "flips": 0}] * 3
    found = workshop.registry.store.client.get_run(first.run.run_id)
    assert found.data.metrics["flip_share"] == 0


def test_noise_stands_beside_a_comparison(workshop, monkeypatch, local):
    asked: Counter[str] = Counter()

    def answer(request: GenerationRequest) -> str:
        text = request.messages[-1]["content"]
        asked[text] += 1
        return f"{asked[text]}" if "1” a number" in text else "always"

    # Other slots are another engine, whose noise is not known yet.
    busier = workshop.with_settings(engine_slots=3)
    monkeypatch.setattr(module, "open_engine", lambda *_: FakeEngine(answer, slots=3))
    one, two = busier.run(["qa@1", "qa@2"], seed=23)

    found = busier.evaluations.compare_runs(busier.evaluations.suite("sums"), "one", one.run, "two", two.run)

    # Questions 1, 11, 21 of each cell are the only ones whose answers change, and the sample holds 32 of 48 answers.
    noise = noise_of(one)
    assert noise["n"] == 32
    assert 1 <= noise["flips"] <= 6
    assert found.noise is not None
    assert (found.noise.changed, found.noise.expected) == (3, noise["flips"] / 32 * N)


def test_of_a_repeatable_run_it_is_measured_how_many_answers_would_be_served_otherwise(workshop, monkeypatch, local):
    opened: list[FakeEngine] = []

    def open_engine(_model: object, settings: Settings, _engine: object) -> FakeEngine:
        alone = settings.engine_slots == 1

        def answer(request: GenerationRequest) -> str:
            return "alone" if alone or "1” a number" not in request.messages[-1]["content"] else "side by side"

        opened.append(FakeEngine(answer, slots=settings.engine_slots))
        return opened[-1]

    monkeypatch.setattr(module, "open_engine", open_engine)
    done = workshop.run(repeatable=True, seed=24)[0]

    assert [(engine.slots, len(engine.requests), engine.closed) for engine in opened] == [
        (1, N, True),
        (workshop.settings.engine_slots, N, True),
    ]
    assert noise_of(done) is None
    served = json.loads(done.run.params["served"])
    assert (served["n"], served["flips"]) == (N, 3)
    assert served["served"]["settings"] == {"slots": workshop.settings.engine_slots}
    again = workshop.run(repeatable=True, seed=24, force=True)[0]
    assert again.run.params["served"] == done.run.params["served"]
    assert len(opened) == 2


def test_a_run_asks_the_engine_that_the_gateway_would_open(workshop, monkeypatch):
    settings = workshop.with_settings(engine_slots=5, engine_prompt_cache="no")
    given: list[Settings] = []

    def open_engine(_model: object, settings: Settings, _engine: object) -> FakeEngine:
        given.append(settings)
        return FakeEngine(slots=settings.engine_slots)

    monkeypatch.setattr(module, "open_engine", open_engine)
    settings.run(seed=26)

    assert given == [settings.settings]


def test_noise_of_an_upstream_or_of_cached_answers_is_not_measured(workshop, engine, monkeypatch):
    settings = workshop.with_settings(engine_slots=2)
    done = settings.run(seed=25)[0]
    assert len(engine.requests) == N
    assert noise_of(done) is None
    settings = workshop.with_settings(engine_slots=6)
    settings.run(seed=26)
    monkeypatch.setattr(module, "_LOCAL_ENGINES", ("fake",))
    engine.requests.clear()
    done = settings.run(seed=26, force=True)[0]
    assert engine.requests == []
    assert noise_of(done) is None


# Cost and judges


def test_what_a_run_cost_is_recorded_from_the_models_prices_also_for_answers_that_were_kept(workshop, engine):
    free = workshop.registry.models.get("tiny@1")
    prices = {"prices": {"per_million_in": 2.0, "per_million_out": 10.0}}
    workshop.registry.models.register(replace(free, name="priced", version=0, provenance=prices, model_id=""))
    paid, unpaid = (workshop.run(models=[model], limit=4)[0] for model in ("priced@1", "tiny@1"))
    usage = paid.run.usage
    assert usage["tokens_in"] > usage["tokens_out"] / 2 > 0
    assert usage["cost"] == pytest.approx((2.0 * usage["tokens_in"] + 10.0 * usage["tokens_out"]) / 1e6)
    assert paid.to_json()["cost"] == usage["cost"]
    assert "cost" not in unpaid.run.usage
    assert unpaid.to_json()["cost"] is None
    model = replace(
        workshop.registry.models.get("tiny@1"), provenance={"prices": {"per_million_in": 1, "per_million_out": 3}}
    )
    assert cost_of(model, 1_000_000, 500_000) == 2.5
    assert cost_of(replace(model, provenance={}), 1_000_000, 500_000) is None


# Judges and upstreams that are away


def asking(base_url: str) -> str:
    """A suite's tables of a scorer with a judge."""
    judge = f'[judges.j]\nbase_url = "{base_url}"\nmodel = "m"\nretries = 0\n'
    return judge + '[scorers.kind]\ntype = "judge.rubric"\ninstructions = "Is it kind?"\n'


def nowhere() -> str:
    """A base URL where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def test_a_judge_that_is_away_stops_a_run_before_any_answer_unless_its_scores_are_kept(workshop, engine, add_suite):
    url = nowhere()
    add_suite("away", 6, more=asking(url))
    with pytest.raises(EngineUnavailable, match=f"judge j at {url} cannot be reached: .*refused"):
        workshop.run(suite="away")
    assert engine.requests == []
    with ScriptedJudge(lambda _: '{"rationale": "so it is", "score": "pass"}') as judge:
        add_suite("kept", 6, more=asking(judge.base_url))
        workshop.run(suite="kept", limit=5)
    (again,) = workshop.run(suite="kept", limit=5, force=True)
    assert (again.run.metrics["kind"].n_scored, len(judge.requests)) == (5, 5)
    with pytest.raises(EngineUnavailable, match=f"judge j at {judge.base_url} cannot be reached"):
        workshop.run(suite="kept")  # one row more


def test_what_a_judge_failed_to_judge_is_judged_by_the_next_run_and_nothing_else(workshop, engine, add_suite):
    busy, why = True, "busy"

    def answer(request: dict[str, Any]) -> Any:
        hard = any("“1” a number" in message["content"] for message in request["messages"])
        if hard or (busy and "“2” a number" in request["messages"][-1]["content"]):
            return 503, {}, json.dumps({"error": {"message": why}})
        return '{"rationale": "so it is", "score": "pass"}'

    with ScriptedJudge(answer) as judge:
        add_suite("outage", 6, more=asking(judge.base_url))
        (first,) = workshop.run(suite="outage")
        assert (first.run.metrics["kind"].n_scored, first.run.metrics["kind"].n_failed) == (4, 2)
        assert first.run.metrics["correct"].n_scored == 6
        (failure,) = (each for each in workshop.evaluations.failures(first) if "kind" in each.scorers)
        assert (failure.rows, list(failure.scorers)) == (2, ["kind"])
        assert "answered 503: busy" in failure.why

        why = "worn out"
        (same,) = workshop.run(suite="outage")  # nothing is better: the run stands, but it is told why it failed now
        assert (same.run.run_id, len(judge.requests)) == (first.run.run_id, 8)
        (failure,) = (each for each in workshop.evaluations.failures(same) if "kind" in each.scorers)
        assert "answered 503: worn out" in failure.why
        busy = False
        (better,) = workshop.run(suite="outage")
        assert better.run.run_id != first.run.run_id
        assert (better.run.metrics["kind"].n_scored, better.generated, better.from_cache) == (5, 0, 6)
        assert len(judge.requests) == 10
        (again,) = workshop.run(suite="outage")
        assert again.run.run_id == better.run.run_id == workshop.evaluations.resolve("qa@1", "outage").run_id


def test_an_upstream_that_is_away_stops_a_run_at_once_and_is_named(workshop):
    url, plain = nowhere(), workshop.with_settings(engine=None)
    models.register(plain.settings, plain.registry, "remote", f"openai:{url}#m")
    with pytest.raises(EngineUnavailable, match=f"the upstream of remote@1 at {url} cannot be reached: .*refused"):
        plain.run(models=["remote@1"], limit=2)


def test_answers_that_an_upstream_failed_to_give_are_asked_for_by_the_next_run(workshop, monkeypatch):
    models.register(workshop.settings, workshop.registry, "flaky", "openai:http://127.0.0.1:9/v1#m")
    busy = True

    def answer(request: GenerationRequest) -> str:
        if busy and "“1” a number" in request.messages[-1]["content"]:
            raise EngineRejected("not now")
        return "1 a number"

    monkeypatch.setattr(module, "open_engine", lambda *_: FakeEngine(answer))
    (first,) = workshop.run(models=["flaky@1"], limit=3)
    assert first.run.metrics["words"].n_failed == 1
    busy = False
    (second,) = workshop.run(models=["flaky@1"], limit=3)
    assert (second.generated, second.from_cache, second.run.metrics["words"].n_failed) == (1, 2, 0)
