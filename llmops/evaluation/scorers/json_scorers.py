"""Scorers of structured output: is it JSON, does it follow the schema, are the fields or the tool calls right.

Values are compared by JSON's types, of which one is for all numbers: 1 and 1.0 are the same value, true and "1" are
others. Whole numbers of any size are compared exactly.

Expected tool calls are `expectations.tool_calls`, a list of `{"name": …, "args": {…}}`; an empty one says: call no
tool. The calls of an output are those that the model's server gave beside the text; where it gave none, the text is the
calls as JSON: one, or a list of them, or an object with that list as `tool_calls`. Arguments may be called `args`,
`arguments` or `parameters`, in or beside an object `function`, as text or as an object. An output of another shape
calls nothing.
"""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Any

from pydantic import Field

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, RunFindings, Score
from llmops.evaluation.scorers.normalisation import normalise
from llmops.evaluation.scorers.protocol import Correctness, MissingExpectation, Scorer, expected_rows
from llmops.json_schema import schema_validator


def read_json(text: str) -> tuple[Any, str | None]:
    """The value and None, or None and what is wrong.

    `NaN` and `Infinity` are not JSON. An object that names a key twice is refused too: parsers disagree on what it
    holds (RFC 8259, section 4), so an answer could be two things at once.
    """

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    def whole(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
            raise ValueError(f"an object names the key {twice!r} twice")
        return values

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=whole), None
    except (ValueError, RecursionError) as error:
        return None, str(error) or type(error).__name__


Path = tuple[str | int, ...]
Leaf = tuple[Path, str, Any]
"""Where a leaf stands, its JSON type, and its value as compared."""


def normal_text(text: str) -> str:
    """A text normalised; as it is where nothing but marks would be left out of it."""
    return normalise(text) or text.strip()


def leaves(value: Any, text: Callable[[str], str] = normal_text) -> Iterator[Leaf]:
    """Every leaf of a JSON value; an empty object or list is one. Goes as deep as the value does without recursion.
    text: what texts are compared as."""
    waiting: list[tuple[Path, Any]] = [((), value)]
    while waiting:
        path, item = waiting.pop()
        if isinstance(item, dict) and item:
            waiting += [((*path, name), below) for name, below in item.items()]
        elif isinstance(item, list) and item:
            waiting += [((*path, position), below) for position, below in enumerate(item)]
        else:
            yield path, *_comparable(item, text)


def same_json(got: Any, expected: Any) -> bool:
    """Whether two JSON values are the same, texts after normalisation."""
    return Counter(leaves(got)) == Counter(leaves(expected))


def aligned(got: Any, expected: Any) -> tuple[Any, Any]:
    """Both values with the items of their lists in such an order that items which are most alike, by the share of their
    leaves that they have in common, stand at the same place. Greedy: the most alike pair first."""
    if isinstance(got, dict) and isinstance(expected, dict):
        pairs = {name: aligned(got[name], expected[name]) for name in got.keys() & expected.keys()}
        return (
            {name: pairs[name][0] if name in pairs else value for name, value in got.items()},
            {name: pairs[name][1] if name in pairs else value for name, value in expected.items()},
        )
    if not isinstance(got, list) or not isinstance(expected, list):
        return got, expected
    left, right = set(range(len(got))), set(range(len(expected)))
    first, second = [], []
    for _, i, j in sorted(_alike(got, expected), key=lambda pair: -pair[0]):
        if i in left and j in right:
            left.remove(i)
            right.remove(j)
            one, other = aligned(got[i], expected[j])
            first.append(one)
            second.append(other)
    return first + [got[i] for i in sorted(left)], second + [expected[j] for j in sorted(right)]


