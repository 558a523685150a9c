import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import UsageError
from llmops.traffic_policy import STICKY, TrafficPolicy, parse_share

SHARES = st.floats(0, 1)


@given(SHARES, SHARES, st.sampled_from(STICKY))
def test_a_policy_survives_its_text(canary, shadow, sticky):
    policy = TrafficPolicy(canary, shadow, sticky)
    assert TrafficPolicy.from_text(policy.to_text()) == policy
    assert str(TrafficPolicy(0.125, 1, "key")) == "canary 12.5%, shadow 100%, sticky by key"
    assert (policy.rests, TrafficPolicy().rests) == (canary == shadow == 0, True)


@given(st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(repr))
def test_any_other_text_is_an_error_of_ours(text):
    with pytest.raises(UsageError):
        TrafficPolicy.from_text(f"[{text}")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"canary": 1.01}, "canary: must be a share from 0 to 1, not 1.01"),
        ({"canary": True}, "canary: must be a share"),
        ({"shadow": "10%"}, "shadow: must be a share from 0 to 1, not '10%'"),
        ({"shadow": math.nan}, "shadow: must be a share"),
        ({"sticky": "ip"}, "sticky: must be user, key or request, not 'ip'"),
        ({"weight": 1}, "weight: unknown field of a traffic policy; known: canary, shadow, sticky"),
        ([], "traffic policy: must be an object, not list"),
    ],
)
def test_errors_name_the_field(values, problem):
    with pytest.raises(UsageError, match=problem):
        TrafficPolicy.from_mapping(values)


def test_shares_are_read_as_people_write_them_and_what_is_none_is_refused_by_name():
    read = {"10%": 0.1, "0.1": 0.1, " 12.5% ": 0.125, "100%": 1, "1": 1, "0": 0, "0%": 0}
    assert {text: parse_share("--canary", text) for text in read} == read
    for text in ("10", "-1%", "101%", "ten", "", "%", "nan", "inf%", "10%%"):
        with pytest.raises(UsageError, match=r"--canary: .* is not a share; give 0% to 100%, or 0 to 1"):
            parse_share("--canary", text)
