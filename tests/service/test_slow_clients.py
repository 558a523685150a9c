import asyncio
import contextlib
import json
import socket
import threading
import time

import pytest
from fastapi import FastAPI

from service.request_context import BodyLimits
from service.slow_clients import MAX_HEADER_BYTES, with_header_timeout
from tests.service.conftest import listening as running

QUICK = 0.3
GET = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n"
HUGE = b"GET /hello HTTP/1.1\r\nx: " + b"y" * MAX_HEADER_BYTES
BAD_CHUNK = b"POST /length HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nno size\r\n"


def echo_app(body_seconds=30.0):
    app = FastAPI()

    @app.get("/hello")
    async def hello():
        return "hello"

    @app.post("/length")
    async def length(body: dict[str, str]):
        return len(body)

    app.add_middleware(BodyLimits, most=10 * MAX_HEADER_BYTES, seconds=body_seconds)
    return app


@pytest.fixture(scope="module")
def quick():
    """A port whose clients have QUICK seconds for headers and for bodies."""
    with running(echo_app(QUICK), http=with_header_timeout(QUICK), timeout_keep_alive=20) as port:
        yield port


@contextlib.contextmanager
def connected(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        yield client


def everything(client):
    """All that comes until the server closes the connection."""
    received = b""
    while piece := client.recv(65536):
        received += piece
    return received


def told(port, *pieces):
    """All that the server says to these pieces, until it closes the connection."""
    with connected(port) as client:
        for piece in pieces:
            client.sendall(piece)
        return everything(client)


def one_reply(client):
    """One reply to GET."""
    client.sendall(GET)
    received = b""
    while not received.endswith(b'"hello"'):
        piece = client.recv(65536)
        assert piece, received
        received += piece
    return received


def last(request):
    """The request, after whose reply the connection is closed."""
    return request.replace(b"host", b"connection: close\r\nhost", 1)


def error_of(reply):
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        pytest.param(GET[:20], 408, "request_timeout", id="headers stop half way"),
        pytest.param(HUGE, 431, "headers_too_large", id="headers just over the bound"),
        pytest.param(b"\x16\x03\x01 no http\r\n\r\n", 400, "invalid_http", id="no HTTP"),
        pytest.param(BAD_CHUNK, 400, "invalid_http", id="a chunk without a size"),
        pytest.param(b"CONNECT other:80 HTTP/1.1\r\nhost: other\r\n\r\n", 400, "invalid_http", id="connect"),
    ],
)
def test_what_is_no_request_is_refused_in_openais_shape(quick, sent, status, code):
    found, error = error_of(told(quick, sent))
    assert (found, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}


def test_headers_that_trickle_do_not_move_the_deadline(quick):
    begun = time.monotonic()
    with connected(quick) as client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.settimeout(0.02)
        received = b""
        for number in range(500):
            client.sendall(b"GET /hello HTTP/1.1\r\n" if number == 0 else b"x: y\r\n")
            with contextlib.suppress(TimeoutError):
                received = client.recv(65536)
                break
    assert received.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - begun < 5


def test_the_deadline_holds_for_the_next_request_of_a_connection_and_not_for_an_idle_one(quick):
    with connected(quick) as client:
        one_reply(client)
        time.sleep(QUICK * 2)
        assert one_reply(client)
        client.sendall(GET[:20])
        assert error_of(everything(client))[0] == 408


@pytest.mark.parametrize("stray", [b"\r\n", b"\r\n\r\n"])
def test_a_connection_that_asks_nothing_is_closed_also_after_an_empty_line(quick, stray):
    assert told(quick) == b""
    with connected(quick) as client:
        one_reply(client)
        client.sendall(stray)
        everything(client)


def post(length):
    return (
        b"POST /length HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % length
    )


