"""What no client should send, to every POST route: always 4xx in OpenAI's shape or a closed connection, never 5xx."""

import contextlib
import copy
import http.client
import io
import json
import socket

import httpx
import pytest

from llmops.engines.fake import FakeEngine
from tests.at_once import wait_until
from tests.service.conftest import ANSWERABLE
from tests.service.tabular_models import row

CHAT, _, RESPONSES = GENERATING = tuple(ANSWERABLE)
GOOD = {
    **ANSWERABLE,
    "/v1/embeddings": {"model": "all-minilm-l6-v2", "input": "hello"},
    "/v1/feedback": {"request_id": "req_1", "score": 1},
    "/v1/predict/bike": {"rows": [row()]},
}
DEEP = 10_000

BODIES = {
    "empty": b"",
    "blank": b" \r\n\t ",
    "cut off": b'{"model": "assis',
    "trailing comma": b'{"model": "assistant",}',
    "two values": b"{} {}",
    "comment": b'{"model": "assistant" /* the champion */}',
    "single quotes": b"{'model': 'assistant'}",
    "list": b"[]",
    "text": b'"assistant"',
    "number": b"1",
    "null": b"null",
    "bare NaN": b"NaN",
    "invalid UTF-8": b'{"model": "\xff\xfe"}',
    "overlong UTF-8": b'{"model": "\xc0\xaf"}',
    "UTF-16": '{"model": "assistant"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "NUL bytes": b"\x00" * 100,
    "NUL in text": b'{"model": "a\x00b"}',
    "NUL after the end": b"{}\x00",
    "only a form": b"model=assistant&input=hello",
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep and cut off": b"[" * DEEP,
    "half a surrogate as a name": b'{"\\ud800": 1}',
    "number of 10,000 digits": b'{"seed": ' + b"9" * 10_000 + b"}",
    "unknown field": b'{"model": "assistant", "input": "x", "wishes": 1}',
}

VALUES = {
    "null": b"null",
    "true": b"true",
    "negative": b"-1",
    "fraction": b"0.5",
    "huge number": b"1e400",
    "beyond 64 bits": b"18446744073709551616",
    "NaN": b"NaN",
    "minus infinity": b"-Infinity",
    "empty text": b'""',
    "text": b'"x"',
    "NUL": b'"\\u0000"',
    "half a surrogate": b'"\\ud800"',
    "empty list": b"[]",
    "list of null": b"[null]",
    "numbers": b"[1, 2, 3]",
    "empty object": b"{}",
    "object": b'{"type": "x", "\\udfff": {"a": null}}',
    "list of surrogates": b'["\\udc00"]',
    "deep": b"[" * 900 + b"]" * 900,
}


@pytest.fixture(scope="module")
def posts(full_gateway):
    """Every POST route there is."""
    paths = full_gateway.http.get("/openapi.json").json()["paths"]
    found = sorted(path for path, item in paths.items() if "post" in item and "{" not in path)
    assert set(found) <= set(GOOD), "add a good body of the new route to GOOD"
    return found


def assert_client_error(reply, *where):
    assert 400 <= reply.status_code < 500, (*where, reply.status_code, reply.text[:300])
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}, where
    assert error["message"], where
    assert reply.headers["x-request-id"], where
    assert "Traceback" not in reply.text, where


def assert_serves(gateway):
    assert gateway.chat().status_code == 200


def send(gateway, path, content, kind=b"application/json"):
    return gateway.http.post(path, content=content, headers={"content-type": kind})


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_means_nothing_is_refused(full_gateway, posts, body):
    for path in posts:
        reply = send(full_gateway, path, body)
        assert_client_error(reply, path)
    assert_serves(full_gateway)


