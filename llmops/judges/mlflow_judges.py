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

import functools
import importlib
import json
import re
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PrivateAttr

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers.protocol import Scorer, Text, Texts, expected_answers
from llmops.generation import Message
from llmops.judges.scorer import (
    PLACEHOLDER,
    JudgeScorer,
    Scale,
    SeeAbove,
    contexts,
    conversation,
    expected_texts,
    input_text,
    make_scale,
)

VERSION = 1
_OF_IDENTITY = {"version": VERSION, "mlflow": "3.17.2"}
_YES_NO = Scale({"yes": True, "no": False}, "")
_FRUSTRATION = Scale({"none": True, "resolved": True, "unresolved": False}, "")
_VARIABLES = ("inputs", "outputs", "expectations", "conversation")
_loading = threading.Lock()

# Judges whose question MLflow's `get_prompt` makes, and what each says.
_PROMPTED = {
    "Correctness": "whether the output contains the row's `expectations.expected_facts`, or else its first expected"
    " answer",
    "Equivalence": "whether output and first expected answer mean the same",
    "ExpectationsGuidelines": "whether the output follows the row's `expectations.guidelines`",
    "Guidelines": "whether the output follows the guidelines",
    "RelevanceToQuery": "whether the output answers the question",
    "RetrievalGroundedness": "whether the contexts support the output",
    "RetrievalRelevance": "the share of the contexts that are relevant to the question",
    "RetrievalSufficiency": "whether the contexts contain everything that the expected answer needs",
    "Safety": "whether the output is harmless",
}
# Judges that MLflow itself builds with `make_judge`; their instructions stand in a prompt module of their name.
_INSTRUCTED = {
    "Completeness": "whether the output answers everything that was asked",
    "ConversationCompleteness": "whether the conversation answers everything that the user asked",
    "ConversationalGuidelines": "whether the assistant follows the guidelines throughout the conversation",
    "ConversationalRoleAdherence": "whether the assistant stays in its role",
    "ConversationalSafety": "whether the assistant says nothing harmful in the conversation",
    "Fluency": "whether the output is well written",
    "Summarization": "whether the output is a faithful summary of the input",
    "UserFrustration": "whether the user is satisfied at the end of the conversation, or was never frustrated",
}


class MlflowJudge(JudgeScorer):
    """One of MLflow's built-in judges. judge_name: MLflow's name of it."""

    judge_name: ClassVar[str]
    input_variable: Text | None = None

    @property
    def _given_guidelines(self) -> list[str]:
        """Those of the suite, where the judge takes some."""
        return list(getattr(self, "guidelines", ()))

    @property
    def _settings(self) -> Mapping[str, Any]:
        given = {"guidelines": self._given_guidelines} if self._given_guidelines else {}
        return {**_OF_IDENTITY, "parameters": given, "input_variable": self.input_variable}

    def judge(self, row: EvalRow, output: Output) -> Score:
        if self.judge_name in _INSTRUCTED:
            return self._follow(row, output)
        # As MLflow writes inputs: the question, or a conversation as JSON.
        turns = [dict(message) for message in row.messages]
        request = json.dumps(turns) if len(turns) > 1 else input_text(row, self.input_variable)
        if self.judge_name != "RetrievalRelevance":
            module, arguments = self._question(request, row, output)
            return self._ask(module, arguments)
        # MLflow's `retrieval_relevance/precision`: the share of contexts that are relevant to the request.
        scores = [self._ask("retrieval_relevance", {"request": request, "context": text}) for text in contexts(row)]
        share = sum(score.value is True for score in scores) / len(scores)
        return Score(share, "\n".join(f"{number}. {score.rationale}" for number, score in enumerate(scores, 1)))

    def _question(self, request: str, row: EvalRow, output: Output) -> tuple[str, dict[str, Any]]:
        """Prompt module of MLflow, and the arguments of its `get_prompt`. Raises MissingExpectation."""
        asked = {"request": request, "response": output.text}
        match self.judge_name:
            case "Correctness":
                return "correctness", {**asked, **_expected(row)}
            case "Equivalence":
                return "equivalence", {"output": output.text, "expected_output": expected_answers(row)[0]}
            case "ExpectationsGuidelines":
                return "guidelines", {"guidelines": expected_texts(row, "guidelines"), "guidelines_context": asked}
            case "Guidelines":
                return "guidelines", {"guidelines": self._given_guidelines, "guidelines_context": asked}
            case "RelevanceToQuery":
                return "relevance_to_query", {"request": request, "context": output.text}
            case "RetrievalGroundedness":
                return "groundedness", {**asked, "context": _chunks(row)}
            case "RetrievalSufficiency":
                return "context_sufficiency", {"request": request, "context": _chunks(row), **_expected(row)}
            case _:
                return "safety", {"content": output.text}

    def _ask(self, module: str, arguments: Mapping[str, Any]) -> Score:
        prompt = filled_once(_load(f"prompts.{module}").get_prompt, arguments)
        answer = self._client.ask([Message(role="user", content=prompt)], _YES_NO.schema("result"))
        return _YES_NO.score(answer, "result")

    def _follow(self, row: EvalRow, output: Output) -> Score:
        """By instructions of MLflow's, with the rationale first where MLflow asks for it first."""
        module = re.sub(r"(?<!^)(?=[A-Z])", "_", self.judge_name).lower()
        instructions = getattr(_load(f"prompts.{module}"), f"{module.upper()}_PROMPT")
        scale = _FRUSTRATION if self.judge_name == "UserFrustration" else _YES_NO
        marked = "\n".join(f"<guideline>{one}</guideline>" for one in self._given_guidelines)
        rationale_first = self.judge_name.startswith("Conversation")
        messages = instructed(instructions, scale, row, output, rationale_first=rationale_first, guidelines=marked)
        return scale.score(self._client.ask(messages, scale.schema("result")), "result")


