import contextlib
import dataclasses
import json
import sqlite3
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.engines.fake import FakeEngine
from llmops.generation import UNSAID, Chunk, ExtraFields, GenerationParameters, Usage
from llmops.production_log import pseudonym_of
from service.error_map import ApiError
from service.guards import MOST_HELD, MOST_SEARCHED, GuardRules, Guards, guards_for
from tests.service.conftest import release

MAIL, CARD, PHONE = "jo@example.org", "4111 1111 1111 1111", "(212) 555-0143"


def guards(**rules):
    return Guards(GuardRules.of(rules))


def passed(guard, pieces, finish="stop"):
    """The text let through for each piece, and how the answer ended."""
    chunks = [Chunk(piece) for piece in pieces] + [Chunk("", finish, Usage(1, 1))]
    screened = [guard.screen(chunk) for chunk in chunks]
    ended = [chunk.finish_reason for chunk in screened if chunk is not None and chunk.finish_reason is not None]
    return (
        ["" if chunk is None else chunk.text for chunk in screened[:-1]],
        "".join(chunk.text for chunk in screened if chunk is not None),
        ended[0],
    )


def guarded(version=1, **rules):
    return dataclasses.replace(release(version, "champion"), guards=rules)


def test_personal_data_is_kept_out_of_the_log_and_still_answered(serve):
    with serve(guarded(redact_log=True)) as gateway:
        reply = gateway.chat(text=f"mail {MAIL} or {PHONE}", user=MAIL, metadata={"card": CARD})
        assert reply.json()["choices"][0]["message"]["content"] == f"You said: mail {MAIL} or {PHONE}"
        assert MAIL in gateway.engines["tiny@1"].requests[0].messages[-1]["content"]
        for user in ("anna", None):
            gateway.chat(user=user)
        record, *others = gateway.records()
    assert [each.user for each in (record, *others)] == [pseudonym_of(MAIL), "anna", None]
    assert record.input == "mail [EMAIL] or [PHONE]"
    assert record.output == "You said: mail [EMAIL] or [PHONE]"
    assert record.details["messages"] == [{"role": "user", "content": "mail [EMAIL] or [PHONE]"}]
    assert (record.details["user"], record.details["metadata"]) == ("[EMAIL]", {"card": "[CARD]"})
    assert record.details["guards"] == [{"guard": "redact_pii", "where": "log", "count": 8}]
    assert MAIL not in str(record)


def test_personal_data_is_kept_from_the_engine_where_the_release_says_so(strict):
    reply = strict.chat(text=f"mail {MAIL}")
    assert reply.json()["choices"][0]["message"]["content"] == "mail [EMAIL]"
    (record,) = strict.log.read(request_id=reply.headers["x-request-id"])
    assert record.details["guards"][0] == {"guard": "redact_pii", "where": "input", "count": 1}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [{"text": "tell me the SECRET PLAN"}, {"prompt_variables": {"tone": "secret plan"}}])
def test_blocked_input_is_refused_and_never_reaches_the_engine(serve, stream, fields):
    made = dataclasses.replace(release(1, "champion", tone="polite"), guards={"block": ["(?i)secret plan"]})
    with serve(made) as gateway:
        reply = gateway.chat(**{"prompt_variables": {"tone": "kind"}, **fields}, stream=stream, user="anna")
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "content_filter")
        assert gateway.engines["tiny@1"].requests == []
        (record,) = gateway.records()
    assert (record.status, record.outcome, record.route, record.user) == (400, "error", "chat", "anna")
    assert record.details["guards"] == [{"guard": "block", "where": "input", "pattern": 0}]


def test_blocked_output_is_cut_before_the_match_and_nothing_of_it_is_streamed(serve):
    engine = FakeEngine(lambda _: "the code is tango seven now")
    with serve(guarded(block=["tango seven"]), engine=lambda _: engine) as gateway:
        choice = gateway.chat().json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("the code is ", "content_filter")
        assert engine.cancelled == 1
        (record,) = gateway.records()
        *chunks, done = gateway.events()
    assert (record.output, record.outcome) == ("the code is ", "ok")
    assert record.details["guards"] == [{"guard": "block", "where": "output", "index": 0, "pattern": 0}]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "the code is "
    assert (chunks[-1]["choices"][0]["finish_reason"], done) == ("content_filter", "[DONE]")


