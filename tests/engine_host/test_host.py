import asyncio

import pytest

from llmops.engine_host.client import embed, ping
from llmops.engine_host.frames import FrameSplitter, answer
from llmops.engines.fake import FakeEngine
from llmops.engines.protocol import generate
from llmops.errors import Corrupted, EngineBusy, EngineError, EngineRejected, EngineUnavailable
from tests.engine_host.conftest import ask

pytestmark = pytest.mark.anyio


def words(request) -> str:
    """A hundred, or few to a short question."""
    return " ".join(f"w{number}" for number in range(8 if request.messages[-1]["content"] == "short" else 100))


async def first_chunk(engine, request):
    """A stream of which one chunk has come; the caller closes it."""
    chunks = engine.stream(request)
    return chunks, await anext(chunks)


async def test_a_remote_engine_answers_as_the_engine_itself_would(hosting):
    async with hosting(supported_extras=frozenset({"n", "logprobs"})) as running:
        engine = await running.open()
        local = running.engines["tiny@1"]
        for name in ("identity", "slots", "supported_extras"):
            assert getattr(engine, name) == getattr(local, name)
        request = ask("héllo wörld", extras={"n": 2})
        told = [(c.text, c.index, c.finish_reason, c.usage) async for c in engine.stream(request)]
        assert local.requests == [request]
        assert told == [(c.text, c.index, c.finish_reason, c.usage) async for c in local.stream(request)]


async def test_the_first_chunk_says_how_long_the_request_waited(hosting):
    async with hosting(slots=1, answer=words, word_seconds=0.005) as running:
        engine = await running.open()
        chunks, _ = await first_chunk(engine, ask())
        waiting = asyncio.create_task(first_chunk(engine, ask()))
        await asyncio.sleep(0.1)
        await chunks.aclose()
        chunks, first = await waiting
        assert 0.08 < first.queued_s < 10
        assert {chunk.queued_s async for chunk in chunks} == {None}
        chunks, first = await first_chunk(engine, ask())
        assert first.queued_s < 0.08
        await chunks.aclose()


async def test_an_answer_that_may_come_whole_says_the_same_and_its_first_piece_is_early(hosting):
    async with hosting(answer=words, word_seconds=0.001) as running:
        whole = await generate(await running.open(), ask(whole=True))
        assert whole.text == words(ask())
        assert whole.first_token_s < whole.latency_s / 2


@pytest.mark.parametrize("error", [EngineRejected("no", param="messages"), ZeroDivisionError("inside")])
async def test_an_engines_errors_arrive_as_they_are_and_unforeseen_ones_by_their_name(hosting, caplog, error):
    async with hosting(failure=error) as running:
        with pytest.raises(EngineError) as caught:
            await generate(await running.open(), ask())
        assert running.host.report()["tiny@1"]["failed"] == 1
    if isinstance(error, EngineError):
        assert (type(caught.value), vars(caught.value)) == (type(error), vars(error))
    else:
        assert str(caught.value).endswith("unexpected ZeroDivisionError")
        assert "Traceback" in caplog.text


async def test_many_workers_share_one_load_and_one_engine(hosting):
    async with hosting() as running:
        engines = await asyncio.gather(*(running.open() for _ in range(8)))
        assert (await generate(engines[3], ask())).text == "You said: hello"
        report = (await ping(running.socket_path)).models["tiny@1"]
        assert (report["loaded"], report["loads"], report["slots"], report["finished"]) == (True, 1, 4, 1)


async def test_a_model_stays_loaded_while_anybody_holds_it(hosting, eventually):
    async with hosting() as running:
        await running.open(1)
        others = [await running.open(version) for version in (2, 3, 4)]
        for engine in others:
            await engine.close()
        await eventually(lambda: sum(engine.closed for engine in running.engines.values()) == 2)
        assert not running.engines["tiny@1"].closed


async def test_a_model_that_cannot_be_loaded_is_unavailable_and_may_come_later(hosting):
    problem: list[Exception] = [Corrupted("tiny.gguf is corrupted")]

    def engine(model):
        if problem:
            raise problem.pop()
        return FakeEngine()

    async with hosting(engine) as running:
        with pytest.raises(EngineUnavailable, match=r"tiny@1: tiny\.gguf is corrupted"):
            await running.open()
        report = running.host.report()["tiny@1"]
        assert (report["loaded"], report["failures"], report["failure"]) == (False, 1, "tiny.gguf is corrupted")
        loaded = await running.open()
        assert (await generate(loaded, ask())).text == "You said: hello"
        assert running.host.report()["tiny@1"]["failure"] is None


