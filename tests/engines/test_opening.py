from __future__ import annotations

import asyncio
import dataclasses

import pytest

from llmops.engines.openai import OpenAIEngine
from llmops.engines.opening import ENGINE_NAMES, engine_identity, engine_name, open_engine
from llmops.engines.protocol import generate
from llmops.engines.upstreams import ReplicatedEngine, UpstreamsEngine
from llmops.errors import CannotRun, Corrupted, EngineTimeout, UsageError
from llmops.models.weights import copy_into, store_weights
from llmops.settings import Settings
from llmops.versions import ModelVersion
from tests.engines.upstream_server import UpstreamServer, silence

UPSTREAM = ModelVersion("up", 1, "openai:http://127.0.0.1:9/v1#big", "openai", "0" * 64)


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


@pytest.mark.parametrize(("form", "asked"), [("hf", "llamacpp"), ("openai", "transformers"), ("gguf", "openai")])
def test_an_engine_that_was_asked_for_must_fit_the_format(form, asked):
    with pytest.raises(UsageError, match=f"^the {asked} engine cannot open tiny@1, whose format is {form}$"):
        engine_name(of(form), Settings(), asked)


@pytest.mark.parametrize(("setting", "asked"), [("vllm", None), (None, "vllm")])
def test_an_unknown_engine_names_the_known_ones(setting, asked):
    with pytest.raises(
        UsageError, match=r"^unknown engine 'vllm'; known: llamacpp, openvino, transformers, openai, fake$"
    ):
        engine_name(of("gguf"), Settings(engine=setting), asked)
    assert ENGINE_NAMES == ("llamacpp", "openvino", "transformers", "openai", "fake")


def test_a_format_of_another_version_of_the_software_is_named():
    with pytest.raises(UsageError, match=r"^no engine opens tiny@1, whose format is onnx$"):
        engine_name(of("onnx"), Settings())


@pytest.mark.parametrize(("kind", "name"), [("tiny_gguf", "llamacpp"), ("tiny_model_folder", "transformers")])
def test_weights_are_opened_by_the_engine_of_their_format_as_announced(settings, register, ask, request, kind, name):
    model = register(request.getfixturevalue(kind))
    announced = engine_identity(model, settings)
    engine = open_engine(model, settings)
    try:
        assert engine.identity == announced
        assert (announced.name, engine.slots) == (name, 2)
        assert announced.settings.get("context", 256) == 256
        assert asyncio.run(generate(engine, ask(max_tokens=2))).usage.tokens_out == 2
    finally:
        asyncio.run(engine.close())


def test_the_fake_engine_opens_anything_as_announced_and_needs_no_weights(settings, ask):
    for form in ("gguf", "hf", "openai"):
        engine = open_engine(of(form), settings, "fake")
        assert engine.identity == engine_identity(of(form), settings, "fake")
        assert asyncio.run(generate(engine, ask())).text == "You said: hello"


SEVERAL = "openai:http://127.0.0.1:9/v1*3,http://127.0.0.1:19/v1#big"


def upstream(source, key_variable=None):
    return ModelVersion("up", 1, source, "openai", "0" * 64, provenance={"key_variable": key_variable})


@pytest.mark.parametrize(
    ("source", "kind", "build", "slots"),
    [
        (UPSTREAM.source, OpenAIEngine, "http://127.0.0.1:9/v1", 2),
        (SEVERAL, UpstreamsEngine, "http://127.0.0.1:9/v1, http://127.0.0.1:19/v1", 4),
    ],
)
def test_upstreams_are_opened_as_one_engine_as_announced_without_connecting(settings, source, kind, build, slots):
    engine = open_engine(upstream(source), settings)
    assert isinstance(engine, kind)
    assert engine.identity == engine_identity(upstream(source), settings)
    assert (engine.identity.build, engine.identity.settings, engine.slots) == (build, {"model": "big"}, slots)
    asyncio.run(engine.close())


