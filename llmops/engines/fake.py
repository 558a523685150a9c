"""A deterministic engine with no model: for tests, examples and trying the gateway without weights."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence

from llmops.engines.protocol import EngineIdentity
from llmops.errors import EngineError, EngineRejected
from llmops.generation import Chunk, GenerationRequest, Message, Usage
from llmops.json_schema import AnswerSchema, schema_of

Answer = Callable[[GenerationRequest], str]


def echo(request: GenerationRequest) -> str:
    """The last message, said back: the default answer of a fake engine."""
    return f"You said: {request.messages[-1]['content']}"


class FakeEngine:
    """Streams `answer(request)` word by word, whatever temperature and seed are.

    answer: pure function of the request; `word_seconds` is slept before each word. `failure`, when given, is raised
    in place of an answer. supported_extras: the extra request fields it claims to obey; it obeys `n`, saying the same
    each time.
    script: in place of an answer, the chunks to stream for a request. `requests` keeps every request seen, `cancelled`
    counts streams closed early.
    """

    def __init__(
        self,
        answer: Answer = echo,
        *,
        slots: int = 4,
        word_seconds: float = 0.0,
        failure: EngineError | None = None,
        name: str = "fake",
        supported_extras: frozenset[str] = frozenset({"n"}),
        script: Callable[[GenerationRequest], Iterable[Chunk]] | None = None,
    ) -> None:
        self.identity, self.slots, self.supported_extras = (
            EngineIdentity(name, "1", {"slots": slots}),
            slots,
            supported_extras,
        )
        self._answer, self._word_seconds, self._failure, self._script = answer, word_seconds, failure, script
        self.requests: list[GenerationRequest] = []
        self.cancelled = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.closed = False

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        if self._failure is not None:
            raise self._failure
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        finished = False
        try:
            for chunk in (self._script or self._say)(request):
                if chunk.finish_reason is None:
                    await asyncio.sleep(self._word_seconds)
                finished = chunk.usage is not None
                yield chunk
        finally:
            self.in_flight -= 1
            self.cancelled += not finished

    def _say(self, request: GenerationRequest) -> Iterator[Chunk]:
        """The answer as far as a stop string lets it come. Raises EngineRejected: it is not in the format asked for."""
        parameters, said = request.parameters, self._answer(request)
        said = said[: min((end for stop in parameters.stop if (end := said.find(stop)) >= 0), default=len(said))]
        if parameters.response_format is not None:
            problem = AnswerSchema(schema_of(parameters.response_format)).problem(said)
            if problem is not None:
                message = f"the fake engine says what it says, and {problem}: it cannot enforce a response format"
                raise EngineRejected(message, param="response_format")
        words, limit, times = said.split(" "), parameters.max_tokens, request.extras.get("n") or 1
        tokens_in = sum(len(message["content"].split()) for message in request.messages)
        usage = Usage(tokens_in, times * min(len(words), limit))
        for index in range(times):
            for position, word in enumerate(words[:limit]):
                yield Chunk(word if position == 0 else f" {word}", index=index)
            ended = "length" if len(words) > limit else "stop"
            yield Chunk("", ended, usage if index == times - 1 else None, index=index)

    async def loglikelihoods(
        self, messages: Sequence[Message], continuations: Sequence[str]
    ) -> tuple[list[float], Usage]:
        """The likeliest continuation is the one that `answer` gives; the others are the less likely the longer."""
        request = GenerationRequest(tuple(messages))
        self.requests.append(request)
        if self._failure is not None:
            raise self._failure
        said = self._answer(request)
        logprobs = [-0.1 if text == said else -1.0 - len(text) for text in continuations]
        tokens_in = sum(len(message["content"].split()) for message in messages)
        return logprobs, Usage(tokens_in, len(continuations))

    async def close(self) -> None:
        self.closed = True