def test_a_body_in_time_is_read_whole_and_not_bounded_as_headers_are_and_one_that_stops_half_way_is_408(quick):
    half = told(quick, b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nab")
    assert half.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in half
    assert b"the body did not arrive" in half
    assert told(quick, post(13), b'{"a"', b': "b"}   ').endswith(b"\r\n\r\n1")
    body = b'{"a": "%s"}' % (b"x" * 3 * MAX_HEADER_BYTES)
    assert told(quick, post(len(body)) + body).endswith(b"\r\n\r\n1")
    large = last(GET).replace(b"host", b"z: %s\r\nhost" % (b"z" * (MAX_HEADER_BYTES - 200)))
    assert told(quick, large).endswith(b'"hello"')


def send_without_end(client, piece, cut_off):
    try:
        for _ in range(5000):
            client.sendall(piece)
    except (BrokenPipeError, ConnectionResetError):
        cut_off.set()


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(b"GET /", id="path"),
        pytest.param(b"GET / HTTP/1.1\r\nx: ", id="header"),
        pytest.param(b"POST /length HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ", id="trailer"),
    ],
)
def test_headers_without_end_are_cut_off(begin):
    cut_off = threading.Event()
    with running(echo_app(), http=with_header_timeout(60.0)) as port, connected(port) as client:
        client.sendall(begin)
        sender = threading.Thread(target=send_without_end, args=(client, b"y" * 4096, cut_off))
        sender.start()
        assert cut_off.wait(10)
        sender.join()


UPGRADE = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"


@pytest.mark.parametrize("cut", [0, 1], ids=["at once", "in two pieces"])
def test_an_offer_of_http2_is_not_taken_and_its_body_is_never_another_request(quick, cut):
    body = b'{"a": "GET /hello HTTP/1.1\\r\\n"}' if cut == 0 else GET
    head = post(len(body)).replace(b"connection: close\r\n", UPGRADE)
    with connected(quick) as client:
        for piece in (head, body) if cut else (head + body,):
            client.sendall(piece)
            time.sleep(0.05)
        client.sendall(last(GET))
        replies = everything(client)
    assert replies.count(b"HTTP/1.1 ") == 2
    assert replies.startswith(b"HTTP/1.1 200" if cut == 0 else b"HTTP/1.1 422")
    assert replies.endswith(b'"hello"')


@pytest.mark.parametrize("path", [b"GET /hello HTTP/1.1", b"GET /hello HTTP/1.0", b"POST /length HTTP/1.1"])
@pytest.mark.parametrize(
    "connection",
    [
        b"connection: close, upgrade\r\n",
        b"connection: Upgrade, close, te\r\n",
        b"connection: upgrade\r\nconnection: close\r\n",
        b"connection: keep-alive, upgrade\r\n",
        b"connection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    ],
)
def test_whatever_connection_names_the_request_is_answered(quick, path, connection):
    with connected(quick) as client:
        client.sendall(path + b"\r\nhost: x\r\nupgrade: h2c\r\ncontent-length: 0\r\n" + connection + b"\r\n")
        status = int(client.recv(65536).split()[1])
    assert status == (422 if path.startswith(b"POST") else 200)


def test_a_stream_to_http_1_0_has_no_chunks_and_ends_with_the_connection():
    async def stream(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one ", b"", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    with running(stream, http=with_header_timeout(60.0), lifespan="off") as port:
        asked = b"GET / HTTP/%b\r\nhost: x\r\nconnection: close\r\n\r\n"
        replies = {version: told(port, asked % version) for version in (b"1.0", b"1.1")}
    head, _, body = replies[b"1.0"].partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert body == b"one two"
    assert b"transfer-encoding: chunked" in replies[b"1.1"]


def test_who_stops_reading_a_reply_is_cut_off(monkeypatch):
    left = threading.Event()

    async def endless(scope, receive, send):
        await receive()
        gone = asyncio.ensure_future(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)
        left.set()

    monkeypatch.setattr("service.slow_clients.STALLED_SECONDS", QUICK)
    with running(endless, http=with_header_timeout(60.0), lifespan="off") as port, connected(port) as client:
        client.sendall(GET)
        client.recv(1)
        assert left.wait(10)