@pytest.mark.parametrize(
    ("model", "server"),
    [(upstream(UPSTREAM.source, "THE_KEY"), "127.0.0.1:9"), (upstream(SEVERAL, "-,THE_KEY"), "127.0.0.1:19")],
)
def test_the_key_of_every_upstream_comes_with_the_model_and_must_be_there(settings, monkeypatch, model, server):
    monkeypatch.delenv("THE_KEY", raising=False)
    with pytest.raises(CannotRun, match=f"{server}/v1: the environment variable THE_KEY holds no key"):
        open_engine(model, settings)
    monkeypatch.setenv("THE_KEY", "sesame")
    asyncio.run(open_engine(model, settings).close())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"engine_timeout": 0.1}, "no whole answer within"),
        ({"upstream_first_byte_timeout": 0.1}, "no first byte within"),
    ],
)
def test_the_time_outs_of_the_settings_reach_an_upstream(settings, ask, setting, message):
    async def work():
        async with UpstreamServer(silence) as server:
            model = ModelVersion("up", 1, f"openai:{server.url}#big", "openai", "0" * 64)
            engine = open_engine(model, dataclasses.replace(settings, **setting))
            with pytest.raises(EngineTimeout, match=message):
                await generate(engine, ask())
            await engine.close()

    asyncio.run(work())


@pytest.mark.parametrize(("setting", "streamed"), [("auto", False), ("always", True)])
def test_a_setting_says_whether_whole_answers_are_streamed(settings, ask, setting, streamed):
    async def work():
        async with UpstreamServer() as server:
            model = ModelVersion("up", 1, f"openai:{server.url}#big", "openai", "0" * 64)
            engine = open_engine(model, dataclasses.replace(settings, upstream_stream=setting))
            answer = await generate(engine, dataclasses.replace(ask(), whole=True))
            await engine.close()
            return answer.text, server.seen[0].body.get("stream", False)

    assert asyncio.run(work()) == ("Hello", streamed)


@pytest.mark.parametrize(("kind", "engine"), [("tiny_gguf", "llamacpp"), ("tiny_model_folder", "transformers")])
def test_weights_that_are_missing_or_corrupted_are_never_loaded_and_the_cure_is_named(
    settings, register, tmp_path, kind, engine, request
):
    model = register(request.getfixturevalue(kind))
    with pytest.raises(CannotRun, match="not on this machine; run `llmops models pull tiny@1`"):
        open_engine(model, Settings(home=tmp_path / "other"), engine)
    path = settings.models_dir / model.path
    damaged = path / "config.json" if path.is_dir() else path
    damaged.write_bytes(damaged.read_bytes() + b" ")  # both would still load
    with pytest.raises(Corrupted) as caught:
        open_engine(model, settings, engine)
    assert str(path) in str(caught.value)
    assert "delete it and run `llmops models pull tiny@1`" in str(caught.value)


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


def test_as_many_replicas_as_asked_share_a_file_and_the_threads(settings, register, tiny_gguf, ask, monkeypatch):
    from llmops.engines import llamacpp

    threads = []

    class Watched(llamacpp.LlamaCppEngine):
        def __init__(self, path, **options):
            threads.append(options["threads"])
            super().__init__(path, **options)

    monkeypatch.setattr(llamacpp, "LlamaCppEngine", Watched)
    chosen = dataclasses.replace(settings, engine_slots=1, engine_replicas=2, engine_threads=5)
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
    assert threads == [2, 2]
    assert len({answer.text for answer in answers}) == 1
    assert engine.identity == engine_identity(model, chosen)
    alone = dataclasses.replace(chosen, engine_replicas=1)
    assert engine.identity == engine_identity(model, alone)  # an answer depends on its replica alone


def test_every_replica_has_a_thread(settings, register, tiny_gguf):
    chosen = dataclasses.replace(settings, engine_slots=1, engine_replicas=2, engine_threads=1)
    engine = open_engine(register(tiny_gguf), chosen)
    assert engine.slots == 2
    asyncio.run(engine.close())


@pytest.mark.parametrize("prompt_cache", ["no", "slots", "template"])
def test_how_prompts_are_kept_is_part_of_the_identity(settings, register, tiny_gguf, prompt_cache):
    chosen = dataclasses.replace(settings, engine_prompt_cache=prompt_cache)
    model = register(tiny_gguf)
    engine = open_engine(model, chosen)
    try:
        assert engine.identity == engine_identity(model, chosen)
        assert engine.identity.settings["cache"] == prompt_cache
    finally:
        asyncio.run(engine.close())


def test_upstreams_know_nothing_of_replicas_and_prompt_caches(settings):
    plain = engine_identity(UPSTREAM, settings)
    assert plain == engine_identity(
        UPSTREAM, dataclasses.replace(settings, engine_replicas=3, engine_prompt_cache="slots")
    )
