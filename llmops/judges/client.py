"""A judge at an OpenAI-compatible server: where it is, and a client that asks it for an answer which follows a JSON
schema, and believes nothing that does not.

The schema is sent for constrained decoding (`response_format`, strict), at temperature 0 with a fixed seed, and the
answer is checked against it again: a server may ignore the field, and valid JSON is not yet a valid verdict.
"""

from __future__ import annotations

import functools
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from llmops.engines.answer import Answer, is_cut_off
from llmops.engines.openai_errors import SentFields, check_reachable, read_key, refusal
from llmops.engines.openai_format import whole_answer
from llmops.errors import EngineError, EngineTimeout, EngineUnavailable
from llmops.evaluation.scorers.json_scorers import read_json
from llmops.evaluation.scorers.protocol import Text
from llmops.generation import Message
from llmops.json_schema import schema_validator
from llmops.text_io import checked

if TYPE_CHECKING:  # its import takes a sixth of the time of a run that is reused
    import httpx

SEED = 7
_FAILING = frozenset({500, 502, 503, 504, 529})
_TRANSIENT = frozenset({408, 429}) | _FAILING
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_GIVEN_UP_AFTER = 5  # questions in a row without an answer
_ASKED_AGAIN_AFTER = 60.0  # seconds


def _address(url: str) -> str:
    """An address to which paths can be added. One with a password would put it into every identity and message."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    more = parts.username or parts.password or parts.query or parts.fragment
    if parts.scheme not in ("http", "https") or not parts.hostname or more:
        raise ValueError("must be an http or https address without user, password, query or fragment")
    return url.rstrip("/")


@dataclass(frozen=True, config=ConfigDict(extra="forbid", defer_build=True))
class JudgeEndpoint:
    """A judge model at `base_url` + `/chat/completions`.

    name: what suites call it.
    key_variable: name of the environment variable that holds the API key; the key itself is read for each client and
    never kept here.
    timeout: seconds for one request.
    max_tokens: most tokens of one answer, rationale included.
    side_by_side: requests sent at the same time.
    retries: further tries after a transient failure.
    """

    name: Text
    base_url: Annotated[str, AfterValidator(_address)]
    model: Text
    key_variable: Text | None = None
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)] = 60.0
    max_tokens: Annotated[int, Field(ge=1, strict=True)] = 512
    side_by_side: Annotated[int, Field(ge=1, strict=True)] = 4
    retries: Annotated[int, Field(ge=0, strict=True)] = 3

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> JudgeEndpoint:
        """Construction from a file or a command line; what is None takes its default. Raises UsageError: an unknown or
        missing field or a value out of range; the text starts with the field's name."""
        return checked(cls, {name: value for name, value in values.items() if value is not None})

    @property
    def identity(self) -> dict[str, str]:
        """What of an endpoint can change a judgement: which model answers, and where. Never the key."""
        return {"base_url": self.base_url, "model": self.model}

    def check(self) -> None:
        """Asks the server something short, before a run relies on it. Raises EngineUnavailable: there is no key, or the
        server cannot be reached; names its address and why."""
        check_reachable(f"judge {self.name}", self.base_url, self.read_key())

    def read_key(self) -> str | None:
        """The API key from its environment variable; None when the endpoint has no `key_variable`. Raises
        EngineUnavailable: the variable holds no key. Call it before a run to fail before the first row."""
        return None if self.key_variable is None else read_key(self.key_variable, f"judge {self.name}")


