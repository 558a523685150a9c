"""`llmops traffic`, and guards and challengers of `llmops release`."""

from pathlib import Path

import pytest

from llmops.generation import GenerationParameters
from llmops.settings import Settings
from tests.registered_home import release_of


@pytest.fixture
def app(home: Path) -> str:
    """An app of two releases, the first its champion."""
    registry, first = release_of(Settings(home=home))
    registry.release_versions.create(first.app, first.prompt, first.model, GenerationParameters(max_tokens=17))
    registry.release_versions.promote(first, why="first one")
    return first.app


def test_traffic_from_the_first_canary_to_the_promotion(llmops, app):
    nothing = llmops("traffic", "show", app, "--json").json
    assert nothing == {
        "app": app, "policy": None, "champion": "assistant@1", "challenger": None, "rests": False, "warning": None,
    }  # fmt: skip

    early = llmops("traffic", "set", app, "--canary", "10%", "--shadow", "100%", "--sticky", "key")
    assert early.code == 0
    assert "canary 10%, shadow 100%, sticky by key" in early.out
    assert "the policy rests: there is no challenger; `llmops release challenge assistant@V`" in early.out

    llmops("release", "challenge", "assistant@2")
    gone = llmops("release", "withdraw", app, "--json").json
    assert gone == {"app": app, "challenger": None, "was": "assistant@2"}
    made = llmops("release", "challenge", "assistant@2", "--json").json
    assert made == {"app": app, "challenger": "assistant@2", "was": None}
    more = llmops("traffic", "set", app, "--canary", "0.5", "--json").json
    assert more["policy"] == {"canary": 0.5, "shadow": 1.0, "sticky": "key"}
    assert (more["challenger"], more["rests"]) == ("assistant@2", False)

    assert llmops("promote", "assistant@2", "--force", "--why", "canary went well").code == 0
    after = llmops("traffic", "show", app, "--json").json
    assert (after["champion"], after["challenger"], after["rests"]) == ("assistant@2", None, True)

    cleared = llmops("traffic", "clear", app, "--json")
    assert (cleared.json["policy"], cleared.json["rests"]) == (None, False)
    assert "policy cleared" in cleared.err
    assert "there was no policy" in llmops("traffic", "clear", app).err
    for absent in (("set", "absent", "--canary", "1"), ("show", "absent"), ("clear", "tiny")):
        llmops("traffic", *absent).refused(3, f"no app '{absent[1]}' has releases")

    history = llmops("release", "show", app).out
    assert "traffic: canary 10%, shadow 100%, sticky by key → canary 50%, shadow 100%, sticky by key (set)" in history
    assert "challenge: nothing → assistant@2" in history


def test_a_canary_that_no_key_falls_to_is_warned_of_when_it_is_set_and_shown(llmops, app):
    assert llmops("traffic", "set", app, "--canary", "0.01%", "--json").json["warning"] is None  # it rests
    assert "warning" not in llmops("release", "challenge", "assistant@2").err  # without keys, requests are spread
    llmops("keys", "create", "--app", "another")
    llmops("keys", "create")
    told = llmops("traffic", "set", app, "--canary", "0.01%")
    assert "warning: requests that name no `user` of the one live key go to the champion alone" in told.out
    assert "have clients send `user`, or set --sticky request" in told.out
    assert llmops("traffic", "show", app, "--json").json["warning"] in told.out
    llmops("release", "withdraw", app)
    assert "to the champion alone" in llmops("release", "challenge", "assistant@2").err
    assert llmops("traffic", "set", app, "--sticky", "request", "--json").json["warning"] is None
    by_key = llmops("traffic", "set", app, "--sticky", "key", "--json").json["warning"]
    assert by_key.startswith("requests of the one live key go to the champion alone")


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["set", "assistant"], 2, "give --canary, --shadow or --sticky"),
        (["set", "assistant", "--canary", "110%"], 2, "--canary: '110%' is not a share"),
        (["set", "assistant", "--sticky", "ip"], 2, "'ip' is not one of 'user', 'key', 'request'"),
    ],
)
def test_mistakes_are_named(llmops, home, arguments, code, problem):
    result = llmops("traffic", *arguments)
    assert (result.code, problem in result.err) == (code, True), result.err


def test_guards_are_given_when_a_release_is_made_and_shown(llmops, app):
    content = ("release", "create", app, "--prompt", "qa@1", "--model", "tiny@1")
    assert llmops(*content, "--json").json["version"] == 1
    guarded = llmops(*content, "--guard", "redact-pii-engine", "--guard", "block=(?i)secret", "--json").json
    assert (guarded["version"], guarded["new"]) == (3, True)
    assert guarded["guards"] == {"redact_log": True, "redact_engine": True, "block": ["(?i)secret"]}
    assert [r["guards"] for r in llmops("release", "list", app, "--json").json["releases"]][:2] == [{}, {}]
    assert "redact-pii-engine, block=(?i)secret" in " ".join(llmops("release", "show", f"{app}@3").out.split())
    llmops(*content, "--guard", "block=(").refused(2, "block: '(' is not a regular expression")


SOURCE = ("--source", "openai:http://127.0.0.1:9/v1#big")


def test_prices_come_in_pairs_and_stay_with_the_version(llmops):
    llmops("models", "register", "big", *SOURCE, "--price-in", "2").refused(2, "--price-in and --price-out together")
    made = llmops("models", "register", "big", *SOURCE, "--price-in", "2", "--price-out", "8", "--json")
    assert made.code == 0
    assert made.json["models"][0]["provenance"] == {"prices": {"per_million_in": 2.0, "per_million_out": 8.0}}