def test_digits_that_nobody_wrote_are_not_looked_at(serve):
    parent = f"00-{'0bad' * 8}-{'0bad' * 4}-01"
    with serve(guarded(block=["bad"])) as gateway:
        made = gateway.chat(headers={"x-request-id": f"req_{'0bad' * 8}", "traceparent": parent})
        assert made.status_code == 200
        assert gateway.chat(headers={"x-request-id": "a-bad-id"}).status_code == 400
        assert gateway.chat(headers={"traceparent": parent, "tracestate": "a=bad"}).status_code == 400


def test_of_several_answers_only_the_blocked_one_is_cut(serve):
    def script(_):
        return [Chunk("fine", index=0), Chunk("bad word", index=1), Chunk("", "stop", index=1),
                Chunk("", "stop", Usage(1, 2), index=0)]  # fmt: skip

    engine = FakeEngine(script=script)
    with serve(guarded(block=["bad"]), engine=lambda _: engine) as gateway:
        choices = gateway.chat(n=2).json()["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["stop", "content_filter"]
    assert [choice["message"]["content"] for choice in choices] == ["fine", ""]


def test_the_largest_output_is_bounded_and_the_log_says_so(serve):
    with serve(guarded(max_output=3)) as gateway:
        choice = gateway.chat(text="a b c d", max_tokens=50).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("You said: a", "length")
        (record,) = gateway.records()
    assert record.details["guards"] == [{"guard": "max_output", "where": "parameters", "asked": 50}]
    assert record.details["parameters"]["max_tokens"] == 3
    smaller = GenerationParameters(max_tokens=2)
    assert guards(max_output=3).bound(smaller) is smaller


def test_guards_that_cannot_be_applied_refuse_the_release_and_one_without_logs_as_it_came(serve):
    with serve(guarded(block=["("]), release(1, "champion", app="open")) as gateway:
        reply = gateway.chat()
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "guards")
        assert gateway.chat("open", text=MAIL).status_code == 200
        (record,) = gateway.records()
    assert record.input == MAIL
    assert "guards" not in record.details
    with pytest.raises(ValueError, match="unknown guards: speling"):
        GuardRules.of({"speling": True})


def test_rules_are_compiled_once_for_a_release_and_again_when_they_differ():
    first = guarded(block=["a"])
    assert guards_for(first).rules is guards_for(dataclasses.replace(first)).rules
    assert guards_for(guarded(block=["b"])).rules is not guards_for(first).rules
    assert not guards_for(None).active


def test_text_is_held_only_while_it_may_begin_a_match_and_goes_when_the_answer_ends_unsaid():
    assert passed(guards(block=["tango"]), ["say tan"], finish=UNSAID)[1] == "say tan"
    pieces, whole, end = passed(guards(block=["tango seven"]), ["one t", "wo ", "tang", "o six"])
    assert pieces == ["one ", "two ", "", "tango six"]
    assert (whole, end) == ("one two tango six", "stop")


@pytest.mark.parametrize(
    ("pattern", "pieces", "whole", "end"),
    [
        pytest.param(r"\bcat\b", ["a cat", "egory of ", "cat", "s"], "a category of cats", "stop", id="a word goes on"),
        pytest.param(r"\bcat\b", ["a cat", " sat"], "a ", "content_filter", id="a word ends"),
        pytest.param(r"\bcat\b", ["a cat"], "a ", "content_filter", id="the answer ends"),
        pytest.param("(?<=my )secret", ["my ", "secret"], "my ", "content_filter", id="look-behind sees what was sent"),
        pytest.param("x+", ["go ", *["x" * 50] * 20], "go ", "content_filter", id="a match never ends"),
        pytest.param("z*", ["abc"], "abc", "stop", id="a pattern matches nothing"),
    ],
)
def test_an_answer_is_cut_before_a_match_wherever_its_pieces_part(pattern, pieces, whole, end):
    assert passed(guards(block=[pattern]), pieces)[1:] == (whole, end)


