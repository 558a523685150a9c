import asyncio
import dataclasses
import threading

import pytest

from llmops.engines.fake import FakeEngine
from llmops.engines.openai import OpenAIEngine
from llmops.engines.opening import ENGINE_NAMES, EnginePool, engine_identity, engine_name, open_engine
from llmops.engines.protocol import generate
from llmops.engines.upstreams import ReplicatedEngine, UpstreamsEngine
from llmops.errors import CannotRun, Corrupted, EngineTimeout, EngineUnavailable, UsageError
from llmops.models.weights import copy_into, store_weights
from llmops.settings import Settings
from llmops.versions import ModelVersion
from tests.engines.upstream_server import answer, silence

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path, engine_slots=2, engine_context=256, engine_threads=1)


@pytest.fixture
def register(settings):
    """`register(path)` stores weights and gives their model version."""

    def registered(path):
        stored = store_weights(settings, copy_into(path))
        return ModelVersion("tiny", 1, f"file:{path}", stored.format, stored.sha256, stored.path)

    return registered


def of(form: str) -> ModelVersion:
    return ModelVersion("tiny", 1, "file:x", form, "0" * 64)


@pytest.mark.parametrize(
    ("form", "setting", "asked", "chosen"),
    [
        ("gguf", None, None, "llamacpp"),
        ("hf", None, None, "transformers"),
        ("openai", None, None, "openai"),
        ("gguf", "transformers", None, "transformers"),
        ("gguf", None, "transformers", "transformers"),
        ("gguf", "transformers", "llamacpp", "llamacpp"),
        ("hf", "llamacpp", None, "transformers"),  # the setting is a preference for what it fits
        ("openai", "llamacpp", None, "openai"),
        ("openai", "fake", None, "fake"),
        ("hf", None, "fake", "fake"),
    ],
)
def test_the_engine_is_chosen_by_request_then_setting_then_format(form, setting, asked, chosen):
    assert engine_name(of(form), Settings(engine=setting), asked) == chosen


@pytest.mark.parametrize(
    ("form", "setting", "asked", "problem"),
    [
        *(
            (form, None, asked, f"the {asked} engine cannot open tiny@1, whose format is {form}")
            for form, asked in (("hf", "llamacpp"), ("openai", "transformers"), ("gguf", "openai"))
        ),
        ("gguf", "vllm", None, f"unknown engine 'vllm'; known: {', '.join(ENGINE_NAMES)}"),
        ("gguf", None, "vllm", "unknown engine 'vllm'; known: llamacpp, openvino, transformers, openai, fake"),
        ("onnx", None, None, "no engine opens tiny@1, whose format is onnx"),
    ],
)
def test_an_engine_that_is_unknown_or_does_not_fit_the_format_is_named(form, setting, asked, problem):
    with pytest.raises(UsageError) as caught:
        engine_name(of(form), Settings(engine=setting), asked)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("kind", "name", "prompt_cache"),
    [
        ("tiny_model_folder", "transformers", "no"),
        *(("tiny_gguf", "llamacpp", kept) for kept in ("no", "slots", "template")),
    ],
)
def test_weights_are_opened_by_the_engine_of_their_format_as_announced(
    settings, register, ask, request, kind, name, prompt_cache
):
    model = register(request.getfixturevalue(kind))
    settings = dataclasses.replace(settings, engine_prompt_cache=prompt_cache)
    announced = engine_identity(model, settings)
    engine = open_engine(model, settings)
    try:
        assert engine.identity == announced
        assert (announced.name, engine.slots) == (name, 2)
        assert announced.settings.get("context", 256) == 256
        assert announced.settings.get("cache", prompt_cache) == prompt_cache
        assert asyncio.run(generate(engine, ask(max_tokens=2))).usage.tokens_out == 2
    finally:
        asyncio.run(engine.close())


def test_the_fake_engine_opens_anything_as_announced_and_needs_no_weights(settings, ask):
    for form in ("gguf", "hf", "openai"):
        engine = open_engine(of(form), settings, "fake")
        assert engine.identity == engine_identity(of(form), settings, "fake")
        assert asyncio.run(generate(engine, ask())).text == "You said: hello"


ONE = "openai:http://127.0.0.1:9/v1#big"
SEVERAL = "openai:http://127.0.0.1:9/v1*3,http://127.0.0.1:19/v1#big"


def upstream(source, key_variable=None):
    return ModelVersion("up", 1, source, "openai", "0" * 64, provenance={"key_variable": key_variable})