async def test_beyond_slots_and_queue_a_request_is_turned_away_at_once(hosting, eventually):
    async with hosting(slots=2, engine_queue=3, answer=words, word_seconds=0.2) as running:
        engine = await running.open()
        tasks = [asyncio.create_task(generate(engine, ask(str(number)))) for number in range(5)]
        await eventually(lambda: running.host.report()["tiny@1"]["waiting"] == 3)
        with pytest.raises(EngineBusy, match="2 requests run and 3 wait") as caught:
            await generate(engine, ask("too many"))
        assert not any(task.done() for task in tasks)
        assert caught.value.retry_after
        local = running.engines["tiny@1"]
        assert (local.in_flight, local.most_in_flight, len(local.requests)) == (2, 2, 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await eventually(lambda: running.host.report()["tiny@1"]["cancelled"] == 5)
        assert (local.in_flight, local.cancelled, len(local.requests)) == (0, 2, 2)  # those that waited never ran
        report = running.host.report()["tiny@1"]
        assert (report["running"], report["waiting"]) == (0, 0)


@pytest.mark.parametrize("whole", [False, True])
async def test_a_decoding_request_that_is_left_stops_at_the_engine_before_its_end(hosting, eventually, whole):
    async with hosting(answer=words, word_seconds=0.2) as running:
        engine = await running.open()
        chunks, chunk = await first_chunk(engine, ask(whole=whole))
        assert chunk.text == "w0"
        await chunks.aclose()
        await eventually(lambda: running.engines["tiny@1"].cancelled == 1)


async def test_a_waiting_request_that_is_left_makes_room_at_once(hosting, eventually):
    async with hosting(slots=1, engine_queue=1, answer=words, word_seconds=0.02) as running:
        engine = await running.open()
        chunks, _ = await first_chunk(engine, ask("decoding"))
        waiting = asyncio.create_task(generate(engine, ask("waiting")))
        await eventually(lambda: running.host.report()["tiny@1"]["waiting"] == 1)
        waiting.cancel()
        await eventually(lambda: running.host.report()["tiny@1"]["waiting"] == 0)
        after = asyncio.create_task(generate(engine, ask("short")))
        await eventually(lambda: running.host.report()["tiny@1"]["waiting"] == 1)
        await chunks.aclose()
        await after
        asked = [request.messages[0]["content"] for request in running.engines["tiny@1"].requests]
        assert asked == ["decoding", "short"]


async def test_32_streams_run_side_by_side_and_keep_their_words(hosting):
    async with hosting(slots=8, word_seconds=0.001) as running:
        engine = await running.open()
        texts = [f"a b c d {number}" for number in range(32)]
        answers = await asyncio.gather(*(generate(engine, ask(text)) for text in texts))
        assert [answer.text for answer in answers] == [f"You said: {text}" for text in texts]
        assert running.engines["tiny@1"].most_in_flight == 8


async def test_each_of_n_answers_takes_a_slot(hosting, eventually):
    async with hosting(slots=4, answer=words, word_seconds=0.02) as running:
        engine = await running.open()
        wide, _ = await first_chunk(engine, ask(extras={"n": 3}))
        one, _ = await first_chunk(engine, ask())
        waiting = asyncio.create_task(generate(engine, ask("short")))
        await eventually(lambda: running.host.report()["tiny@1"]["waiting"] == 1)
        await wide.aclose()
        await eventually(lambda: running.host.report()["tiny@1"]["waiting"] == 0)
        await one.aclose()
        await waiting


async def test_texts_become_vectors_in_their_order(hosting):
    async with hosting(embed=lambda texts: ([[float(len(text)), 1.0] for text in texts], 2 * len(texts))) as running:
        texts = ["x" * number for number in range(200)]
        assert await embed(running.socket_path, texts) == ([[float(number), 1.0] for number in range(200)], 400)
        assert await embed(running.socket_path, []) == ([], 0)


async def test_without_an_embedding_model_or_its_weights_embedding_is_unavailable(hosting):
    def failing(_texts):
        raise Corrupted("minilm is corrupted")

    for model, problem, lasting in ((None, "no embedding model", True), (failing, "minilm is corrupted", False)):
        async with hosting(embed=model) as running:
            with pytest.raises(EngineUnavailable, match=problem) as caught:
                await embed(running.socket_path, ["text"])
            assert caught.value.lasting is lasting


@pytest.mark.parametrize("sent", [b"nonsense\n", b'{"Frobnicate": {}}\n', b'{"Ping": {}}\n{"Ping": {}}\n'])
async def test_bad_frames_are_answered_with_an_error_and_what_cannot_be_sent_is_rejected(hosting, sent):
    async with hosting() as running:
        reader, writer = await asyncio.open_unix_connection(str(running.socket_path))
        writer.write(sent)
        said = list(FrameSplitter(answer).feed(await asyncio.wait_for(reader.read(), 10)))
        assert isinstance(said[-1], EngineError)
        writer.close()
        assert (await ping(running.socket_path)).restarts == 0
        with pytest.raises(EngineRejected, match="cannot be handed to the engine"):
            await generate(await running.open(), ask("\ud800"))


async def test_a_host_that_stops_lets_streams_finish_for_a_while_and_takes_no_new_ones(hosting, eventually):
    hosted = hosting(answer=words, word_seconds=0.05, drain_seconds=1.0)
    running = await hosted.__aenter__()
    engine = await running.open()
    endless, _ = await first_chunk(engine, ask("long"))
    chunks, chunk = await first_chunk(engine, ask("short"))
    stopping = asyncio.create_task(hosted.__aexit__(None, None, None))
    await eventually(lambda: not running.socket_path.exists() or stopping.done())
    assert chunk.text + "".join([chunk.text async for chunk in chunks]) == words(ask("short"))
    with pytest.raises(EngineUnavailable, match="is stopping"):
        async for _ in endless:
            pass
    await stopping
    with pytest.raises(EngineUnavailable, match="is not running") as caught:
        await generate(engine, ask())
    assert caught.value.retry_after == 1
    assert running.engines["tiny@1"].closed
    assert not running.socket_path.exists()