def test_any_value_of_any_field_is_taken_or_refused(full_gateway, posts):
    """Each field of each route's own schema, and each value that could trip something."""
    document = full_gateway.http.get("/openapi.json").json()
    for path in posts:
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        schema = body if "$ref" not in body else document["components"]["schemas"][body["$ref"].rpartition("/")[2]]
        for field in schema["properties"]:
            for name, value in VALUES.items():
                good = {key: item for key, item in GOOD[path].items() if key != field}
                text = json.dumps(good).encode()[:-1] + b', "' + field.encode() + b'": ' + value + b"}"
                reply = send(full_gateway, path, text)
                if reply.status_code != 200:
                    assert_client_error(reply, path, field, name)
    assert_serves(full_gateway)


def _nested(item, value):
    """The list or object with `value` at each place inside it."""
    for key, child in item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ():
        for changed in (value, *_nested(child, value)):
            other = copy.copy(item)
            other[key] = changed
            yield other


HALF_A_PAIR = "\ud83d"


@pytest.mark.parametrize(
    "value", [None, True, -1, 1.5, "", "\x00", HALF_A_PAIR, [], [[]], {}, {"a": 1}, {"type": "image_url"}], ids=ascii
)
def test_a_wrong_value_inside_the_body_is_taken_or_refused_and_half_a_surrogate_pair_is_refused(
    full_gateway, posts, value
):
    for path in posts:
        for body in _nested(GOOD[path], value):
            reply = send(full_gateway, path, json.dumps(body).encode())  # ASCII, with the half as an escape
            if reply.status_code != 200 or value == HALF_A_PAIR:
                assert_client_error(reply, path, body)
    assert_serves(full_gateway)


def test_the_last_of_two_equal_names_counts(full_gateway):
    for path in GENERATING:
        first = b'{"model": "nobody", ' + json.dumps(GOOD[path]).encode()[1:]
        reply = send(full_gateway, path, first)
        assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "\xff"])
def test_json_sent_as_something_else_is_refused(full_gateway, posts, kind):
    for path in posts:
        assert_client_error(send(full_gateway, path, json.dumps(GOOD[path]).encode(), kind.encode("latin-1")), path)


def test_a_body_beyond_the_limit_is_413(full_gateway, posts):
    body, before = b'{"model": "' + b"a" * 1_000_000 + b'"}', full_gateway.log.count()
    for path in posts:
        for content in (body, iter([body[:500_000], body[500_000:]])):  # the second one without its length
            reply = full_gateway.http.post(path, content=content)
            assert_client_error(reply, path)
            assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
    assert full_gateway.log.count() == before
    assert_serves(full_gateway)


def test_large_valid_bodies_are_answered_or_refused(full_gateway):
    many = [{"role": "user", "content": "x"}] * 20_000
    assert_client_error(full_gateway.http.post(CHAT, json={"model": "assistant", "messages": many}))
    assert_client_error(full_gateway.http.post(RESPONSES, json={"model": "assistant", "input": many}))
    assert_client_error(
        full_gateway.http.post("/v1/embeddings", json={"model": "all-minilm-l6-v2", "input": ["x"] * 9999})
    )
    names = {f"field{number}": number for number in range(50_000)}
    for path in GENERATING:
        assert_client_error(full_gateway.http.post(path, json=GOOD[path] | names))


