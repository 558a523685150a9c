from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.evaluation.reports.prompt_diff import Gap, prompt_diff, prompt_lines

quick = settings(max_examples=60, deadline=None)

TURNS = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": st.text("ab \n")}))


def turns(*contents):
    return [{"role": "user", "content": content} for content in contents]


def test_a_line_that_changed_a_little_has_its_words_marked():
    found = prompt_diff(turns("Answer the question briefly."), turns("Answer the question at once."))
    assert [(line.side, line.parts) for line in found] == [
        ("both", (("# user", False),)),
        ("a", (("Answer the question ", False), ("briefly", True), (".", False))),
        ("b", (("Answer the question ", False), ("at once", True), (".", False))),
    ]


def test_lines_that_have_nothing_in_common_are_whole():
    found = prompt_diff(turns("Short."), turns("Something else entirely, and long"))
    assert [(line.side, line.parts) for line in found[1:]] == [
        ("a", (("Short.", False),)),
        ("b", (("Something else entirely, and long", False),)),
    ]


def test_long_stretches_that_both_share_are_folded_and_short_ones_are_not():
    shared = "\n".join(f"line {number}" for number in range(20))
    found = prompt_diff(turns("old", shared), turns("new", shared))
    (gap,) = [part for part in found if isinstance(part, Gap)]
    assert gap.lines[-1] == "line 19"
    assert len(gap.lines) == 19
    assert not any(isinstance(part, Gap) for part in prompt_diff(turns("old", "x"), turns("new", "x")))


@quick
@given(TURNS, TURNS)
def test_both_prompts_can_be_read_back_from_the_diff(a, b):
    sides = {"a": [], "b": []}
    for part in prompt_diff(a, b):
        for side, lines in sides.items():
            if isinstance(part, Gap):
                lines.extend(part.lines)
            elif part.side in ("both", side):
                lines.append("".join(text for text, _ in part.parts))
    assert sides == {"a": prompt_lines(a), "b": prompt_lines(b)}