def test_of_a_match_too_long_to_hold_the_rest_is_cut():
    open_ended = guards(block=["<a>.*</a>"])
    pieces, whole, end = passed(open_ended, ["<a>", *["y" * 50] * 20, "</a>", " and more"])
    assert end == "content_filter"
    assert whole == "".join(pieces) == ("<a>" + "y" * 1000)[: 1003 - MOST_HELD]
    pieces, whole, end = passed(guards(block=["<a>.*</a>"]), ["<a>", *["y" * 50] * 20])
    assert (whole, end) == ("<a>" + "y" * 1000, "stop")
    assert len("".join(pieces)) == 1003 - MOST_HELD


def test_logprobs_wait_with_their_text():
    guard = guards(block=["tango"])
    entry = {"token": "tan", "logprob": -1.0}
    assert guard.screen(Chunk("tan", logprobs=(entry,))) is None
    assert guard.screen(Chunk("k", logprobs=(entry,))).logprobs == (entry, entry)
    assert guard.screen(Chunk("tango", logprobs=(entry,))) is None
    assert guard.screen(Chunk("!", logprobs=(entry,))).logprobs == ()


def test_arguments_of_a_tool_call_are_searched_as_they_read_call_by_call_and_end_the_answer():
    def call(*arguments):
        return tuple({"index": index, "function": {"arguments": piece}} for index, piece in enumerate(arguments))

    guard = guards(block=["rm -rf"])
    assert guard.screen(Chunk("", tool_calls=call('{"c": "rm '))).tool_calls == call('{"c": "rm ')
    cut = guard.screen(Chunk("", tool_calls=call("-rf /")))
    assert (cut.finish_reason, cut.tool_calls) == ("content_filter", ())

    guard = guards(block=["tango seven"])
    pieces = ['{"a": "', escaped("tango "), escaped("seven"), '"}']
    ends = [chunk.finish_reason for piece in pieces if (chunk := guard.screen(Chunk("", tool_calls=call(piece))))]
    assert ends == [None, None, "content_filter"]
    assert guards(block=["ab"]).screen(Chunk("", tool_calls=call("a", "b"))).finish_reason is None


@pytest.mark.parametrize("field", ["reasoning_content", "refusal", "something_new"])
def test_what_is_said_beside_the_text_passes_and_ends_the_answer_where_a_pattern_finds_something(field):
    guard = guards(block=["rm -rf"])
    first = Chunk("", extra_fields=ExtraFields({field: "run rm "}))
    assert guard.screen(first).extra_fields == first.extra_fields
    cut = guard.screen(Chunk("", extra_fields=ExtraFields({field: "-rf /"})))
    assert (cut.finish_reason, cut.extra_fields) == ("content_filter", None)


def test_content_in_parts_goes_out_as_the_text_that_was_screened():
    guard = guards(block=["tango"])
    parts = [{"type": "text", "text": "say tan"}]
    chunk = guard.screen(Chunk("say tan", extra_fields=ExtraFields({"role": "assistant", "content": parts})))
    assert (chunk.text, dict(chunk.extra_fields.delta)) == ("say ", {"role": "assistant"})
    assert guard.screen(Chunk("go")) is None
    assert guard.screen(Chunk("!")).finish_reason == "content_filter"


@pytest.mark.parametrize(
    ("texts", "seconds"),
    [(["a" * 200 + "b"], 5), ([f"{'a' * 18}{number}b" for number in range(20000)], 20)],
    ids=["one text", "many texts"],
)
def test_a_pattern_that_takes_too_long_blocks_in_bounded_time(texts, seconds):
    guard = guards(block=["(a|aa)+$"])
    start = time.perf_counter()
    with pytest.raises(ApiError) as refused:
        guard.admit({"messages": [{"role": "user", "content": text} for text in texts]})
    assert refused.value.code == "content_filter"
    assert guard.actions[0]["failure"] == "search took too long"
    assert time.perf_counter() - start < seconds


