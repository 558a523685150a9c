"""Does an output call the tools that it should?

Expected is `expectations.tool_calls`, a list of `{"name": …, "args": {…}}`; an empty one says: call no tool. The calls
of an output are those that the model's server gave beside the text; where it gave none, the text is the calls as JSON:
one, or a list of them, or an object with that list as `tool_calls`. Arguments may be called `args`, `arguments` or
`parameters`, in or beside an object `function`, as text or as an object. An output of another shape calls nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import parameters
from llmops.evaluation.scorers.json_scorers import read_json
from llmops.evaluation.scorers.json_values import leaves
from llmops.evaluation.scorers.protocol import Correctness, MissingExpectation, Scorer

Call = Mapping[str, Any]


class ToolCalls(Correctness):
    """F1 between the calls that the output makes and those in `expectations.tool_calls`, with repetitions counted, from
    0 to 1; 1 when no call is expected and none is made.

    A call is right when its name and all its arguments are right: a missing or surplus argument makes it wrong. Values
    are compared with their JSON types, so 1.0 equals 1, but "1" and true do not. ordered: true counts only calls in the
    expected order. exact: true scores only whether all calls are right.
    """

    def __init__(self, name: str, ordered: bool = False, exact: bool = False) -> None:
        super().__init__(name)
        self._ordered = parameters.boolean("ordered", ordered)
        self._exact = parameters.boolean("exact", exact)

    def score(self, row: EvalRow, output: Output) -> Score:
        wanted = expected_calls(row)
        made, problem = calls_of(output)
        got, expected = [_key(call) for call in made], [_key(call) for call in wanted]
        right = _in_order(got, expected) if self._ordered else (Counter(got) & Counter(expected)).total()
        all_calls = len(got) + len(expected)
        value = 2 * right / all_calls if all_calls else 1.0
        told = f"{right} of {len(expected)} expected calls, {len(got)} made" + (f"; {problem}" if problem else "")
        return Score(value == 1.0 if self._exact else value, told)


def _key(call: Call) -> Hashable:
    """The call as compared: the same for equal arguments in any order."""
    return call["name"], frozenset(Counter(leaves(call["args"], text=str)).items())


def _in_order(got: Sequence[Hashable], expected: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence."""
    lengths = [0] * (len(expected) + 1)
    for call in got:
        before = 0
        for place, wanted in enumerate(expected, 1):
            before, lengths[place] = (
                lengths[place],
                (before + 1 if call == wanted else max(lengths[place], lengths[place - 1])),
            )
    return lengths[-1]


def expected_calls(row: EvalRow) -> list[dict[str, Any]]:
    """The calls that a row expects. Raises MissingExpectation."""
    expected = row.expectations.get("tool_calls")
    if not isinstance(expected, list):
        raise MissingExpectation(f"row {row.id}: expectations hold no tool_calls")
    calls = [call for item in expected if (call := _tool_call(item)) is not None]
    if len(calls) < len(expected):
        raise MissingExpectation(f"row {row.id}: expectations.tool_calls must be objects of name and args")
    return calls


def calls_of(output: Output) -> tuple[list[dict[str, Any]], str]:
    """The calls that an output makes, each a name and arguments, and what is wrong where it makes none: those that the
    model's server gave apart from the text, else those that the text is."""
    if output.tool_calls:
        return _read(output.tool_calls)
    return read_tool_calls(output.text)


def read_tool_calls(text: str) -> tuple[list[dict[str, Any]], str]:
    """The calls that a text is, as `calls_of`."""
    value, problem = read_json(text)
    if problem is not None:
        return [], f"no tool calls: {problem}"
    listed = value.get("tool_calls", value) if isinstance(value, dict) else value
    return _read(listed if isinstance(listed, list) else [listed])


def _read(listed: Sequence[Any]) -> tuple[list[dict[str, Any]], str]:
    calls = [_tool_call(call) for call in listed]
    found = [call for call in calls if call is not None]
    return (found, "") if len(found) == len(calls) else ([], "no tool calls: the JSON is not of their shape")


def _tool_call(value: Any) -> dict[str, Any] | None:
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    given: Any = next((function[key] for key in ("args", "arguments", "parameters") if key in function), None)
    if given is None or given == "":
        given = {}
    arguments = read_json(given)[0] if isinstance(given, str) else given
    return {"name": function["name"], "args": arguments} if isinstance(arguments, dict) else None


TYPES: dict[str, Callable[..., Scorer]] = {"tool_calls": ToolCalls}
