"""The whole check of one server, as one JSON object."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import httpx

from llmops.engine_check import capabilities, keywords
from llmops.engine_check.concurrency import CANCELLED, CONCURRENCY, LoadLevel, cancellation, load, retry_after
from llmops.engine_check.session import Observation, Session, shown
from llmops.engines.openai_errors import check_reachable, read_key
from llmops.errors import EngineError, EngineRejected, UsageError
from llmops.models.sources import UpstreamSource
from llmops.settings import Settings

_PROBES_SHARE, _LEVEL_SHARE = 0.7, 0.08
"""Of the time for the check, what the probes of fields and keywords may take at most, and each level of concurrency."""
_LONG_SECONDS = 4.0
_WORKED = ("yes", "ignored")
_NOTHING = Observation("unknown")

Progress = Callable[[str, int, int], None]


def chosen_model(base_url: str, key_variable: str | None, model: str | None) -> str:
    """The model to check: the one asked for, else the only one in the server's list.

    Raises:
        EngineUnavailable: the server cannot be reached, or refuses the key.
        UsageError: no model was asked for, and the server names none or several; or no source can name the model.
    """
    key = read_key(key_variable, base_url) if key_variable else None
    UpstreamSource.parse(f"openai:{base_url}#{model or 'any'}", key_variable)
    check_reachable("the server", base_url, key)
    if model is not None:
        return model
    try:
        reply = httpx.get(f"{base_url}/models", headers={"authorization": f"Bearer {key}"} if key else {}, timeout=10)
        served = [str(each["id"]) for each in reply.json()["data"]]
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        served = []
    if len(served) == 1:
        UpstreamSource.parse(f"openai:{base_url}#{served[0]}", key_variable)
        return served[0]
    named = f"serves {len(served)} models: {shown(', '.join(served))}" if served else "does not list its models"
    raise UsageError(f"{base_url} {named}; name one with --model")


async def check(
    base_url: str,
    model: str,
    *,
    key_variable: str | None = None,
    seconds: float = 300.0,
    concurrency: Sequence[int] = CONCURRENCY,
    progress: Progress = lambda _what, _done, _total: None,
) -> dict[str, Any]:
    """What a server was seen to do, in the shape that docs/upstreams.md describes: whatever a request leads to is an
    observation.

    seconds: after which nothing more is asked. concurrency: requests at a time, for each level of the load.

    Raises EngineUnavailable: the environment variable holds no key.
    """
    session, start = Session(base_url, model, key_variable, _PROBES_SHARE * seconds), time.monotonic()
    total, done = 4 + len(concurrency) + len(capabilities.PROBES) + len(keywords.KEYWORDS), 0

    def show() -> None:
        nonlocal done
        progress("checking", done, total)
        done += 1

    async def observed(probe: Awaitable[Observation]) -> Observation:
        show()
        try:
            return await probe
        except EngineError as error:
            return _failed(error)

    probed: dict[str, Observation] = {}
    enforced: dict[str, Observation] = {}
    loads: list[LoadLevel] = []
    try:
        probed["whole answer"] = await observed(capabilities.whole_answer(session))
        probed["streaming"] = await observed(capabilities.streaming(session))
        if probed["streaming"].verdict in _WORKED:
            for name, probe in capabilities.PROBES.items():
                probed[name] = await observed(probe(session))
            enforced["json_object"] = await observed(keywords.json_object(session))
            for keyword in keywords.KEYWORDS:
                enforced[keyword.name] = await observed(keywords.keyword_enforced(session, keyword))
            session.deadline = start + seconds
            show()
            try:
                probed |= await cancellation(session, _LONG_SECONDS)
            except EngineError as error:
                probed |= dict.fromkeys(CANCELLED, _failed(error))
            # At last: a server that goes on with what clients have left would slow the probes down.
            for level in concurrency:
                show()
                # Short of the deadline, so that what is open then is unfinished and no failure.
                left = 0.9 * (session.deadline - time.monotonic())
                if left > 0:
                    loads.append(await load(session, level, min(left, _LEVEL_SHARE * seconds)))
            probed["Retry-After"] = retry_after(loads)
        progress("checking", total, total)
    finally:
        await session.close()
    report = {
        "url": base_url,
        "model": model,
        "ok": probed["streaming"].verdict in _WORKED,
        "reason": _reason(probed),
        "capabilities": {name: asdict(each) for name, each in probed.items()},
        "schema_keywords": {name: asdict(each) for name, each in enforced.items()},
        "speed": [each.to_mapping() for each in loads],
        "fields": {place: sorted(names) for place, names in session.fields.items()},
        "settings": _settings(base_url, model, key_variable, probed, loads),
        "requests": session.requests,
        "seconds": round(time.monotonic() - start, 1),
    }
    return _without(read_key(key_variable, base_url), report) if key_variable else report


def _failed(error: EngineError) -> Observation:
    """Of a request that came to nothing."""
    return Observation("refused" if isinstance(error, EngineRejected) else "unknown", shown(error))


def _reason(probed: Mapping[str, Observation]) -> str | None:
    """Why the server cannot be an upstream; None where it can."""
    streaming, whole = probed["streaming"], probed["whole answer"]
    if streaming.verdict in _WORKED:
        return None
    if whole.verdict in _WORKED:
        return f"it gives no streamed answers, which clients of the gateway ask for: {streaming.detail}"
    return f"it gives no answers: {streaming.detail}"


def _settings(
    base_url: str, model: str, key_variable: str | None, probed: Mapping[str, Observation], loads: Sequence[LoadLevel]
) -> dict[str, Any]:
    """What to write to use the server: the model's source, and the settings that what was seen asks for."""
    environment = {}
    if probed["whole answer"].verdict not in _WORKED:
        environment["LLMOPS_UPSTREAM_STREAM"] = "always", "answers that are not streamed fail"
    elif probed.get("cancel, whole", _NOTHING).verdict == "ignored" and probed["cancel, streamed"].verdict == "yes":
        environment["LLMOPS_UPSTREAM_STREAM"] = "always", "it stops only when a stream is closed"
    good = [each for each in loads if each.replies and not each.errors]
    if good:
        best = max(good, key=lambda each: each.tokens_per_second)
        environment["LLMOPS_ENGINE_SLOTS"] = str(best.concurrency), "the most tokens a second, of the levels measured"
        slowest = max(best.first_token_s, default=0.0)
        if slowest > Settings().upstream_first_byte_timeout / 2:
            environment["LLMOPS_UPSTREAM_FIRST_BYTE_TIMEOUT"] = f"{2 * slowest:.0f}", "twice the slowest first token"
    return {
        "source": f"openai:{base_url}#{model}",
        "key_variable": key_variable,
        "environment": {name: {"value": value, "why": why} for name, (value, why) in environment.items()},
    }


def _without(secret: str, value: Any) -> Any:
    """The report, if a server repeats the key in its messages."""
    if isinstance(value, str):
        return value.replace(secret, "[key]")
    if isinstance(value, dict):
        return {name: _without(secret, item) for name, item in value.items()}
    return [_without(secret, item) for item in value] if isinstance(value, list) else value