def _alike(got: list[Any], expected: list[Any]) -> Iterator[tuple[float, int, int]]:
    """How alike each item of one list is to each of the other, 0 to 1, with their places."""
    first, second = [Counter(leaves(one)) for one in got], [Counter(leaves(other)) for other in expected]
    nested = [_holds_list(one) for one in got]
    for i, one in enumerate(got):
        for j, other in enumerate(expected):
            a, b = first[i], second[j]
            if nested[i] and _holds_list(other):
                a, b = (Counter(leaves(side)) for side in aligned(one, other))
            yield 2 * (a & b).total() / (a.total() + b.total()), i, j


def _holds_list(value: Any) -> bool:
    return any(isinstance(step, int) for path, _, _ in leaves(value) for step in path)


def path_text(path: Path) -> str:
    """A path as people write it: `items[0].name`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "the value"


def _comparable(leaf: Any, text: Callable[[str], str]) -> tuple[str, Any]:
    """A leaf's JSON type, and its value as compared; an empty object or list is all said by its type."""
    if isinstance(leaf, str):
        return "text", text(leaf)
    if isinstance(leaf, bool) or leaf is None:
        return "boolean" if leaf is not None else "null", leaf
    return ("number", leaf) if isinstance(leaf, int | float) else (type(leaf).__name__, None)


class JsonValid(Correctness):
    """True when the whole output is one JSON value."""

    def score(self, row: EvalRow, output: Output) -> Score:  # noqa: ARG002 - a scorer's signature
        _, problem = read_json(output.text)
        return Score(problem is None, problem or "")


class JsonSchema(Correctness):
    """True when the output is JSON that follows a JSON schema, including the schema's formats (date, uuid …).

    schema: the schema; a suite may use `schema_file` instead, a path relative to the suite. A format that cannot be
    checked, or a reference to another address, is an error when the suite is loaded.
    """

    schema_: Mapping[str, Any] = Field(alias="schema")
    _validator: Any = None

    def model_post_init(self, _: Any) -> None:
        """Raises UsageError."""
        self._validator = schema_validator(self.schema_)

    def score(self, row: EvalRow, output: Output) -> Score:  # noqa: ARG002 - a scorer's signature
        value, problem = read_json(output.text)
        if problem is None:
            first = next(iter(self._validator.iter_errors(value)), None)
            problem = first.message if first is not None else None
        return Score(problem is None, problem or "")


def _expected_json(row: EvalRow, kinds: type | UnionType = dict | list) -> Any:
    expected = row.expectations.get("expected_json")
    if not isinstance(expected, kinds) or not expected:
        raise MissingExpectation(f"row {row.id}: expectations hold no expected_json")
    return expected


class JsonFields(Correctness):
    """Share of the fields of `expected_json` that the output has with the same value, from 0 to 1.

    Text is compared after normalisation, at any depth; numbers are compared by value, so 1.0 equals 1 and −0.0 equals
    0, but true and "1" do not equal 1. An output that is not a JSON object scores 0. Not counted: unexpected fields.
    """

    def score(self, row: EvalRow, output: Output) -> Score:
        expected = _expected_json(row, dict)
        value, problem = read_json(output.text)
        if not isinstance(value, dict):
            return Score(0.0, problem or "not a JSON object")
        wrong = [name for name in expected if name not in value or not same_json(value[name], expected[name])]
        return Score(1 - len(wrong) / len(expected), f"wrong: {', '.join(wrong)}" if wrong else "")