@pytest.mark.parametrize(
    ("source", "kind", "build", "slots"),
    [
        (ONE, OpenAIEngine, "http://127.0.0.1:9/v1", 2),
        (SEVERAL, UpstreamsEngine, "http://127.0.0.1:9/v1, http://127.0.0.1:19/v1", 4),
    ],
)
def test_upstreams_are_opened_as_one_engine_as_announced_without_connecting(settings, source, kind, build, slots):
    engine = open_engine(upstream(source), settings)
    assert isinstance(engine, kind)
    assert engine.identity == engine_identity(upstream(source), settings)
    local = dataclasses.replace(settings, engine_replicas=3, engine_prompt_cache="slots")  # upstreams have neither
    assert engine.identity == engine_identity(upstream(source), local)
    assert (engine.identity.build, engine.identity.settings, engine.slots) == (build, {"model": "big"}, slots)
    asyncio.run(engine.close())


@pytest.mark.parametrize(
    ("model", "server"),
    [(upstream(ONE, "THE_KEY"), "127.0.0.1:9"), (upstream(SEVERAL, "-,THE_KEY"), "127.0.0.1:19")],
)
def test_the_key_of_every_upstream_comes_with_the_model_and_must_be_there(settings, monkeypatch, model, server):
    monkeypatch.delenv("THE_KEY", raising=False)
    with pytest.raises(CannotRun, match=f"{server}/v1: the environment variable THE_KEY holds no key"):
        open_engine(model, settings)
    monkeypatch.setenv("THE_KEY", "sesame")
    asyncio.run(open_engine(model, settings).close())


@pytest.mark.parametrize(
    ("behave", "setting", "outcome"),
    [
        (silence, {"engine_timeout": 0.1}, "no whole answer within"),
        (silence, {"upstream_first_byte_timeout": 0.1}, "no first byte within"),
        (answer, {"upstream_stream": "auto"}, "Hello, streamed: None"),
        (answer, {"upstream_stream": "always"}, "Hello, streamed: True"),
    ],
)
async def test_settings_of_upstreams_reach_them(settings, server, ask, behave, setting, outcome):
    server.behave = behave
    engine = open_engine(upstream(f"openai:{server.url}#big"), dataclasses.replace(settings, **setting))
    try:
        text = (await generate(engine, dataclasses.replace(ask(), whole="upstream_stream" in setting))).text
        made = f"{text}, streamed: {server.seen[0].body.get('stream')}"
    except EngineTimeout as error:
        made = str(error)
    await engine.close()
    assert outcome in made


def test_weights_that_are_missing_or_corrupted_are_never_loaded(settings, register, tmp_path, tiny_gguf):
    model = register(tiny_gguf)
    with pytest.raises(CannotRun, match="not on this machine; run `llmops models pull tiny@1`"):
        open_engine(model, Settings(home=tmp_path / "other"))
    path = settings.models_dir / model.path
    path.write_bytes(path.read_bytes() + b" ")  # it would still load
    with pytest.raises(Corrupted, match=f"{path} is corrupted"):
        open_engine(model, settings)


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (MemoryError(), CannotRun, "tiny@1: not enough memory to load it with the llamacpp engine"),
        (PermissionError("denied"), Corrupted, "tiny@1: the llamacpp engine cannot read its weights: denied"),
    ],
)
def test_what_loading_raises_is_translated(settings, register, tiny_gguf, monkeypatch, failure, error, message):
    from llmops.engines import llamacpp

    def failing(*_, **__):
        raise failure

    model = register(tiny_gguf)
    monkeypatch.setattr(llamacpp, "LlamaCppEngine", failing)
    with pytest.raises(error) as caught:
        open_engine(model, settings)
    assert str(caught.value) == message


@pytest.mark.parametrize(("threads", "each"), [(5, 2), (1, 1)])
def test_as_many_replicas_as_asked_share_a_file_and_the_threads(
    settings, register, tiny_gguf, ask, monkeypatch, threads, each
):
    from llmops.engines import llamacpp

    given = []

    class Watched(llamacpp.LlamaCppEngine):
        def __init__(self, path, **options):
            given.append(options["threads"])
            super().__init__(path, **options)

    monkeypatch.setattr(llamacpp, "LlamaCppEngine", Watched)
    chosen = dataclasses.replace(settings, engine_slots=1, engine_replicas=2, engine_threads=threads)
    model = register(tiny_gguf)
    engine = open_engine(model, chosen)

    async def both():
        try:
            return await asyncio.gather(*(generate(engine, ask("one", max_tokens=4)) for _ in range(4)))
        finally:
            await engine.close()

    answers = asyncio.run(both())
    assert isinstance(engine, ReplicatedEngine)
    assert engine.slots == 2
    assert given == [each, each]
    assert len({answer.text for answer in answers}) == 1
    assert engine.identity == engine_identity(model, chosen)
    alone = dataclasses.replace(chosen, engine_replicas=1)
    assert engine.identity == engine_identity(model, alone)  # an answer depends on its replica alone


