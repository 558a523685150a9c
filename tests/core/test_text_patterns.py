import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.text_patterns import PERSONAL_SOURCES, holds_personal, personal_spans, redact


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("write to jo@example.org.", "write to [EMAIL]."),
        ("call (212) 555-0143 or +49 171 1234567", "call [PHONE] or [PHONE]"),
        ("pay 4111 1111 1111 1111 now", "pay [CARD] now"),
        ("to GB82 WEST 1234 5698 7654 32 PLEASE", "to [IBAN] PLEASE"),
        ("ssn 123-45-6789", "ssn [SSN]"),
        ("at 192.168.0.1 and 2001:db8::ff00:42:8329", "at [IPV4] and [IPV6]"),
        ("card 4111 1111 1111 1112 is none", "card 4111 1111 1111 1112 is none"),
        ("nothing here, 12:30, 3.14", "nothing here, 12:30, 3.14"),
    ],
)
def test_personal_data_gives_way_to_its_kind(text, redacted):
    assert redact(text) == (redacted, redacted.count("["))


def test_kinds_that_overlap_leave_nothing_of_either():
    text = "0171 123456@example.org"
    assert redact(text)[0].count("example") == 0


@given(st.text("ab1 2345@.:-+GB", max_size=60))
def test_every_piece_is_counted_and_nothing_else_changes(text):
    clean, count = redact(text)
    assert (count == 0) == (clean == text)
    assert count == sum(clean.count(f"[{kind.upper()}]") for kind in PERSONAL_SOURCES)


def test_spans_say_where():
    assert list(personal_spans("email", "to jo@example.org")) == [(3, 17)]
    assert not holds_personal("email", "jo at example.org")