class JsonF1(Correctness):
    """F1 of the leaves that the output shares with `expected_json`, from 0 to 1: missing leaves lower recall, invented
    ones lower precision.

    A leaf is a value with its path (`items[0].name`), or an empty object or list. Values are compared as by
    `json_fields`. ordered: false accepts list items in any order; each is compared with the most similar expected item.
    """

    ordered: bool = True

    def score(self, row: EvalRow, output: Output) -> Score:
        got, expected, problem = self._leaves(output, _expected_json(row))
        shared = (got & expected).total()
        amiss = (("missing or wrong", expected - got), ("not expected", got - expected))
        told = [
            f"{what}: {', '.join(sorted({path_text(path) for path, _, _ in counted}))}"
            for what, counted in amiss
            if counted
        ]
        return Score(2 * shared / (got.total() + expected.total()), problem or "; ".join(told))

    def findings(self, results: Iterable[RowResult]) -> RunFindings:
        """micro_precision, micro_recall, micro_f1: over the leaves of all rows together."""
        shared = n_got = n_expected = 0
        for result, wanted in expected_rows(results, _expected_json):
            got, expected, _ = self._leaves(result.output, wanted)
            shared += (got & expected).total()
            n_got, n_expected = n_got + got.total(), n_expected + expected.total()
        if not n_expected:
            return RunFindings()
        precision, f1 = shared / n_got if n_got else 0.0, 2 * shared / (n_got + n_expected)
        return RunFindings({"micro_precision": precision, "micro_recall": shared / n_expected, "micro_f1": f1})

    def _leaves(self, output: Output, expected: Any) -> tuple[Counter[Leaf], Counter[Leaf], str | None]:
        value, problem = read_json(output.text)
        if problem is None and not self.ordered:
            value, expected = aligned(value, expected)
        return Counter() if problem else Counter(leaves(value)), Counter(leaves(expected)), problem


Call = Mapping[str, Any]


class ToolCalls(Correctness):
    """F1 between the calls that the output makes and those in `expectations.tool_calls`, with repetitions counted, from
    0 to 1; 1 when no call is expected and none is made.

    A call is right when its name and all its arguments are right: a missing or surplus argument makes it wrong. Values
    are compared with their JSON types, so 1.0 equals 1, but "1" and true do not. ordered: true counts only calls in the
    expected order. exact: true scores only whether all calls are right.
    """

    ordered: bool = False
    exact: bool = False

    def score(self, row: EvalRow, output: Output) -> Score:
        wanted = expected_calls(row)
        made, problem = calls_of(output)
        got, expected = [_key(call) for call in made], [_key(call) for call in wanted]
        right = _in_order(got, expected) if self.ordered else (Counter(got) & Counter(expected)).total()
        all_calls = len(got) + len(expected)
        value = 2 * right / all_calls if all_calls else 1.0
        told = f"{right} of {len(expected)} expected calls, {len(got)} made" + (f"; {problem}" if problem else "")
        return Score(value == 1.0 if self.exact else value, told)


def _key(call: Call) -> Hashable:
    """The call as compared: the same for equal arguments in any order."""
    return call["name"], frozenset(Counter(leaves(call["args"], text=str)).items())


def _in_order(got: Sequence[Hashable], expected: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence."""
    lengths = [0] * (len(expected) + 1)
    for call in got:
        before = 0
        for position, wanted in enumerate(expected, 1):
            longer = before + 1 if call == wanted else max(lengths[position], lengths[position - 1])
            before, lengths[position] = lengths[position], longer
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
    listed: Any = output.tool_calls
    if not listed:
        value, problem = read_json(output.text)
        if problem is not None:
            return [], f"no tool calls: {problem}"
        listed = value.get("tool_calls", value) if isinstance(value, dict) else value
    calls = [_tool_call(call) for call in (listed if isinstance(listed, list) else [listed])]
    made = [call for call in calls if call is not None]
    return (made, "") if len(made) == len(calls) else ([], "no tool calls: the JSON is not of their shape")


def _tool_call(value: Any) -> dict[str, Any] | None:
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    given: Any = next((function[key] for key in ("args", "arguments", "parameters") if key in function), None)
    if given is None or given == "":
        given = {}
    arguments = read_json(given)[0] if isinstance(given, str) else given
    return {"name": function["name"], "args": arguments} if isinstance(arguments, dict) else None


TYPES: dict[str, Callable[..., Scorer]] = {
    "json_valid": JsonValid,
    "json_schema": JsonSchema,
    "json_fields": JsonFields,
    "json_f1": JsonF1,
    "tool_calls": ToolCalls,
}
