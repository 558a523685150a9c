#!/bin/sh
# sacrebleu 2.6.0: a perfect short answer scores 100 by `sentence_bleu` and 0 by `corpus_bleu`.
#
# A good guess: BLEU of a text against itself is 100, and a corpus of one sentence scores as the sentence does. Seen:
# `sentence_bleu` counts n-grams up to the length of the sentence (`effective_order`), `corpus_bleu` always up to four, and
# an answer of fewer than four tokens has none of those. Whoever scores short answers through the corpus function (ragas
# 0.4.3's BleuScore does) reads 0 for every right one.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check sacrebleu==2.6.0
"$folder/venv/bin/python" - <<'PYTHON'
import sacrebleu

for answer in ("Paris", "in 1889", "The Eiffel Tower stands in Paris ."):
    sentence = sacrebleu.sentence_bleu(answer, [answer]).score
    corpus = sacrebleu.corpus_bleu([answer], [[answer]]).score
    print(f"{answer!r}: sentence_bleu {sentence:.1f}, corpus_bleu {corpus:.1f}")

short, long = "Paris", "The Eiffel Tower stands in Paris ."
assert round(sacrebleu.sentence_bleu(short, [short]).score) == 100
assert sacrebleu.corpus_bleu([short], [[short]]).score == 0
assert round(sacrebleu.corpus_bleu([long], [[long]]).score) == 100
PYTHON
