#!/bin/sh
# evidently 0.7.23: without lemmatising, IncludesWords finds a word inside other words: "hate" in "Whatever".
#
# A good guess: a descriptor that asks for words compares words, as it does when it lemmatises. Seen: it searches for the
# text anywhere, so short words fire on much that has nothing to do with them ("art" in "start"). A list of words to
# watch for needs a regular expression with word boundaries instead.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check evidently==0.7.23 "pandas<3"
DO_NOT_TRACK=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import pandas as pd
from evidently import DataDefinition, Dataset
from evidently.descriptors import IncludesWords

texts = ["Whatever you like", "I hate it", "start here", "modern art", "nothing of it"]
wanted = {"hate": [True, True, False, False, False], "art": [False, False, True, True, False]}
found = Dataset.from_pandas(
    pd.DataFrame({"answer": texts}),
    data_definition=DataDefinition(text_columns=["answer"]),
    descriptors=[IncludesWords("answer", [word], lemmatize=False, alias=word) for word in wanted],
).as_dataframe()
print(found.to_string(index=False))
for word, expected in wanted.items():
    assert found[word].tolist() == expected
PYTHON
