"""Our judge and embeddings as ragas takes them.

ragas' own `InstructorLLM` sends no schema in the mode that its factory picks, reports usage to its makers, and needs an
event loop with an asynchronous client for each score. `BoundedJudge` stands in its place: every answer is asked for
with a schema that is closed and bounded, so that a verdict which ragas would count (a 7 where 0 or 1 was asked for, an
empty list that scores 1) cannot come through; and the first failure of a score ends it, where some metrics would try
again five times and then average what is left.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmops.errors import EngineError
from llmops.generation import Message
from llmops.judges.client import JudgeClient
from llmops.judges.scorer import Embed

# Fields of ragas' answers, by name, that hold one of a few values although their type says any.
_VALUES: Mapping[str, Sequence[Any]] = {"verdict": (0, 1), "attributed": (0, 1), "noncommittal": (0, 1)}
# Lists of texts that later questions are asked about: empty ones would make ragas score a text without content.
_STATEMENT_LISTS = frozenset({"statements", "claims", "questions", "topics"})
# Lists that hold one verdict for each of these texts.
_VERDICT_LISTS = frozenset({"statements", "answers", "classifications"})


class BoundedJudge:
    """The judge of one score. values: more bounds by field name. failure: the first error, None so far.

    Its methods block: ragas awaits them on an event loop of the calling thread, which has nothing else to do.
    """

    def __init__(self, client: JudgeClient, values: Mapping[str, Sequence[Any]]) -> None:
        self._client, self._values = client, {**_VALUES, **values}
        self._asked_about: list[int] = []
        self.answers: list[dict[str, Any]] = []
        self.failure: EngineError | None = None

    def generate(self, prompt: str, response_model: Any) -> Any:
        """An answer as `response_model`. Raises EngineError."""
        if self.failure is not None:
            raise self.failure
        try:
            answer = self._ask(prompt, response_model.model_json_schema())
        except EngineError as error:
            self.failure = error
            raise
        self.answers.append(answer)
        return response_model.model_validate(answer)

    async def agenerate(self, prompt: str, response_model: Any) -> Any:
        return self.generate(prompt, response_model)

    def _ask(self, prompt: str, schema: dict[str, Any]) -> dict[str, Any]:
        bounded = bounded_schema(schema, self._values, self._asked_about)
        answer = self._client.ask([Message(role="user", content=prompt)], bounded)
        for name, items in answer.items():
            if name in _STATEMENT_LISTS and isinstance(items[0], str):
                self._asked_about.append(len(items))
            elif name in _VERDICT_LISTS and self._asked_about and len(items) not in self._asked_about:
                raise EngineError(f"the judge gave {len(items)} verdicts on {self._asked_about[-1]} statements")
        if {"TP", "FP", "FN"} <= answer.keys() and not any(answer.values()):
            raise EngineError("the judge put no statement into any class")
        return answer


class RagasEmbeddings:
    """Embeddings of an injected function."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed

    def embed_texts(self, texts: list[str], **_: Any) -> list[list[float]]:
        return [[float(number) for number in vector] for vector in self._embed(texts)]

    def embed_text(self, text: str, **_: Any) -> list[float]:
        return self.embed_texts([text])[0]

    async def aembed_text(self, text: str, **_: Any) -> list[float]:
        return self.embed_text(text)

    async def aembed_texts(self, texts: list[str], **_: Any) -> list[list[float]]:
        return self.embed_texts(texts)


def bounded_schema(
    schema: Mapping[str, Any], values: Mapping[str, Sequence[Any]], asked_about: Sequence[int] = ()
) -> dict[str, Any]:
    """A pydantic schema for strict decoding: objects are closed and whole, and known fields bounded.

    values: what fields of a name may hold. asked_about: lengths of the lists of statements made so far; a list of
    verdicts is as long as one of them.
    """
    bounded = copy.deepcopy(dict(schema))
    for part in (bounded, *bounded.get("$defs", {}).values()):
        part.pop("title", None)
        properties = part.get("properties", {})
        part["required"], part["additionalProperties"] = list(properties), False
        for name, field in properties.items():
            field.pop("title", None)
            if name in values and field.get("type") == "integer":
                field["enum"] = list(values[name])
            elif field.get("type") == "array":
                of_texts = field["items"].get("type") == "string"
                if name == "answers" and of_texts:
                    field["items"] = {"type": "string", "enum": ["0", "1"]}
                if name in _VERDICT_LISTS and asked_about and not (of_texts and name in _STATEMENT_LISTS):
                    field["minItems"], field["maxItems"] = min(asked_about), max(asked_about)
                elif name in _STATEMENT_LISTS | _VERDICT_LISTS:
                    field["minItems"] = 1
    return bounded


def reasons(answers: Sequence[Mapping[str, Any]]) -> str:
    """The judge's reasons in all its answers, a line each, with the verdict in front where there is one."""

    def parts(value: Any) -> Iterator[Mapping[str, Any]]:
        if isinstance(value, Mapping):
            yield value
        for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
            yield from parts(item)

    lines = []
    for part in parts(list(answers)):
        reason, verdict = part.get("reason"), part.get("verdict", part.get("attributed"))
        if isinstance(reason, str) and reason:
            lines.append(reason if verdict is None else f"{verdict}: {reason}")
    return "\n".join(lines)
