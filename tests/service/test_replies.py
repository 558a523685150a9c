"""How a stream's events are put into packets; what they say is tested through HTTP in test_chat."""

from __future__ import annotations

import pytest

from llmops.engines.protocol import Chunk
from service.error_map import ApiError
from service.replies import EventStream

pytestmark = pytest.mark.anyio


class Letters(EventStream):
    """Every piece as it is."""

    def opening(self):
        return b"<"

    def events(self, chunk):
        return chunk.text.encode()

    def closing(self):
        return b">"


@pytest.fixture
def packets():
    return []


@pytest.fixture
def stream(packets):
    async def send(message):
        if message["type"] == "http.response.body":
            packets.append(message["body"])

    return Letters(None, send)


async def test_pieces_that_are_there_together_go_out_together(stream, packets):
    for text, more in (("a", True), ("b", True), ("c", False), ("d", False)):
        await stream.piece(Chunk(text, more=more))
    await stream.finish()
    assert packets == [b"<abc", b"d", b">"]


async def test_a_last_piece_without_text_lets_go_what_waits(stream, packets):
    await stream.piece(Chunk("a", more=True))
    await stream.piece(Chunk("", "stop"))
    assert packets == [b"<a"]


async def test_what_waits_goes_out_before_an_error(stream, packets):
    await stream.piece(Chunk("a"))
    await stream.piece(Chunk("b", more=True))
    await stream.fail(ApiError(500, "broken"))
    assert packets[0] == b"<a"
    assert packets[1].startswith(b"bevent: error\n")