# ---- the pool


class Opener:
    """Opens fake engines; remembers them, waits for `gate`, and fails while `failure` is set."""

    def __init__(self):
        self.opened = []
        self.gate = threading.Event()
        self.gate.set()
        self.failure = None

    def __call__(self, model):
        self.opened.append(model.ref)
        assert self.gate.wait(10)
        if self.failure is not None:
            raise self.failure
        return FakeEngine(name=model.ref)


@pytest.fixture
def opener():
    return Opener()


def model_version(name="tiny", version=1, sha256=None):
    return ModelVersion(name, version, "file:none", "gguf", sha256 or f"sha-{name}-{version}")


async def use(pool, model):
    async with pool.lease(model) as engine:
        return engine


async def test_many_waiters_share_one_load(opener):
    pool = EnginePool(opener)
    opener.gate.clear()
    waiters = [asyncio.create_task(use(pool, model_version())) for _ in range(20)]
    await asyncio.sleep(0.02)
    waiters.pop().cancel()
    opener.gate.set()
    engines = await asyncio.gather(*waiters)
    assert len(set(map(id, engines))) == 1
    assert opener.opened == ["tiny@1"]
    await pool.close()
    assert engines[0].closed


async def test_two_names_of_the_same_weights_share_an_engine(opener):
    pool = EnginePool(opener)
    same = [model_version("a", sha256="s"), model_version("b", sha256="s")]
    assert await use(pool, same[0]) is await use(pool, same[1])


async def test_the_least_recently_used_idle_engine_is_closed(opener):
    pool = EnginePool(opener, most_idle=2)
    first, second, third = (model_version(version=number) for number in (1, 2, 3))
    engines = [await use(pool, first), await use(pool, second)]
    await use(pool, first)
    await use(pool, third)
    await asyncio.sleep(0)
    assert [engine.closed for engine in engines] == [False, True]
    assert pool.loaded == ["tiny@1", "tiny@3"]


async def test_an_engine_in_use_or_pinned_is_never_closed(opener):
    pool = EnginePool(opener, most_idle=0)
    pinned, used, other = (model_version(version=number) for number in (1, 2, 3))
    pool.pin([pinned])
    await use(pool, pinned)
    async with pool.lease(used) as engine:
        await use(pool, other)
        assert pool.loaded == ["tiny@1", "tiny@2"]
    await asyncio.sleep(0)
    assert engine.closed
    pool.pin([])
    assert pool.loaded == []


@pytest.mark.parametrize("failure", [EngineUnavailable("no weights"), ZeroDivisionError("a bug")])
async def test_a_failed_load_is_tried_again_by_the_next_request(opener, failure):
    pool = EnginePool(opener)
    opener.failure = failure
    with pytest.raises(EngineUnavailable) as raised:
        await use(pool, model_version())
    assert raised.value.retry_after
    assert list(pool.failures) == ["tiny@1"]
    opener.failure = None
    assert (await use(pool, model_version())).identity.name == "tiny@1"
    assert pool.failures == {}


async def test_preloading_tells_when_it_ended_and_pauses_after_a_failure(opener):
    ended = asyncio.Event()
    pool = EnginePool(opener)
    pool.on_load = ended.set
    opener.failure = EngineUnavailable("no weights")
    pool.preload(model_version())
    pool.preload(model_version())
    await asyncio.wait_for(ended.wait(), 5)
    pool.preload(model_version())
    assert opener.opened == ["tiny@1"]
    assert not pool.is_loaded(model_version())


async def test_closing_gives_up_a_load_under_way(opener):
    pool = EnginePool(opener)
    opener.gate.clear()
    pool.preload(model_version())
    await asyncio.sleep(0)
    await asyncio.wait_for(pool.close(), 5)
    opener.gate.set()
    assert pool.loaded == []