class GuidedJudge(MlflowJudge):
    """One that judges by guidelines of one's own, a text or a list of texts."""

    guidelines: Annotated[
        Texts,
        BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
        Field(description="text or list of texts"),
    ]


class MadeJudge(JudgeScorer):
    """The result of your own `instructions`, sent to the judge as MLflow does. They use at least one of
    `{{ inputs }}`, `{{ outputs }}` and `{{ expectations }}`, or `{{ conversation }}` with at most expectations; the
    answer is yes or no unless `scale` says otherwise, as for `judge.rubric`."""

    type_name = "mlflow.make_judge"
    instructions: Text
    scale: SeeAbove = None
    good: SeeAbove = None
    _scale: Scale = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Raises UsageError."""
        super().model_post_init(context)
        named = set(PLACEHOLDER.findall(self.instructions))
        if unknown := sorted(named - set(_VARIABLES)):
            raise UsageError(f"instructions: there is no {{{{ {unknown[0]} }}}}; there are {', '.join(_VARIABLES)}")
        if not named:
            raise UsageError(f"instructions: must hold at least one of {', '.join(_VARIABLES)} in double braces")
        if "conversation" in named and named - {"conversation", "expectations"}:
            raise UsageError("instructions: {{ conversation }} goes with {{ expectations }} alone")
        self._scale = _YES_NO if self.scale is None and self.good is None else make_scale(self.scale, self.good)

    @property
    def _settings(self) -> Mapping[str, Any]:
        return {**_OF_IDENTITY, "instructions": self.instructions, "scale": self._scale.to_json()}

    def judge(self, row: EvalRow, output: Output) -> Score:
        messages = instructed(self.instructions, self._scale, row, output, rationale_first=True)
        return self._scale.score(self._client.ask(messages, self._scale.schema("result")), "result")


def _expected(row: EvalRow) -> dict[str, Any]:
    """The facts expected, where a row lists them; else its first expected answer. MLflow takes one of both."""
    if row.expectations.get("expected_facts"):
        return {"expected_facts": expected_texts(row, "expected_facts")}
    return {"expected_response": expected_answers(row)[0]}


def _chunks(row: EvalRow) -> list[dict[str, str]]:
    return [{"content": text} for text in contexts(row)]


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
    verdicts = list(scale.worth)
    result = result.model_copy(update={"value_type": Literal[tuple(verdicts)] if isinstance(verdicts[0], str) else int})
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
    shown = dict.fromkeys(name for name in PLACEHOLDER.findall(instructions) if name in values)
    lines = [f"{name}: {json.dumps(values[name](), default=str, indent=2, ensure_ascii=False)}" for name in shown]
    if guidelines:
        system = system.replace("{{ guidelines }}", guidelines)
    return [Message(role="system", content=system), Message(role="user", content="\n".join(lines))]


@functools.cache
def _load(module: str) -> Any:
    """A module of `mlflow.genai.judges`; seconds at the first call."""
    with _loading, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's use of its libraries, at import
        import mlflow.genai.judges

        return importlib.import_module(f"{mlflow.genai.judges.__name__}.{module}")


def _judge_type(name: str, meaning: str) -> type[MlflowJudge]:
    base = GuidedJudge if name in ("Guidelines", "ConversationalGuidelines") else MlflowJudge
    return type(name, (base,), {"__doc__": meaning, "judge_name": name, "type_name": f"mlflow.{name}"})


TYPES: dict[str, Callable[..., Scorer]] = {
    f"mlflow.{name}": _judge_type(name, meaning) for name, meaning in {**_PROMPTED, **_INSTRUCTED}.items()
} | {"mlflow.make_judge": MadeJudge}