class Interrupted:
    """A pattern whose search ends late, since the processor was busy with something else."""

    def __init__(self, times):
        self.times = times

    def search(self, string, pos=0, *, partial=False, timeout=None):
        self.times -= 1
        if self.times >= 0:
            raise TimeoutError
        return


def test_a_search_that_got_no_processor_is_begun_again_and_refuses_nobody():
    messages = [{"role": "user", "content": "hello"}]
    assert Guards(GuardRules(block=(Interrupted(2),))).admit({"messages": messages})["messages"] == messages
    with pytest.raises(ApiError):
        Guards(GuardRules(block=(Interrupted(100),))).admit({"messages": messages})


def test_a_text_too_long_to_search_is_refused_and_a_pattern_that_matches_nothing_blocks_nothing():
    with pytest.raises(ApiError):
        guards(block=["x"]).admit({"messages": [{"role": "user", "content": "y" * (MOST_SEARCHED + 1)}]})
    assert guards(block=["z*"]).admit({"messages": [{"role": "user", "content": "abc"}]})["messages"]


WORDS = st.text("abc ", max_size=30)


@given(st.lists(WORDS, max_size=8), st.sampled_from(["abc", "a+b", "c a", r"\bab\b", "(?:ab|bc)c", "b.b"]))
def test_a_stream_lets_through_what_the_whole_answer_would(pieces, pattern):
    _, streamed, streamed_end = passed(guards(block=[pattern]), pieces)
    _, whole, whole_end = passed(guards(block=[pattern]), ["".join(pieces)])
    assert (streamed, streamed_end) == (whole, whole_end)


def tool(description="looks up", name="lookup", **schema):
    parameters = {"type": "object", "properties": {}, **schema}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def called(arguments):
    """A conversation in which a tool was called with these arguments."""
    function = {"name": "lookup", "arguments": arguments}
    call = {"id": "c1", "type": "function", "function": function}
    return [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
    ]


def a_format(**wrapper):
    schema = {"type": "object", "properties": {}}
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, **wrapper}}


def escaped(text):
    return "".join(f"\\u{ord(character):04x}" for character in text)


HI = {"role": "user", "content": "hi"}
SENT_ON = {
    "description of a tool": lambda text: {"tools": [tool(text)]},
    "parameters of a tool": lambda text: {"tools": [tool(properties={"x": {"description": text}})]},
    "name of a parameter": lambda text: {"tools": [tool(properties={text: {"type": "string"}})]},
    "arguments of a tool": lambda text: {"messages": called(f'{{"to": "{text}"}}')},
    "name in arguments": lambda text: {"messages": called(f'{{"{text}": 1}}')},
    "escaped arguments": lambda text: {"messages": called(f'{{"to": "{escaped(text)}"}}')},
    "twice escaped arguments": lambda text: {"messages": called(json.dumps({"to": f'{{"x": "{escaped(text)}"}}'}))},
    "escaped arguments that are cut off": lambda text: {"messages": called(f'{{"to": "{escaped(text)}')},
    "arguments nested very deep": lambda text: {"messages": called("[" * 900 + f'"{escaped(text)}"' + "]" * 900)},
    "what a tool said": lambda text: {"messages": [*called("{}")[:2], {**called("{}")[2], "content": text}]},
    "description of a format": lambda text: {"response_format": a_format(description=text)},
    "schema of a format": lambda text: {"response_format": a_format(schema={"type": "object", "title": text})},
    "stop": lambda text: {"stop": ["end", text]},
    "system message": lambda text: {"messages": [{"role": "system", "content": text}, HI]},
    "an earlier answer": lambda text: {"messages": [{"role": "assistant", "content": text}, HI]},
}
KEPT = {
    "metadata": lambda text: {"metadata": {"mail": text}},
    "name in metadata": lambda text: {"metadata": {text: "x"}},
    "user": lambda text: {"user": text},
}


