"""MLflow's judges (3.17.2) as scorer types `mlflow.<name>`: its texts, asked of our endpoint through our own client.

MLflow's own transport is not used. Its built-in judges take no address (only the process-wide `OPENAI_API_BASE`, which
two judges cannot share, and which turns every other OpenAI client of the process), send the temperature of the server,
and take any text for a verdict; all of them, `make_judge` with its `base_url` too, try a failing server ten times over
three minutes, and drop the schema when the server complains. So the question is put together by MLflow's own prompt
functions, word for word as its scorers send it (a test compares them), and asked as every other judge is: schema in
force, temperature 0, fixed seed, the key in no object of MLflow's.

| MLflow's | here |
| --- | --- |
| Correctness, RelevanceToQuery, Guidelines, ExpectationsGuidelines, Safety, Equivalence | built |
| RetrievalGroundedness, RetrievalSufficiency, RetrievalRelevance | built, on the row's contexts in place of a trace's; RetrievalRelevance scores the share of relevant contexts |
| Fluency, Completeness, Summarization, make_judge | built |
| ConversationCompleteness, ConversationalSafety, ConversationalGuidelines, ConversationalRoleAdherence, UserFrustration | built, on the conversation that a row and its output make |
| KnowledgeRetention | left out: it judges the answer of every turn, and a row holds the output of the last alone |
| ToolCallCorrectness, ToolCallEfficiency, ConversationalToolCallEfficiency | left out: they read tool spans of a trace, and rows have none |
| RegexMatch, PIIDetection, ResponseLength | need no judge: scorers and descriptors of our own say the same |
"""  # noqa: E501 - a table's rows cannot be broken

from __future__ import annotations

import functools
import importlib
import json
import re
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import parameters as check
from llmops.evaluation.scorers.options import Option
from llmops.evaluation.scorers.protocol import Scorer, expected_answers
from llmops.generation import Message
from llmops.judges.columns import contexts, conversation, expected_texts, input_text
from llmops.judges.endpoint import JudgeEndpoint
from llmops.judges.scale import Scale, make_scale
from llmops.judges.scorer import JudgeScorer, check_parameters, optional_name

VERSION = 1
_YES_NO = Scale({"yes": True, "no": False}, "")
_FRUSTRATION = Scale({"none": True, "resolved": True, "unresolved": False}, "")
_VARIABLE = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_VARIABLES = ("inputs", "outputs", "expectations", "conversation")
_loading = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Exchange:
    """What a judge may read of a row. request: as MLflow writes inputs: the question, or a conversation as JSON."""

    row: EvalRow
    output: Output
    input_variable: str | None

    @property
    def request(self) -> str:
        if len(self.row.messages) > 1:
            return json.dumps([dict(message) for message in self.row.messages])
        return input_text(self.row, self.input_variable)


Parameters = Mapping[str, Any]


def _correctness(exchange: _Exchange, _: Parameters) -> dict[str, Any]:
    return {"request": exchange.request, "response": exchange.output.text, **_expected(exchange.row)}


def _expected(row: EvalRow) -> dict[str, Any]:
    """The facts expected, where a row lists them; else its first expected answer. MLflow takes one of both."""
    if row.expectations.get("expected_facts"):
        return {"expected_facts": expected_texts(row, "expected_facts")}
    return {"expected_response": expected_answers(row)[0]}


def _guidelines(exchange: _Exchange, guidelines: list[str]) -> dict[str, Any]:
    context = {"request": exchange.request, "response": exchange.output.text}
    return {"guidelines": guidelines, "guidelines_context": context}


def _chunks(row: EvalRow) -> list[dict[str, str]]:
    return [{"content": text} for text in contexts(row)]


