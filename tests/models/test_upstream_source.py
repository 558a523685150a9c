from __future__ import annotations

import pytest

from llmops.errors import UsageError
from llmops.models.sources import UpstreamServer, UpstreamSource


@pytest.mark.parametrize(
    ("source", "keys", "servers", "model"),
    [
        ("openai:http://a/v1#m", None, [("http://a/v1", 1, None)], "m"),
        ("openai:http://a/v1/#m", "KEY", [("http://a/v1", 1, "KEY")], "m"),
        ("openai:https://a:8443/x,y/v1#org/m#2", None, [("https://a:8443/x,y/v1", 1, None)], "org/m#2"),
        ("openai:http://a/v1*3,http://b/v1#m", None, [("http://a/v1", 3, None), ("http://b/v1", 1, None)], "m"),
        ("openai:http://a,https://b*2#m", "KEY", [("http://a", 1, "KEY"), ("https://b", 2, "KEY")], "m"),
        ("openai:http://a,https://b#m", "A,B", [("http://a", 1, "A"), ("https://b", 1, "B")], "m"),
        ("openai:http://a,https://b#m", "A, -", [("http://a", 1, "A"), ("https://b", 1, None)], "m"),
    ],
)
def test_a_source_names_servers_weights_keys_and_the_model(source, keys, servers, model):
    found = UpstreamSource.parse(source, keys)
    assert found == UpstreamSource(tuple(UpstreamServer(*server) for server in servers), model)


@pytest.mark.parametrize(
    ("source", "keys", "problem"),
    [
        ("openai:http://a/v1", None, "is not of the form openai:http://HOST/v1#MODEL"),
        ("openai:a,http://b#m", None, "is not of the form"),
        ("openai:#m", None, "is not of the form"),
        ("openai:http://a b#m", None, "is not of the form"),
        ("file:x", None, "is not of the form"),
        ("openai:http://a*0,http://b#m", None, "a weight is 1 or more"),
        ("openai:http://a,http://a/#m", None, "names a server twice"),
        ("openai:http://a,http://b#m", "A,B,C", "names 3 keys for 2 servers"),
        ("openai:http://a#m", "A,B", "names 2 keys for 1 servers"),
        ("openai:http://a,http://b#m", "A,", "a key's variable has no name"),
    ],
)
def test_what_is_no_source_says_what_is(source, keys, problem):
    with pytest.raises(UsageError, match=problem):
        UpstreamSource.parse(source, keys)


@pytest.mark.parametrize(
    "source",
    [
        "openai:http://user:hunter2@127.0.0.1:9/v1#m",
        "openai:https://hunter2@host/v1#m",
        "openai:http://good/v1*2,http://user:hunter2@bad/v1*3#m",
        "openai:http://:hunter2@host#m",
        "openai:http://user:hunter2@host/v1",
    ],
)
def test_a_source_with_a_password_is_refused_and_not_repeated(source):
    with pytest.raises(UsageError, match="no user and password") as refused:
        UpstreamSource.parse(source)
    assert "hunter2" not in str(refused.value)


def test_an_at_sign_in_a_models_name_or_a_path_is_no_password():
    assert UpstreamSource.parse("openai:http://host/v1/@team#org/model@2").model == "org/model@2"
