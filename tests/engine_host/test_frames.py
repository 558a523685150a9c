from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.engine_host import frames
from llmops.engine_host.frames import BadFrame, FrameSplitter, answer, operation, pack
from llmops.engines.protocol import EngineIdentity
from llmops.errors import EngineBusy, EngineError, EngineRejected, EngineUnavailable
from llmops.generation import Chunk, ExtraFields, GenerationParameters, GenerationRequest, Usage
from llmops.versions import ModelVersion

# What JSON can carry: no lone surrogates, no integers beyond 64 bits, no infinities.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(-(2**63), 2**63 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | WHOLE | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=3)
MODELS = st.builds(
    ModelVersion, TEXT, WHOLE, TEXT, TEXT, TEXT, st.none() | st.just(Path("a/b.gguf")), TEXT, WHOLE, OBJECTS,
    st.lists(TEXT, max_size=2).map(tuple), TEXT,
)  # fmt: skip
PARAMETERS = st.builds(
    GenerationParameters, WHOLE, NUMBERS, NUMBERS, st.lists(TEXT, max_size=3).map(tuple), st.none() | WHOLE,
    st.none() | OBJECTS,
)  # fmt: skip
MESSAGES = st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT}), max_size=3).map(tuple)
REQUESTS = st.builds(
    GenerationRequest, MESSAGES, PARAMETERS, OBJECTS, st.booleans(), st.dictionaries(TEXT, TEXT, max_size=2)
)
OPERATIONS = (
    st.builds(frames.LoadModel, MODELS)
    | st.builds(frames.StreamAnswer, MODELS, REQUESTS)
    | st.builds(frames.Embed, st.lists(TEXT, max_size=3).map(tuple))
    | st.just(frames.Ping())
)
CHUNKS = st.builds(
    Chunk, TEXT, st.none() | TEXT, st.none() | st.builds(Usage, WHOLE, WHOLE), st.integers(0, 9),
    st.lists(OBJECTS, max_size=2), st.lists(OBJECTS, max_size=2), st.none() | NUMBERS,
)  # fmt: skip
ANSWERS = (
    CHUNKS
    | st.builds(frames.Loaded, st.builds(EngineIdentity, TEXT, TEXT, OBJECTS), WHOLE, st.frozensets(TEXT, max_size=3))
    | st.builds(frames.Vectors, st.lists(st.lists(NUMBERS, max_size=3), max_size=3), st.integers(0, 2**31))
    | st.builds(frames.Pong, st.dictionaries(TEXT, OBJECTS, max_size=2), WHOLE)
    | st.just(frames.End())
)


def kinds(root: type[EngineError]) -> list[type[EngineError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in kinds(child))]


def sent(said: Any):
    (frame,) = FrameSplitter(answer).feed(pack(said))
    return frame


def plain(chunk):
    """A chunk whose sequences are lists, as they come off the wire."""
    if not isinstance(chunk, Chunk):
        return chunk
    return (chunk.text, chunk.finish_reason, chunk.usage, chunk.index, [*chunk.tool_calls], [*chunk.logprobs],
            chunk.queued_s)  # fmt: skip


@given(OPERATIONS)
def test_every_operation_comes_back_as_it_was(asked):
    assert list(FrameSplitter(operation).feed(pack(asked))) == [asked]


@given(ANSWERS)
def test_every_answer_comes_back_as_it_was(said):
    assert plain(sent(said)) == plain(said)


ERRORS = [
    *(kind("what went wrong: 50 % ☂") for kind in kinds(EngineError)),
    EngineUnavailable("down", retry_after=2.5, lasting=True),
    EngineBusy("full", retry_after=1),
    EngineRejected("no", param="n"),
    EngineError("no", reason="the upstream sent no answer"),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_every_error_comes_back_as_the_kind_it_was_with_its_details(error):
    back = sent(error)
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


def test_unknown_counts_what_a_server_says_beside_its_text_and_arrays_come_through():
    usage = Usage(9, None, {"prompt_tokens": 9, "cost": 0.5})
    said = ExtraFields({"refusal": "no"}, {"stop_reason": 1}, {"provider": "x"})
    chunk = sent(Chunk("", "stop", usage, extra_fields=said))
    assert (chunk.usage, chunk.usage.reported, chunk.extra_fields) == (usage, usage.reported, said)
    rows = np.array([[0.5, -1.0], [0.25, 2.0]], np.float32)
    assert sent(frames.Vectors(rows, 7)) == frames.Vectors([[0.5, -1.0], [0.25, 2.0]], 7)


@settings(max_examples=30)
@given(st.lists(ANSWERS, min_size=1, max_size=4), st.data())
def test_frames_are_cut_out_of_any_pieces(said, data):
    stream = b"".join(map(pack, said))
    splitter, found = FrameSplitter(answer), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += splitter.feed(stream[:size])
        stream = stream[size:]
    assert list(map(plain, found)) == list(map(plain, said))


@pytest.mark.parametrize("data", [b"x" * 11, b"x" * 11 + b"\n", b"{}\n" + b"x" * 11, b"nonsense\n", b"[1]\n", b"\n"])
def test_what_is_too_large_or_no_json_object_is_a_bad_frame_and_what_json_cannot_hold_is_not_sent(data):
    with pytest.raises(BadFrame):
        list(FrameSplitter(answer, 10).feed(data))
    for value in ("\ud800", 2**70):
        with pytest.raises(BadFrame):
            pack(frames.Embed((value,)))


@given(st.sampled_from(["LoadModel", "StreamAnswer", "Embed"]), OBJECTS)
def test_an_object_that_means_nothing_and_an_operation_without_its_parts_are_bad_frames(name, rest):
    for read, frame in ((operation, rest), (answer, rest), (operation, {name: rest})):
        with pytest.raises(BadFrame):
            read(frame)