class JudgeClient:
    """A blocking client of one endpoint, safe to share between threads; at most `side_by_side` requests are in flight.

    It connects on the first question. Its connections close when nobody holds it any more.
    """

    def __init__(
        self,
        endpoint: JudgeEndpoint,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint, self._place = endpoint, f"judge {endpoint.name} at {endpoint.base_url}"
        self._sleep, self._clock = sleep, clock
        self._places = threading.BoundedSemaphore(endpoint.side_by_side)
        self._counting = threading.Lock()
        self._unanswered, self._given_up, self._why = 0, 0.0, ""
        self._fields = SentFields()

    def ask(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> dict[str, Any]:
        """The judge's answer, an object that follows `schema`. Raises EngineUnavailable: the judge cannot be reached,
        has no key, or kept failing through all retries; or it left the last questions unanswered, and is left alone for
        a minute. EngineTimeout: no answer in time, through all retries. EngineRejected: the request can never succeed;
        ContextTooLong when it is too long. EngineError: an answer that is cut off, refused, no JSON, or does not follow
        the schema."""
        body = {
            "model": self.endpoint.model,
            "messages": [dict(message) for message in messages],
            "temperature": 0,
            "seed": SEED,
            "max_tokens": self.endpoint.max_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "verdict", "strict": True, "schema": dict(schema)},
            },
        }
        text = self._text(self._exchange(body))
        verdict, problem = read_json(text)
        if problem is not None:
            raise EngineError(f"the judge's answer is not JSON: {problem}: {_shown(text)}")
        broken = next(iter(schema_validator(schema).iter_errors(verdict)), None)
        if broken is not None or not isinstance(verdict, dict):
            problem = broken.message if broken is not None else "not an object"
            raise EngineError(f"the judge's answer does not follow the schema: {_shown(problem)}")
        return verdict

    def _exchange(self, body: Mapping[str, Any]) -> httpx.Response:
        """The reply of status 200, after as many tries as the endpoint allows; after one, where it gave up the last
        request, and after none for a while, where it gave up several in a row: a server that has gone away, or fails
        whatever it is asked, would else cost every row of a run all of its pauses, and one that hangs its time-out."""
        unanswered = self._unanswered
        if unanswered >= _GIVEN_UP_AFTER and self._clock() - self._given_up < _ASKED_AGAIN_AFTER:
            raise EngineUnavailable(f"not asked, after several questions in a row without an answer: {self._why}")
        http = self._http  # without a key nothing is tried
        retries = 0 if unanswered else self.endpoint.retries
        for failures in range(retries + 1):
            try:
                reply = self._post(http, body)
            except EngineError as error:
                failure, is_unanswered = error, True
            else:
                is_unanswered = reply.status_code in _FAILING
                if not is_unanswered:
                    self._unanswered = 0
                if reply.status_code == 200:
                    return reply
                failure = refusal(reply.status_code, reply.headers, reply.content, self._place)
                if reply.status_code not in _TRANSIENT:
                    raise failure
            # What the server asked for, else twice as long each time.
            asked: float | None = getattr(failure, "retry_after", None)
            pause = asked if asked is not None else min(_FIRST_PAUSE * 2**failures, _LONGEST_PAUSE)
            if failures == retries or pause > _LONGEST_PAUSE:
                break
            self._sleep(pause)
        if is_unanswered:
            with self._counting:
                self._unanswered, self._given_up, self._why = self._unanswered + 1, self._clock(), str(failure)
        raise failure

    def _post(self, http: httpx.Client, body: Mapping[str, Any]) -> httpx.Response:
        """One try: a reply of any status. Raises EngineTimeout, EngineUnavailable: there is none."""
        import httpx

        try:
            with self._places:
                while True:
                    sent = self._fields.fitted(body)
                    reply = http.post(f"{self.endpoint.base_url}/chat/completions", json=sent)
                    if not self._fields.learn(sent, reply.status_code, reply.content):
                        return reply
        except httpx.TimeoutException as error:
            raise EngineTimeout(f"{self._place}: no answer within {self.endpoint.timeout:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EngineUnavailable(f"{self._place}: {type(error).__name__}: {error}") from error

    @functools.cached_property
    def _http(self) -> httpx.Client:
        import httpx

        key = self.endpoint.read_key()
        http = httpx.Client(
            headers={"authorization": f"Bearer {key}"} if key else {},
            verify=_trusted(),
            timeout=httpx.Timeout(self.endpoint.timeout, connect=min(self.endpoint.timeout, 10.0)),
            limits=httpx.Limits(max_connections=self.endpoint.side_by_side),
        )
        # Scorers have no end of life that they are told of, so the last reference closes the connections.
        weakref.finalize(self, http.close)
        return http

    def _text(self, reply: httpx.Response) -> str:
        """The whole text of an answer. Raises EngineError."""
        answer = Answer()
        try:
            for chunk in whole_answer(reply.json()):
                answer.take(chunk)
        except (ValueError, RecursionError) as error:
            raise EngineError("the judge's reply is not JSON") from error
        except EngineError as error:
            raise EngineError(f"the judge's reply is no answer: {error}") from error
        if answer.refusal:
            raise EngineError(f"the judge refused: {_shown(answer.refusal)}")
        if is_cut_off(answer.finish_reason):
            raise EngineError(f"the judge's answer was cut off at max_tokens {self.endpoint.max_tokens}")
        if answer.content is None:
            raise EngineError("the judge's reply holds no text")
        return answer.text


@functools.cache
def _trusted() -> ssl.SSLContext:
    """The certificates trusted, read once: a tenth of a second for each client otherwise, and every scorer has one."""
    import httpx

    return httpx.create_ssl_context()


def _shown(text: Any, length: int = 200) -> str:
    return str(text) if len(str(text)) <= length else f"{str(text)[:length]}…"
