import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.evaluation.reports.html import LONGEST_TEXT, html, showable
from llmops.pages.numbers import printable

quick = settings(max_examples=60, deadline=None)


def contents(report):
    (block,) = re.findall(r'<script type="application/json" id="contents">(.*?)</script>', html(report), re.DOTALL)
    return block


@quick
@given(text=st.text(st.characters(codec=None)))
def test_any_text_reads_back_as_far_as_it_is_printable_and_none_ends_the_block(make_report, make_row, text):
    report = make_report(rows=[make_row(1, output_a=text, output_b=f"</script><!--{text}", tags={text: text})])
    block = contents(report)
    assert "<" not in block
    (row,) = json.loads(block)["rows"]
    shown = printable(text)
    assert (row["output_a"], row["output_b"], row["tags"]) == (shown, f"</script><!--{shown}", {shown: shown})


def test_the_block_says_what_the_script_needs_to_know_of_the_metrics(make_report):
    about = json.loads(contents(make_report()))["about"]
    assert about["primary"] == "correct"
    assert about["directions"] == {"correct": True, "words": None}
    assert about["names"] == {"a": "qa@1,tiny@1", "b": "qa@2,tiny@1"}


def test_long_texts_are_cut_and_numbers_that_json_lacks_are_named():
    shown = showable({"text": "x" * (LONGEST_TEXT + 5), "scores": (float("nan"), float("inf"), 1.5, None, True)})
    assert shown["text"].endswith("x … (5 characters more)")
    assert shown["scores"] == ["nan", "inf", 1.5, None, True]