# Prompt module of MLflow, and the arguments of its `get_prompt`.
_PROMPTED: dict[str, tuple[str, Callable[[_Exchange, Parameters], dict[str, Any]]]] = {
    "Correctness": ("correctness", _correctness),
    "Equivalence": (
        "equivalence",
        lambda it, _: {"output": it.output.text, "expected_output": expected_answers(it.row)[0]},
    ),
    "ExpectationsGuidelines": ("guidelines", lambda it, _: _guidelines(it, expected_texts(it.row, "guidelines"))),
    "Guidelines": ("guidelines", lambda it, parameters: _guidelines(it, parameters["guidelines"])),
    "RelevanceToQuery": ("relevance_to_query", lambda it, _: {"request": it.request, "context": it.output.text}),
    "RetrievalGroundedness": (
        "groundedness",
        lambda it, _: {"request": it.request, "response": it.output.text, "context": _chunks(it.row)},
    ),
    "RetrievalSufficiency": (
        "context_sufficiency",
        lambda it, _: {"request": it.request, "context": _chunks(it.row), **_expected(it.row)},
    ),
    "Safety": ("safety", lambda it, _: {"content": it.output.text}),
}
# Instructions of judges that MLflow itself builds with `make_judge`: prompt module, name of the text, scale.
_INSTRUCTED: dict[str, tuple[str, str, Scale]] = {
    "Completeness": ("completeness", "COMPLETENESS_PROMPT", _YES_NO),
    "ConversationCompleteness": ("conversation_completeness", "CONVERSATION_COMPLETENESS_PROMPT", _YES_NO),
    "ConversationalGuidelines": ("conversational_guidelines", "CONVERSATIONAL_GUIDELINES_PROMPT", _YES_NO),
    "ConversationalRoleAdherence": ("conversational_role_adherence", "CONVERSATIONAL_ROLE_ADHERENCE_PROMPT", _YES_NO),
    "ConversationalSafety": ("conversational_safety", "CONVERSATIONAL_SAFETY_PROMPT", _YES_NO),
    "Fluency": ("fluency", "FLUENCY_PROMPT", _YES_NO),
    "Summarization": ("summarization", "SUMMARIZATION_PROMPT", _YES_NO),
    "UserFrustration": ("user_frustration", "USER_FRUSTRATION_PROMPT", _FRUSTRATION),
}
# MLflow asks these for the rationale first, in the text too.
_RATIONALE_FIRST = frozenset(name for name in _INSTRUCTED if name.startswith("Conversation"))
_RELEVANCE = "RetrievalRelevance"
_GUIDED = ("Guidelines", "ConversationalGuidelines")


class MlflowJudge(JudgeScorer):
    """One of MLflow's built-in judges.

    guidelines: of Guidelines and ConversationalGuidelines, a text or a list of texts. input_variable: as for
    `columns.input_text`.

    Raises:
        UsageError: at construction, starting with the parameter's name.
    """

    def __init__(
        self,
        judge_name: str,
        name: str,
        *,
        endpoint: JudgeEndpoint,
        embed: object = None,  # noqa: ARG002 - every judge factory takes it
        input_variable: str | None = None,
        **parameters: Any,
    ) -> None:
        type_name = f"mlflow.{judge_name}"
        known = ("guidelines",) if judge_name in _GUIDED else ()
        check_parameters(type_name, parameters, dict.fromkeys(known))
        if known:
            given = parameters.get("guidelines")
            parameters = {"guidelines": check.texts("guidelines", [given] if isinstance(given, str) else given)}
        self._judge_name, self._parameters = judge_name, parameters
        self._input_variable = optional_name("input_variable", input_variable)
        settings = {"version": VERSION, "mlflow": "3.17.2", "parameters": parameters, "input_variable": input_variable}
        super().__init__(name, type_name, endpoint, settings)

    @staticmethod
    def more_options(judge_name: str) -> list[Option]:
        """The judge's own options, which the constructor takes as keywords."""
        return [Option("guidelines", "text or list of texts", needed=True)] if judge_name in _GUIDED else []

    def judge(self, row: EvalRow, output: Output) -> Score:
        exchange = _Exchange(row, output, self._input_variable)
        if self._judge_name == _RELEVANCE:
            return self._relevance(exchange)
        if self._judge_name in _INSTRUCTED:
            module, text, scale = _INSTRUCTED[self._judge_name]
            instructions = getattr(_load(f"prompts.{module}"), text)
            marked = "\n".join(f"<guideline>{one}</guideline>" for one in self._parameters.get("guidelines", ()))
            rationale_first = self._judge_name in _RATIONALE_FIRST
            messages = instructed(
                instructions, scale, exchange.row, output, rationale_first=rationale_first, guidelines=marked
            )
            return scale.score(self.client.ask(messages, scale.schema("result")), "result")
        module, arguments = _PROMPTED[self._judge_name]
        return self._ask(module, arguments(exchange, self._parameters))

    def _ask(self, module: str, arguments: Mapping[str, Any]) -> Score:
        prompt = filled_once(_load(f"prompts.{module}").get_prompt, arguments)
        answer = self.client.ask([Message(role="user", content=prompt)], _YES_NO.schema("result"))
        return _YES_NO.score(answer, "result")

    def _relevance(self, exchange: _Exchange) -> Score:
        """MLflow's `retrieval_relevance/precision`: the share of contexts that are relevant to the request."""
        scores = [
            self._ask("retrieval_relevance", {"request": exchange.request, "context": text})
            for text in contexts(exchange.row)
        ]
        share = sum(score.value is True for score in scores) / len(scores)
        return Score(share, "\n".join(f"{number}. {score.rationale}" for number, score in enumerate(scores, 1)))


