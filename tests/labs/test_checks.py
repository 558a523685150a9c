"""`llmops lab check`: answers, and what an untouched home is told; test_cli.py, where labs run, has the others."""

import pytest

from labs.checks import Question, check_module
from labs.checks.check import MODULES
from llmops.errors import BadFile, UsageError
from llmops.settings import Settings
from tests.registered_home import register_tiny, write_prompts, write_suite


@pytest.mark.parametrize(
    ("value", "answer", "right"),
    [
        (0.9887, 0.989, True),
        (0.9887, "0.989", True),
        (0.9887, 0.98, False),
        (0.9887, "nearly all", False),
        (20, 20, True),
        (0.2889, "28.9%", True),
        (0.2889, "30%", False),
        (108571, "108,571", True),
        (108571, "108,57", False),
        ("batch 07", "Batch 07", True),
        ("batch 07", "07", True),
        ("batch 07", 7, True),
        ("batch 07", 8, False),
        ("2012-01, 2012-03", "2012-03,2012-01", True),
        ("2012-01, 2012-03", "2012-01", False),
        (None, 3, False),
    ],
)
def test_an_answer_is_right_within_the_tolerance_and_lists_in_any_order(value, answer, right):
    assert Question("key", "asks?", value, 0.0006).accepts(answer) is right


@pytest.mark.parametrize("module", MODULES)
def test_an_untouched_home_is_told_what_to_do_next_and_nothing_is_made_in_it(module, llmops, home):
    done = llmops("lab", "check", module)
    assert done.code == 1
    found = llmops("lab", "check", module, "--json").json
    assert not found["done"]
    for each in found["achievements"]:
        assert not each["done"]
        assert f"missing    {each['what']}: {each['next']}" in done.out
    assert {each["state"] for each in found["questions"]} == {"unanswered"}
    assert not home.exists()


def test_answers_are_kept_beside_those_of_other_modules_and_judged_once_the_home_can_tell(llmops, home):
    llmops("lab", "check", "bike", "--answer", "worst=2012-03")
    found = llmops("lab", "check", "wine", "--answer", "alarm=batch 07", "--answer", "accuracy=0.5", "--json").json
    states = {each["key"]: (each["answer"], each["state"]) for each in found["questions"]}
    assert (states["alarm"], states["accuracy"]) == (("batch 07", "not yet known"), (0.5, "not yet known"))
    again = {each["key"]: each["answer"] for each in llmops("lab", "check", "wine", "--json").json["questions"]}
    assert (again["alarm"], again["accuracy"], again["wins"]) == ("batch 07", 0.5, None)
    assert (home / "answers.toml").read_text().startswith('[bike]\nworst = "2012-03"\n')


def test_a_half_done_home_of_the_module_on_llmops_has_what_was_done_and_is_told_the_rest(llmops, home, tmp_path):
    register_tiny(Settings(home=home))
    write_prompts(tmp_path / "prompts", "messages")
    write_suite(tmp_path / "eval_sets", "messages", 12, "messages")
    llmops("prompts", "register")
    llmops("eval", "run", "messages")
    found = llmops("lab", "check", "llmops", "--json").json
    few, more, *others = found["achievements"]
    assert (few["done"], "on 12 rows" in few["found"]) == (True, True)
    assert {each["found"] for each in (more, *others)} == {"nothing yet"}
    llmops("lab", "check", "llmops", "--answer", "wins=3", "--answer", "entries=-1")
    states = {each["key"]: each["state"] for each in llmops("lab", "check", "llmops", "--json").json["questions"]}
    assert (states["wins"], states["entries"], states["gain"]) == ("not yet known", "not yet known", "unanswered")
    (tmp_path / "eval_sets" / "messages.toml").unlink()
    few, *_ = llmops("lab", "check", "llmops", "--json").json["achievements"]
    assert (few["done"], "messages" in few["found"]) == (False, True), "the folder has no such suite"


def test_what_cannot_be_checked_is_named(llmops, tmp_path):
    llmops("lab", "check", "beer").refused(2, "no module 'beer'; there are wine, bike")
    llmops("lab", "check", "wine", "--answer", "colour=red").refused(2, "--answer colour: no question of module wine")
    llmops("lab", "check", "wine", "--answer", "wins=[1]").refused(2, "--answer wins: must be a text or a number")
    settings = Settings(home=tmp_path)
    for text, problem in (
        ("[wine", "is not TOML"),
        ("wins = 3", r"wins: must stand in a table, such as \[wine\]"),
        ("[wine]\nwins = true", "wine.wins: must be a text or a number"),
    ):
        (tmp_path / "answers.toml").write_text(text)
        with pytest.raises(BadFile, match=problem):
            check_module("wine", settings)
    with pytest.raises(UsageError, match="no module"):
        check_module("beer", settings)
