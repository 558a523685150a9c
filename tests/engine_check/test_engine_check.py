"""`llmops engine check`: what is said of servers that are whole, that do less than they are asked, and that fail."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmops.engine_check import check
from llmops.engine_check.capabilities import PROBES
from llmops.engine_check.concurrency import CANCELLED, cancellation, load, retry_after
from llmops.engine_check.keywords import KEYWORDS, keyword_enforced
from llmops.engine_check.session import Observation, Session
from llmops.errors import EngineRejected
from llmops.json_schema import ENFORCEABLE
from tests.engine_check.scripted_model import CONFORMING, ScriptedModel
from tests.engines.conftest import tiny_gguf
from tests.engines.upstream_server import answer, drop, raw, reply, serving, silence, whole

__all__ = ["tiny_gguf"]  # a fixture
REAL = sorted(Path(os.environ.get("LLMOPS_HOME", ".llmops"), "models").glob("*/SmolLM2-135M-Instruct.Q4_1.gguf"))


def observed(model: ScriptedModel | str, probe: Callable[[Session], Awaitable[Any]]) -> Any:
    """What one probe sees of a scripted model, or of a server at a URL."""

    async def seen(url: str) -> Any:
        session = Session(url, "scripted", None, 120)
        try:
            return await probe(session)
        finally:
            await session.close()

    if isinstance(model, str):
        return asyncio.run(seen(model))
    with serving(model.behave) as server:
        return asyncio.run(seen(server.url))


def of_keyword(model: ScriptedModel | str, name: str) -> Observation:
    keyword = next(each for each in KEYWORDS if each.name == name)
    return observed(model, lambda session: keyword_enforced(session, keyword))


def verdicts(seen: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: each["verdict"] for name, each in seen.items()}


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    """The report on a server that does all that it is asked."""
    with serving(ScriptedModel().behave) as server:
        return asyncio.run(check(server.url, "scripted", concurrency=(1, 4)))


def test_a_server_that_obeys_is_seen_to_obey(good):
    seen = verdicts(good["capabilities"])
    for name in CANCELLED:  # its answers come too fast to see them end
        del seen[name]
    assert seen.pop("Retry-After") == "unknown"
    assert set(seen.values()) == {"yes"}, seen
    assert verdicts(good["schema_keywords"]) == {**dict.fromkeys(CONFORMING, "yes"), "json_object": "yes"}
    assert good["ok"]
    assert good["fields"]["message"] == ["reasoning_content"]


def test_speed_is_measured_at_each_concurrency(good):
    one, four = good["speed"]
    assert [(each["concurrency"], each["requests"], each["failed"]) for each in (one, four)] == [(1, 4, 0), (4, 8, 0)]
    assert one["first_token_s"]["min"] <= one["first_token_s"]["median"] <= one["first_token_s"]["max"]
    assert four["tokens_per_second"] > 0


def test_every_keyword_that_an_engine_here_enforces_is_probed():
    unasked = {"$defs", "definitions", "additionalItems"}
    assert {each.keyword for each in KEYWORDS} >= ENFORCEABLE - unasked
    assert set(CONFORMING) == {each.name for each in KEYWORDS}


def test_a_keyword_is_enforced_or_ignored():
    model = ScriptedModel(enforces=frozenset({"maximum (integer)"}))
    assert of_keyword(model, "maximum (integer)") == Observation("yes", "2 of 2 contrary prompts")
    assert of_keyword(model, "maximum (number)") == Observation("ignored", 'answered {"value": 500.5}')


def test_an_answer_that_conforms_without_the_keyword_too_proves_nothing():
    model = ScriptedModel(always='{"value": 12}')
    seen = of_keyword(model, "minimum (integer)")
    assert seen.verdict == "unknown"
    assert "no answer without the keyword breaks it" in seen.detail
    assert of_keyword(model, "enum").verdict == "ignored"


@pytest.mark.parametrize(
    ("field", "capability"),
    [
        ("stop", "stop"),
        ("seed", "seed"),
        ("n", "n"),
        ("logprobs", "logprobs"),
        ("max_tokens", "max_tokens"),
        ("tools", "tool_choice: required"),
        ("tool_choice", "tool_choice: none"),
        ("tool_choice", "tool_choice: a function"),
        ("parallel", "parallel_tool_calls: false"),
    ],
)
def test_a_field_that_is_taken_and_not_obeyed_is_reported(field, capability):
    model = ScriptedModel(obeys=ScriptedModel().obeys - {field})
    assert observed(model, PROBES[capability]).verdict == "ignored"


def test_what_a_server_refuses_is_reported_with_its_message_and_without_the_key(monkeypatch):
    monkeypatch.setenv("THE_KEY", "sk-secret")
    model = ScriptedModel(refuses=("logprobs", "uniqueItems", "stream"))
    with serving(model.behave) as server:
        report = asyncio.run(check(server.url, "any", key_variable="THE_KEY", concurrency=()))
    assert not report["ok"]
    assert report["capabilities"]["streaming"]["verdict"] == "refused"
    assert "stream is not supported (Bearer [key])" in report["reason"]
    assert "sk-secret" not in str(report)
    with pytest.raises(EngineRejected, match="logprobs is not supported"):
        observed(ScriptedModel(refuses=("logprobs",)), PROBES["logprobs"])


def test_a_prompt_beyond_the_context_is_refused_with_status_and_code_or_cut():
    assert '400 {"code": "context_length_exceeded"' in observed(ScriptedModel(), PROBES["context error"]).detail
    cut = observed(ScriptedModel(cuts=True), PROBES["context error"])
    assert cut == Observation("ignored", "16000 words were cut to 1000 tokens, and answered")


def test_refusals_under_load_are_counted_with_their_retry_after():
    seen = observed(ScriptedModel(limit=2, piece_s=0.01), lambda session: load(session, 4, 60))
    assert seen.to_mapping()["failed"] > 0
    assert retry_after([seen]).verdict == "yes"
    assert "each with 7 to 7 s" in retry_after([seen]).detail


@pytest.mark.parametrize(("deaf", "verdict"), [(False, "yes"), (True, "ignored")])
@pytest.mark.slow
def test_a_generation_that_goes_on_without_its_client_is_told_from_one_that_stops(deaf, verdict):
    model = ScriptedModel(slots=1, deaf=deaf, piece_s=0.02)
    seen = observed(model, lambda session: cancellation(session, 0.3))
    assert [each.verdict for each in seen.values()] == [verdict, verdict], seen


@pytest.mark.parametrize(
    ("behave", "why"),
    [
        (drop, "no answers"),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n<html>no</html>"), "not JSON"),
        (reply(200, {"choices": []}), "no answer"),
        (reply(200, whole("")), "the answer is empty"),
        (reply(500, {"error": {"message": "out of memory"}}), "out of memory"),
        (reply(404, {"error": {"message": "no such model"}}), "no such model"),
    ],
)
def test_a_server_that_gives_no_answers_is_no_upstream(llmops, behave, why):
    async def with_models(seen, send) -> bool:
        models = reply(200, {"data": [{"id": "only"}]})
        return await (models if seen.line.startswith("GET") else behave)(seen, send)

    with serving(with_models) as server:
        done = llmops("engine", "check", server.url)
    assert done.code == 1
    assert why in done.out
    assert "cannot be an upstream" in done.out


def test_a_server_that_never_answers_costs_no_more_than_the_time_given():
    async def quiet_after_models(seen, send) -> bool:
        return await (answer if seen.line.startswith("GET") else silence)(seen, send)

    with serving(quiet_after_models) as server:
        start = time.monotonic()
        report = asyncio.run(check(server.url, "any", seconds=1))
    assert not report["ok"]
    assert time.monotonic() - start < 30


def test_the_command_prints_the_settings_to_write(llmops):
    with serving(ScriptedModel().behave) as server:
        done = llmops("engine", "check", server.url.removesuffix("/v1"), "--concurrency", "2")
    assert done.code == 0, done.out + done.err
    assert f"llmops models register scripted --source 'openai:{server.url}#scripted'" in done.out
    assert "export LLMOPS_ENGINE_SLOTS=2" in done.out
    assert "accepted, not enforced" not in done.out


def test_a_model_is_asked_for_by_name_where_a_server_has_several(llmops):
    with serving(reply(200, {"data": [{"id": "a"}, {"id": "b"}]})) as server:
        llmops("engine", "check", server.url).refused(2, "serves 2 models: a, b; name one with --model")
    llmops("engine", "check", "http://user:secret@127.0.0.1:1/v1").refused(2, "a source holds no user and password")
    llmops("engine", "check", "http://127.0.0.1:1/v1", "--model", "a").refused(3, "cannot be reached")


@pytest.fixture(scope="module")
def llama_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """llama.cpp's own server on a model, two requests at a time; its base URL."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(request.param or request.getfixturevalue("tiny_gguf"))
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.n_parallel, parameters.n_ctx, parameters.verbosity, parameters.port = 2, 4096, 0, 0
    server = xllamacpp.Server(parameters)
    yield f"{server.listening_address}/v1"
    del server


@pytest.mark.parametrize("llama_server", [None], indirect=True)
def test_llama_cpps_server_is_checked_as_it_is(llama_server):
    for name in ("usage", "max_tokens", "n", "logprobs", "seed"):
        assert observed(llama_server, PROBES[name]).verdict == "yes", name
    seen = observed(llama_server, PROBES["context error"])
    assert (seen.verdict, "exceed_context_size_error" in seen.detail) == ("yes", True)
    left = observed(llama_server, lambda session: cancellation(session, 0.3))
    assert "ignored" not in {each.verdict for each in left.values()}, left


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="needs `llmops models pull`")
@pytest.mark.parametrize("llama_server", REAL[:1], indirect=True)
def test_llama_cpps_server_drops_the_maximum_of_a_number_and_keeps_that_of_an_integer(llama_server):
    assert of_keyword(llama_server, "maximum (integer)").verdict == "yes"
    assert of_keyword(llama_server, "maximum (number)").verdict == "ignored"