class MadeJudge(JudgeScorer):
    """`mlflow.make_judge`: instructions of one's own, put to the judge as MLflow does.

    instructions: with at least one of `{{ inputs }}`, `{{ outputs }}`, `{{ expectations }}`, or `{{ conversation }}`,
    which goes with expectations alone. scale, good: as `make_scale` takes them; yes (true) or no when left out.

    Raises:
        UsageError: at construction, starting with the parameter's name.
    """

    def __init__(
        self,
        name: str,
        *,
        endpoint: JudgeEndpoint,
        embed: object = None,  # noqa: ARG002 - every judge factory takes it
        instructions: str,
        scale: Any = None,
        good: Any = None,
    ) -> None:
        _check_variables(instructions)
        self._instructions = instructions
        self._scale = _YES_NO if scale is None and good is None else make_scale(scale, good)
        settings = {
            "version": VERSION, "mlflow": "3.17.2", "instructions": instructions, "scale": self._scale.to_json()
        }  # fmt: skip
        super().__init__(name, "mlflow.make_judge", endpoint, settings)

    def judge(self, row: EvalRow, output: Output) -> Score:
        messages = instructed(self._instructions, self._scale, row, output, rationale_first=True)
        return self._scale.score(self.client.ask(messages, self._scale.schema("result")), "result")


def filled_once(get_prompt: Callable[..., str], arguments: Mapping[str, Any]) -> str:
    """The prompt that MLflow makes of the arguments, each put in once and as it is.

    MLflow (3.17.2, `format_prompt`) fills one placeholder after another and looks for the next in what it has put in
    already: an answer that holds `{{ ground_truth }}` would have the expected answer put into its own place. So no
    value has a brace while MLflow fills, but a word that none of them holds, which becomes the brace again.
    """
    mark = "BRACE"
    while mark in repr(arguments):
        mark += "X"

    def without_braces(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("{", mark)
        if isinstance(value, Mapping):
            return {key: without_braces(item) for key, item in value.items()}
        return [without_braces(item) for item in value] if isinstance(value, list) else value

    return get_prompt(**without_braces(arguments)).replace(mark, "{")


def instructed(
    instructions: str, scale: Scale, row: EvalRow, output: Output, *, rationale_first: bool, guidelines: str = ""
) -> list[Message]:
    """The messages that MLflow's `InstructionsJudge` would send for a row. guidelines: what stands in the place of
    `{{ guidelines }}` in MLflow's own instructions; what it holds in double braces is no variable."""
    result, rationale = _load("base").Judge.get_output_fields()
    result = result.model_copy(update={"value_type": _value_type(list(scale.worth))})
    utils, constants = _load("utils"), _load("instructions_judge.constants")
    system = utils.add_output_format_instructions(
        utils.format_prompt(constants.INSTRUCTIONS_JUDGE_SYSTEM_PROMPT, instructions=instructions),
        output_fields=[rationale, result] if rationale_first else [result, rationale],
    )
    values: dict[str, Callable[[], Any]] = {
        "inputs": lambda: dict(row.inputs),
        "outputs": lambda: output.text,
        "expectations": lambda: dict(row.expectations),
        "conversation": lambda: [dict(message) for message in conversation(row, output)],
    }
    shown = dict.fromkeys(name for name in _VARIABLE.findall(instructions) if name in values)
    lines = [f"{name}: {json.dumps(values[name](), default=str, indent=2, ensure_ascii=False)}" for name in shown]
    if guidelines:
        system = system.replace("{{ guidelines }}", guidelines)
    return [Message(role="system", content=system), Message(role="user", content="\n".join(lines))]


def _value_type(verdicts: Sequence[str | int]) -> Any:
    return Literal[tuple(verdicts)] if isinstance(verdicts[0], str) else int


def _check_variables(instructions: Any) -> None:
    if not isinstance(instructions, str) or not instructions.strip():
        raise UsageError("instructions: must be the judge's text")
    found = set(_VARIABLE.findall(instructions))
    if unknown := sorted(found - set(_VARIABLES)):
        raise UsageError(f"instructions: there is no {{{{ {unknown[0]} }}}}; there are {', '.join(_VARIABLES)}")
    if not found:
        raise UsageError(f"instructions: must hold at least one of {', '.join(_VARIABLES)} in double braces")
    if "conversation" in found and found - {"conversation", "expectations"}:
        raise UsageError("instructions: {{ conversation }} goes with {{ expectations }} alone")


@functools.cache
def _load(module: str) -> Any:
    """A module of `mlflow.genai.judges`; seconds at the first call."""
    with _loading, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's use of its libraries, at import
        import mlflow.genai.judges

        return importlib.import_module(f"{mlflow.genai.judges.__name__}.{module}")


TYPES: dict[str, Callable[..., Scorer]] = {
    f"mlflow.{judge_name}": functools.partial(MlflowJudge, judge_name)
    for judge_name in (*_PROMPTED, *_INSTRUCTED, _RELEVANCE)
} | {"mlflow.make_judge": MadeJudge}
