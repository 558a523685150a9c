"""What a server does with each field of OpenAI's chat request, and what it says in return.

Each probe raises EngineError for a request that came to nothing.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

from llmops.engine_check.session import Observation, ProbeReply, Session, shown
from llmops.engines.answer import is_cut_off
from llmops.engines.openai_errors import error_message, refusal
from llmops.errors import ContextTooLong, EngineError
from llmops.json_schema import AnswerSchema

_COUNT = "Count from 1 to 40, with a space after each number: 1 2 3 4 5"
_STORY = "Tell me a story about an animal of your choice."
_PLACE: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_NAMES = {"get_weather": "weather", "get_time": "local time"}
_TOOLS = [
    {"type": "function", "function": {"name": name, "description": f"Get the {what} of a city.", "parameters": _PLACE}}
    for name, what in _NAMES.items()
]
_ASK_WEATHER = "What is the weather in Paris now? Call the tool get_weather."
_ASK_BOTH = "What is the weather in Paris, and what is the weather in Rome? Call get_weather once for each city."
_BUFFERED, _NOTICED_SECONDS = 0.9, 0.5
"""Share of a stream's time before its first piece, from which on something between has held all pieces back; and how
long a stream must take for that to be seen."""
_PROMPT_WORDS = (2_000, 16_000, 128_000)


async def whole_answer(session: Session) -> Observation:
    """An answer that is not streamed."""
    reply = await session.ask(_COUNT, whole=True)
    if not reply.pieces:
        raise EngineError("the answer is empty")
    return Observation("yes", f"{reply.seconds:.1f} s, finish_reason {reply.answer.finish_reason!r}")


async def streaming(session: Session) -> Observation:
    """An answer that comes piece by piece."""
    reply = await session.ask(_COUNT)
    if reply.first_s is None:
        raise EngineError("the answer is empty")
    seen = f"{reply.pieces} pieces, the first after {reply.first_s:.2f} s of {reply.seconds:.2f} s"
    if reply.pieces == 1 and reply.tokens > 1:
        return Observation("ignored", f"the answer came in one piece: {seen}")
    if reply.first_s > _BUFFERED * reply.seconds > _BUFFERED * _NOTICED_SECONDS:
        return Observation("ignored", f"all pieces came at the end, as through a proxy that buffers: {seen}")
    return Observation("yes", seen)


async def system_message(session: Session) -> Observation:
    said = 'Whatever you are asked, answer only with the word "pineapple".'
    reply = await session.ask([{"role": "system", "content": said}, {"role": "user", "content": "Who are you?"}])
    if "pineapple" in reply.answer.text.lower():
        return Observation("yes", f"answered {shown(reply.answer.text)}")
    return Observation("unknown", f"taken, but not followed: answered {shown(reply.answer.text)}")


async def usage(session: Session) -> Observation:
    """Token counts, which agree for one prompt whether the answer is streamed or not."""
    replies = {"whole": await session.ask(_COUNT, whole=True), "streamed": await session.ask(_COUNT)}
    counts = {name: (each.usage.tokens_in, each.usage.tokens_out) for name, each in replies.items()}
    if missing := [name for name, count in counts.items() if None in count]:
        return Observation("ignored", f"none with {' and '.join(missing)} answers")
    seen = "; ".join(f"{name} {count[0]} in, {count[1]} out" for name, count in counts.items())
    agree = counts["whole"][0] == counts["streamed"][0]
    return Observation("yes", seen) if agree else Observation("ignored", f"the counts of one prompt differ: {seen}")


async def max_tokens(session: Session) -> Observation:
    reply = await session.ask(_COUNT, max_tokens=4)
    seen = f"{reply.tokens} tokens for 4, finish_reason {reply.answer.finish_reason!r}"
    if reply.tokens > 4:
        return Observation("ignored", seen)
    return Observation("yes" if is_cut_off(reply.answer.finish_reason) else "unknown", seen)


async def stop(session: Session) -> Observation:
    """An answer that ends before a word which stands in the middle of the same answer without it."""
    text = (await session.ask(_COUNT)).answer.text
    words = text.split()
    word = words[len(words) // 2] if words else ""
    if not text.partition(word)[0].strip():
        return Observation("unknown", f"the answer has no middle: {shown(text)}")
    reply = await session.ask(_COUNT, stop=(word,))
    seen = f"finish_reason {reply.answer.finish_reason!r} for the stop string {word!r}"
    if word in reply.answer.text:
        return Observation("ignored", f"the answer holds it: {seen}")
    same = reply.answer.text.strip() == text.partition(word)[0].strip()
    return Observation("yes" if same else "unknown", seen if same else f"another answer than without it: {seen}")


async def seed(session: Session) -> Observation:
    replies = [await session.ask(_STORY, temperature=1.0, seed=each, max_tokens=24) for each in (7, 7, 8)]
    first, again, other = (reply.answer.text for reply in replies)
    if first != again:
        return Observation("ignored", "two answers of one seed differ")
    if first == other:
        return Observation("unknown", "answers of different seeds are alike too")
    return Observation("yes", "two answers of one seed are alike, that of another differs")


async def greedy(session: Session) -> Observation:
    texts = {(await session.ask(_STORY, max_tokens=24)).answer.text for _ in range(3)}
    return Observation("yes" if len(texts) == 1 else "ignored", f"{len(texts)} different of 3 answers")


async def several_answers(session: Session) -> Observation:
    reply = await session.ask(_STORY, temperature=1.0, max_tokens=24, n=2)
    return Observation("yes" if len(reply.answers) == 2 else "ignored", f"{len(reply.answers)} answers for n = 2")


async def logprobs(session: Session) -> Observation:
    """Log-probabilities as OpenAI has them: an entry for each token, with as many others as were asked for."""
    reply = await session.ask(_COUNT, max_tokens=4, logprobs=True, top_logprobs=3)
    entries = reply.answer.logprobs
    if not entries:
        return Observation("ignored", "none came")
    faults = [f"{len(entries)} entries for {reply.tokens} tokens"] if len(entries) != reply.tokens else []
    for entry in entries:
        if not isinstance(entry.get("token"), str) or not isinstance(entry.get("logprob"), (int, float)):
            faults.append(f"no token and logprob in {shown(json.dumps(entry))}")
        if (others := len(entry.get("top_logprobs") or ())) != 3:
            faults.append(f"{others} top_logprobs for 3")
    return Observation(
        "ignored" if faults else "yes", faults[0] if faults else f"each with {', '.join(sorted(entries[0]))}"
    )


async def tools(session: Session) -> Observation:
    reply = await session.ask(_ASK_WEATHER, tools=_TOOLS, max_tokens=96)
    return _calls_of(reply, Observation("unknown", f"the model made no call; it said {shown(reply.answer.text)}"))


async def required_tool(session: Session) -> Observation:
    reply = await session.ask("Say hello. Do not call a tool.", tools=_TOOLS, tool_choice="required", max_tokens=96)
    return _calls_of(reply, Observation("ignored", f"no call; it said {shown(reply.answer.text)}"))


async def named_tool(session: Session) -> Observation:
    """The prompt asks for the other tool."""
    choice = {"type": "function", "function": {"name": "get_time"}}
    reply = await session.ask(_ASK_WEATHER, tools=_TOOLS, tool_choice=choice, max_tokens=96)
    seen = _calls_of(reply, Observation("ignored", f"no call; it said {shown(reply.answer.text)}"))
    names = {call["function"]["name"] for call in reply.answer.tool_calls}
    return Observation("ignored", f"called {names}") if names - {"get_time"} else seen


async def no_tool(session: Session) -> Observation:
    reply = await session.ask(_ASK_WEATHER, tools=_TOOLS, tool_choice="none", max_tokens=96)
    if reply.answer.tool_calls:
        return Observation("ignored", "a call came")
    control = await session.ask(_ASK_WEATHER, tools=_TOOLS, max_tokens=96)
    made = bool(control.answer.tool_calls)
    return Observation("yes" if made else "unknown", f"no call; without it {'one' if made else 'none either'}")


async def parallel_calls(session: Session) -> Observation:
    reply = await session.ask(_ASK_BOTH, tools=_TOOLS, max_tokens=128)
    few = Observation("unknown", f"the model made {len(reply.answer.tool_calls)} calls where 2 were asked for")
    return _calls_of(reply, few) if len(reply.answer.tool_calls) > 1 else few


async def single_call(session: Session) -> Observation:
    """The prompt asks for two calls."""
    single = await session.ask(_ASK_BOTH, tools=_TOOLS, max_tokens=128, parallel_tool_calls=False)
    control = await session.ask(_ASK_BOTH, tools=_TOOLS, max_tokens=128)
    made = [len(each.answer.tool_calls) for each in (single, control)]
    seen = f"{made[0]} calls; without it {made[1]}"
    return Observation("ignored" if made[0] > 1 else "yes" if made[0] == 1 < made[1] else "unknown", seen)


def _calls_of(reply: ProbeReply, without: Observation) -> Observation:
    """Whether the calls name tools that were offered, and their arguments follow the schema; `without` any call."""
    schema, faults = AnswerSchema(_PLACE), []
    calls = [call["function"] for call in reply.answer.tool_calls]
    for call in calls:
        if call["name"] not in _NAMES:
            faults.append(f"{call['name']!r} was not offered; ")
        elif schema.problem(call["arguments"]) is not None:
            faults.append("arguments break their schema; ")
    named = ", ".join(f"{call['name']}({call['arguments']})" for call in calls)
    seen = f"{''.join(faults)}{shown(named)}, finish_reason {reply.answer.finish_reason!r}"
    return Observation("ignored" if faults else "yes", seen) if calls else without


async def reasoning(session: Session) -> Observation:
    reply = await session.ask("What is 17 times 23? Think step by step, then give the number.", max_tokens=96)
    if reply.answer.reasoning:
        return Observation("yes", f"among the message's fields {', '.join(sorted(reply.answer.fields))}")
    if "<think>" in reply.answer.text or "</think>" in reply.answer.text:
        return Observation("ignored", "inside the answer's text, in <think>: the server needs a reasoning parser")
    return Observation("unknown", "none came; the model may not reason")


async def context_error(session: Session) -> Observation:
    """What is said of a prompt that does not fit the context: prompts grow until one is refused."""
    context = await _context_of(session)
    for words in (context,) if context else _PROMPT_WORDS:
        body = {"model": session.model, "max_tokens": 1, "messages": [{"role": "user", "content": "one " * words}]}
        session.requests += 1
        try:
            reply = await session.http.post(f"{session.base_url}/chat/completions", json=body)
            told = reply.json()
        except (httpx.HTTPError, ValueError) as error:
            return Observation("unknown", f"{words} words: {type(error).__name__}: {error}")
        if reply.status_code >= 400:
            said = told.get("error") if isinstance(told, dict) else None
            named = {name: said[name] for name in ("code", "type") if said.get(name)} if isinstance(said, dict) else {}
            known = isinstance(refusal(reply.status_code, reply.headers, reply.content), ContextTooLong)
            ours = "context_length_exceeded" if known else "its message"
            seen = f"{words} words: {reply.status_code} {json.dumps(named)}, {shown(error_message(told))}"
            return Observation("yes" if reply.status_code < 500 else "ignored", f"{seen}; clients get {ours}")
        counted = ((told.get("usage") or {}) if isinstance(told, dict) else {}).get("prompt_tokens")
        if counted is not None and counted < words // 2:
            return Observation("ignored", f"{words} words were cut to {counted} tokens, and answered")
    return Observation("unknown", f"{words} words were answered")


async def _context_of(session: Session) -> int | None:
    """Tokens of context that the server's list of models names: vLLM's and SGLang's, and llama.cpp's."""
    try:
        models = (await session.http.get(f"{session.base_url}/models")).json()["data"]
        ours = next(each for each in models if each.get("id") == session.model)
        told = ours.get("max_model_len") or ours["meta"]["n_ctx"]
    except (httpx.HTTPError, ValueError, LookupError, TypeError, StopIteration, AttributeError):
        return None
    return int(told) if type(told) is int and 0 < told <= 2**20 else None


PROBES: Mapping[str, Callable[[Session], Awaitable[Observation]]] = {
    "system message": system_message,
    "usage": usage,
    "max_tokens": max_tokens,
    "stop": stop,
    "seed": seed,
    "temperature 0 repeats": greedy,
    "n": several_answers,
    "logprobs": logprobs,
    "tools": tools,
    "tool_choice: required": required_tool,
    "tool_choice: a function": named_tool,
    "tool_choice: none": no_tool,
    "parallel tool calls": parallel_calls,
    "parallel_tool_calls: false": single_call,
    "reasoning": reasoning,
    "context error": context_error,
}
"""By name, of those beside `whole_answer` and `streaming`, without which nothing else is asked."""