@pytest.mark.parametrize("depth", [100, 200, 300, 600, 980, 1010, 1100])
def test_schemas_nested_at_any_depth_are_taken_or_refused(full_gateway, depth):
    schema = '{"items": [' * (depth // 2) + '{"type": "object"}' + "]}" * (depth // 2)
    named, tool = f'"name": "x", "schema": {schema}', f'"name": "f", "parameters": {schema}'
    fields = [
        (CHAT, f'"response_format": {{"type": "json_schema", "json_schema": {{{named}}}}}'),
        (CHAT, f'"tools": [{{"type": "function", "function": {{{tool}}}}}]'),
        (RESPONSES, f'"text": {{"format": {{"type": "json_schema", {named}}}}}'),
        (RESPONSES, f'"tools": [{{"type": "function", {tool}}}]'),
    ]
    for path, field in fields:
        for stream in ("true", "false"):
            body = json.dumps(GOOD[path])[:-1] + f', "stream": {stream}, {field}}}'
            reply = send(full_gateway, path, body)
            if reply.status_code != 200:
                assert_client_error(reply, path, field[:20])
    assert_serves(full_gateway)


# What follows speaks over a bare socket.


class _KeptOpen(io.BufferedReader):
    """What one reply left unread belongs to the next one, so a reply's end must not close it."""

    def close(self):
        pass


class Wire:
    """One connection to the gateway, for saying what HTTP clients do not."""

    def __init__(self, gateway):
        address = httpx.URL(gateway.url)
        self._socket = socket.create_connection((address.host, address.port), timeout=60)
        self._reader = _KeptOpen(socket.SocketIO(self._socket, "r"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def send(self, data):
        # The gateway may hang up before it has read everything.
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(data)

    def half_close(self):
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def reply(self):
        """Status and body of the next reply; None when the connection is closed without one."""
        response = http.client.HTTPResponse(self)  # of a socket it asks only for the file
        try:
            response.begin()
            return response.status, response.read()
        except (http.client.HTTPException, ConnectionError):
            return None

    def makefile(self, mode):
        return self._reader

    def receive(self, size):
        return self._reader.read1(size)


def post(path, body, *headers, version=b"1.1", length=True):
    lines = [b"POST %s HTTP/%s" % (path.encode(), version), b"host: x", b"content-type: application/json", *headers]
    if length:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


HELLO = json.dumps(GOOD[CHAT]).encode()

WIRES = {
    "no HTTP at all": b"hello\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c403036162") + b"\x00" * 64 + b"\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "unknown version": post(CHAT, HELLO, version=b"9.9"),
    "space in the path": post("/v1/chat completions", HELLO),
    "NUL in the path": post("/v1/\x00", HELLO),
    "path that climbs": post("/v1/../../etc/passwd", HELLO),
    "percent junk in the path": post("/v1/%ff%00%zz", HELLO),
    "long path": post("/v1/" + "a" * 100_000, HELLO),
    "negative length": post(CHAT, HELLO, b"content-length: -1", length=False),
    "length in words": post(CHAT, HELLO, b"content-length: many", length=False),
    "two lengths": post(CHAT, HELLO, b"content-length: 1"),
    "huge length": post(CHAT, HELLO, b"content-length: 99999999999999999999999999", length=False),
    "length and chunks": post(CHAT, HELLO, b"transfer-encoding: chunked"),
    "unknown coding": post(CHAT, HELLO, b"transfer-encoding: fancy", length=False),
    "chunk of bad size": post(CHAT, b"zz\r\nhello\r\n0\r\n\r\n", b"transfer-encoding: chunked", length=False),
    "chunk of negative size": post(CHAT, b"-5\r\nhello\r\n0\r\n\r\n", b"transfer-encoding: chunked", length=False),
    "header without colon": post(CHAT, HELLO, b"oddity"),
    "header with NUL": post(CHAT, HELLO, b"x-odd: a\x00b"),
    "bare line feed": b"POST /v1/chat/completions HTTP/1.1\nhost: x\n\n",
    "folded header": post(CHAT, HELLO, b"x-odd: a\r\n b"),
    "long header": post(CHAT, HELLO, b"x-odd: " + b"a" * 200_000),
    "many headers": post(CHAT, HELLO, *(b"x-odd-%d: 1" % number for number in range(5000))),
    "no host": b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}",
    "compressed body": post(CHAT, b"\x1f\x8b\x08\x00", b"content-encoding: gzip"),
    "upgrade": post(CHAT, HELLO, b"connection: upgrade", b"upgrade: websocket"),
    "strange method": post(CHAT, HELLO).replace(b"POST", b"BREW", 1),
    "cut-off headers": b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-le",
    "body broken off": post(CHAT, HELLO)[:-5],
    "chunks broken off": post(CHAT, b'5\r\n{"mod\r\n', b"transfer-encoding: chunked", length=False),
    "chunk broken off": post(CHAT, b'500\r\n{"mod', b"transfer-encoding: chunked", length=False),
}


@pytest.mark.parametrize("data", WIRES.values(), ids=WIRES)
def test_broken_http_is_refused_or_hung_up_on(full_gateway, data):
    with Wire(full_gateway) as wire:
        wire.send(data)
        wire.half_close()
        while (reply := wire.reply()) is not None:
            status, _ = reply
            assert status < 500, reply
    assert_serves(full_gateway)


@pytest.mark.parametrize(
    "header",
    [
        b"x-request-id: \xff\xfe", b"x-request-id: " + b"a" * 5000, b"x-request-id:", b"authorization: \xff",
        b"authorization: Bearer", b"idempotency-key: \xff\xfe", b"idempotency-key: " + b"a" * 5000,
        b"traceparent: 00-zz-zz-zz", b"traceparent: " + b"0" * 5000, b"accept: nothing/known", b"accept-encoding: \x80",
        b"cookie: " + b"a=b; " * 1000, b"x-forwarded-for: <script>", b"expect: 100-continue", b"content-type: text/css",
    ],
)  # fmt: skip
def test_odd_headers_do_no_harm(full_gateway, posts, header):
    for path in posts:
        with Wire(full_gateway) as wire:
            wire.send(post(path, json.dumps(GOOD[path]).encode(), header))
            reply = wire.reply()
            assert reply is not None
            status, body = reply
            assert status < 500, (path, body)
            assert status == 200 or json.loads(body)["error"]["message"], path


def test_http_1_0_is_answered_and_hung_up_on_and_pipelined_requests_are_answered_in_turn(full_gateway):
    def replies(data, count=1):
        with Wire(full_gateway) as wire:
            wire.send(data)
            found = [wire.reply() for _ in range(count)]
            if count == 1:
                assert wire.receive(1) == b""
        return [reply for reply in found if reply is not None]

    assert replies(post(CHAT, HELLO, version=b"1.0"))[0][0] == 200
    streamed = json.dumps(GOOD[CHAT] | {"stream": True}).encode()
    assert replies(post(CHAT, streamed, version=b"1.0"))[0][1].endswith(b"data: [DONE]\n\n")
    pipelined = post(CHAT, HELLO) + post(CHAT, b"{}") + post(CHAT, HELLO)
    assert [status for status, _ in replies(pipelined, 3)] == [200, 400, 200]


@pytest.fixture
def verbose(serve):
    """A gateway whose answers fill every buffer between it and a client that does not read."""
    with serve(engine=lambda _: FakeEngine(lambda _: " ".join(["word" * 2000] * 2000))) as gateway:
        yield gateway


@pytest.mark.parametrize("path", GENERATING)
def test_a_client_that_stops_reading_delays_nobody_and_one_that_vanishes_leaves_nothing_behind(verbose, path):
    limit = "max_output_tokens" if path == RESPONSES else "max_tokens"
    body = json.dumps(GOOD[path] | {"stream": True, limit: 2000}).encode()
    admission = verbose.app.state.gateway.admission
    with Wire(verbose) as wire:
        wire.send(post(path, body))
        wait_until(lambda: verbose.engines["tiny@1"].in_flight == 1)
        for _ in range(3):
            assert verbose.chat(max_tokens=1).status_code == 200
        assert admission.held == 1
        assert b"200 OK" in wire.receive(100)
    wait_until(lambda: admission.held == 0)
    wait_until(lambda: len(verbose.records()) == 4)
    assert [record.outcome for record in verbose.records()] == ["cancelled"] + ["ok"] * 3
    assert verbose.chat(max_tokens=1).status_code == 200


def test_requests_sent_and_abandoned_at_once_leave_nothing_behind(full_gateway, tmp_path):
    for path in GENERATING:
        for _ in range(20):
            with Wire(full_gateway) as wire:
                wire.send(post(path, json.dumps(GOOD[path]).encode()))
    wait_until(lambda: full_gateway.app.state.gateway.admission.held == 0)
    assert_serves(full_gateway)
