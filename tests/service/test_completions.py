import pytest

from llmops.engines.fake import FakeEngine
from llmops.errors import ContextTooLong, EngineError
from llmops.generation import EXTRAS, Chunk, Usage
from tests.service.conftest import assert_refused, events_of, release


def complete(gateway, prompt="hello world", model="assistant", **fields):
    return gateway.http.post("/v1/completions", json={"model": model, "prompt": prompt, **fields})


def test_the_prompt_fills_the_releases_template_and_is_one_message_of_the_user_of_a_bare_model(shared_gateway):
    reply = complete(shared_gateway)
    choice = {"index": 0, "text": "You said: hello world", "logprobs": None, "finish_reason": "stop"}
    assert reply.json()["choices"] == [choice]
    assert reply.headers["x-llmops-release"] == "assistant@1"
    requests = shared_gateway.engines["tiny@1"].requests
    assert [m["role"] for m in requests[-1].messages] == ["system", "user"]
    assert complete(shared_gateway, ["once upon"], "tiny@1").json()["choices"][0]["text"] == "You said: once upon"
    assert requests[-1].messages == ({"role": "user", "content": "once upon"},)


def test_prompt_variables_fill_the_template(serve):
    with serve(release(1, "champion", tone="polite")) as gateway:
        text = complete(gateway, "hi", prompt_variables={"tone": "polite"}).json()["choices"][0]["text"]
        assert text == "You said: polite: hi"
        assert complete(gateway, "hi").json()["error"]["param"] == "prompt_variables.tone"


def test_parameters_reach_the_engine_and_the_record_others_are_the_releases(shared_gateway):
    complete(shared_gateway, max_tokens=2, temperature=0.5, top_p=0.25, stop=["X"], seed=3, user="u1")
    requests = shared_gateway.engines["tiny@1"].requests
    parameters = requests[-1].parameters
    assert (parameters.max_tokens, parameters.temperature, parameters.top_p) == (2, 0.5, 0.25)
    assert (parameters.stop, parameters.seed) == (("X",), 3)
    complete(shared_gateway, user="u1", metadata={"k": "v"})
    assert requests[-1].parameters.max_tokens == 64
    record = shared_gateway.records()[-1]
    assert (record.input, record.output) == ("hello world", "You said: hello world")
    assert (record.release, record.prompt, record.model) == ("assistant@1", "qa@1", "tiny@1")
    assert (record.details["route"], record.details["user"]) == ("completions", "u1")


@pytest.mark.parametrize("stream", [False, True])
def test_n_texts_come_by_index(shared_gateway, stream):
    reply = complete(shared_gateway, n=3, stream=stream)
    *objects, end = events_of(reply) if stream else [reply.json(), "[DONE]"]
    texts = {}
    for choice in (choice for item in objects for choice in item["choices"]):
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert texts == dict.fromkeys(range(3), "You said: hello world")
    assert end == "[DONE]"
    assert objects[-1]["choices"][-1]["finish_reason"] == "stop"


def entry(token, logprob):
    return {"token": token, "logprob": logprob, "bytes": None, "top_logprobs": [{"token": token, "logprob": logprob}]}


def speaking_of_odds(_):
    script = [
        Chunk("So", logprobs=[entry("S", -0.1), entry("o", -0.2)]),
        Chunk(" be it", logprobs=[entry(" be", -0.3), entry(" it", -0.4)]),
        Chunk("", "stop", Usage(1, 4)),
    ]
    return FakeEngine(script=lambda _: script, supported_extras=EXTRAS)


def test_logprobs_have_the_older_shape(serve):
    with serve(engine=speaking_of_odds) as gateway:
        whole = complete(gateway, logprobs=1).json()["choices"][0]["logprobs"]
        assert whole["tokens"] == ["S", "o", " be", " it"]
        assert whole["token_logprobs"] == [-0.1, -0.2, -0.3, -0.4]
        assert whole["text_offset"] == [0, 1, 2, 5]
        assert whole["top_logprobs"][0] == {"S": -0.1}
        first, second, *_ = events_of(complete(gateway, logprobs=1, stream=True))
        assert first["choices"][0]["logprobs"]["text_offset"] == [0, 1]
        assert second["choices"][0]["logprobs"]["text_offset"] == [2, 5]
        assert gateway.engines["tiny@1"].requests[-1].extras == {"logprobs": True, "top_logprobs": 1}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": ["a", "b"]}, "prompt", "a list of one text"),
        ({"prompt": [1, 2, 3]}, "prompt", "token numbers are not supported"),
        ({"prompt": None}, "prompt", "a text"),
        ({"echo": True}, "echo", "not supported"),
        ({"suffix": "the end"}, "suffix", "not supported"),
        ({"best_of": 2}, "best_of", "not supported"),
        ({"stop": [""]}, "stop", "none empty"),
        ({"logprobs": True}, "logprobs", "integer"),
        ({"logprobs": 2}, "logprobs", "cannot honour"),
        ({"presence_penalty": 1}, "presence_penalty", "cannot honour"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"messages": []}, "messages", "unknown field"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(shared_gateway, fields, param, words):
    assert_refused(complete(shared_gateway, **fields), param, words)


def test_fields_that_change_nothing_are_taken(shared_gateway):
    reply = complete(
        shared_gateway, echo=False, suffix=None, best_of=1, n=1, logprobs=None, presence_penalty=0, user="u"
    )
    assert reply.status_code == 200
    assert shared_gateway.engines["tiny@1"].requests[-1].extras == {}


def test_an_error_names_the_prompt_and_in_mid_stream_ends_it_with_an_event(serve):
    def breaking(request):
        if request.parameters.max_tokens == 1:
            raise ContextTooLong("too long")
        yield Chunk("one")
        raise EngineError("secret")

    with serve(engine=lambda _: FakeEngine(script=breaking)) as gateway:
        error = complete(gateway, max_tokens=1).json()["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
        reply = complete(gateway, stream=True)
        assert reply.status_code == 200
        assert events_of(reply)[-1]["error"]["code"] == "engine_error"
        assert "secret" not in reply.text