def knows_a_number(request):
    """Says back what it was asked; but asked who to call, it says, and asked for JSON, it makes some."""
    if request.parameters.response_format is not None:
        return "{}"
    asked = request.messages[-1]["content"]
    return f"call {PHONE}" if asked.endswith("who?") else asked


@pytest.fixture(scope="module")
def strict(serve_shared):
    """Blocks `tango`, and keeps personal data from engine and log."""
    made = guarded(block=["tango"], redact_log=True, redact_engine=True)
    with serve_shared(
        made, engine=lambda _: FakeEngine(knows_a_number, supported_extras=frozenset({"tools"}))
    ) as gateway:
        yield gateway


@pytest.mark.parametrize("fields", [*SENT_ON.values(), *KEPT.values()], ids=[*SENT_ON, *KEPT])
def test_a_blocked_text_is_refused_wherever_it_stands(strict, fields):
    reply = strict.chat(**fields("tango"))
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "content_filter")


@pytest.mark.parametrize("fields", [*SENT_ON.values(), *KEPT.values()], ids=[*SENT_ON, *KEPT])
def test_personal_data_reaches_neither_engine_nor_log_wherever_it_stands(strict, fields):
    reply = strict.chat(**fields(MAIL))
    assert reply.status_code == 200, reply.text
    asked = strict.engines["tiny@1"].requests[-1]
    (record,) = strict.log.read(request_id=reply.headers["x-request-id"])
    for seen in (asked, record):
        assert MAIL not in str(seen)
        assert escaped(MAIL) not in str(seen).replace("\\\\", "\\")


def test_a_request_id_and_a_trace_state_with_personal_data_are_not_kept_or_handed_on(strict):
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sent = {"x-request-id": MAIL, "traceparent": parent, "tracestate": f"a={MAIL}"}
    ours = strict.chat(headers=sent, messages=called('{"card": 4111111111111111, "n": 2}')).headers["x-request-id"]
    assert MAIL not in ours
    assert strict.log.read(request_id=ours)
    assert not strict.log.read(request_id=MAIL)
    seen = strict.engines["tiny@1"].requests[-1]
    assert seen.headers == {"traceparent": parent}
    # Arguments stay JSON when a number in them is replaced.
    assert json.loads(seen.messages[-2]["tool_calls"][0]["function"]["arguments"]) == {"card": "[CARD]", "n": 2}
    for name in ("x-request-id", "tracestate"):
        refused = strict.chat(headers={"traceparent": parent, name: "a=tango"}).json()["error"]
        assert (refused["code"], refused["param"]) == ("content_filter", name)


def test_feedback_is_guarded_as_its_answer_was(strict):
    answered = strict.chat().headers["x-request-id"]

    def give(**fields):
        return strict.http.post("/v1/feedback", json={"request_id": answered, **fields})

    assert give(score=1, user=MAIL, comment=f"write to {MAIL}", label=PHONE).status_code == 200
    assert give(comment="tango").json()["error"]["code"] == "content_filter"
    (record,) = strict.log.read(request_id=answered, feedback=True)
    (feedback,) = record.feedback
    assert (feedback.user, feedback.comment, feedback.label) == (pseudonym_of(MAIL), "write to [EMAIL]", "[PHONE]")


def test_a_reply_with_personal_data_is_not_kept_for_its_idempotency_key(strict):
    def replayed(prompt, key):
        body, headers = {"model": "assistant", "prompt": prompt}, {"idempotency-key": key}
        _, again = [strict.http.post("/v1/completions", json=body, headers=headers) for _ in range(2)]
        assert again.status_code == 200
        return "idempotent-replayed" in again.headers

    assert replayed("hi", f"one {MAIL}")
    assert not replayed("who?", "two")
    with contextlib.closing(sqlite3.connect(strict.log.url.removeprefix("sqlite:///"))) as log:
        stored = str(log.execute("SELECT * FROM idempotent_replies").fetchall())
    assert "hi" in stored
    assert MAIL not in stored
    assert PHONE not in stored
