#!/bin/sh
# rouge-score 0.1.2: two equal texts score 0 where no letter is ASCII, and a text of mixed scripts is scored by its ASCII
# words alone.
#
# A good guess: ROUGE of a text against itself is 1 in any language. Seen: the default tokenizer turns everything but
# a to z and 0 to 9 into spaces, so that nothing is left of a Russian or Greek answer; an accented letter cuts its word in
# two. A wrong Russian answer with the right year scores 1.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rouge-score==0.1.2
"$folder/venv/bin/python" - <<'PYTHON'
from rouge_score.rouge_scorer import RougeScorer

scorer = RougeScorer(["rougeL"])


def rouge(expected: str, answer: str) -> float:
    return scorer.score(expected, answer)["rougeL"].fmeasure


pairs = [("Moscow", "Moscow"), ("Москва", "Москва"), ("в 1889 году", "нет, это было в 1889"), ("café", "caf")]
for expected, answer in pairs:
    print(f"{expected!r} against {answer!r}: {rouge(expected, answer):.2f}")

assert [rouge(*pair) for pair in pairs] == [1.0, 0.0, 1.0, 1.0]
PYTHON
