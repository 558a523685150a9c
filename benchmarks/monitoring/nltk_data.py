"""nltk's data for Evidently's descriptors, made from what is on the machine; nothing is downloaded.

VADER's lexicon comes from the package `vaderSentiment`. WordNet and a list of English words come from Debian's packages
`wordnet-base`, `wordnet-sense-index` and `wamerican`, installed or unpacked without installing:

    mkdir -p ~/.cache/llmops-bench/words && cd ~/.cache/llmops-bench/words
    apt-get download wordnet-base wordnet-sense-index wamerican && for f in *.deb; do dpkg -x $f .; done
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

_ROOTS = (Path("/"), Path.home() / ".cache" / "llmops-bench" / "words")

# nltk wants the lexicographer files' names with their part of speech (lexnames(5WN)); Debian leaves the file out.
_LEXNAMES = (
    ("adj", 3, "all pert"),
    ("adv", 4, "all"),
    (
        "noun",
        1,
        "Tops act animal artifact attribute body cognition communication event feeling food group location"
        " motive object person phenomenon plant possession process quantity relation shape state substance time",
    ),
    (
        "verb",
        2,
        "body change cognition communication competition consumption contact creation emotion motion"
        " perception possession social stative weather",
    ),
    ("adj", 3, "ppl"),
)


def find_wordnet() -> Path | None:
    """A folder with all of WordNet's files that nltk reads, or None."""
    folders = [root / "usr/share/wordnet" for root in _ROOTS]
    return next((path for path in folders if (path / "index.sense").is_file() and (path / "noun.exc").is_file()), None)


def find_words() -> Path | None:
    """A file of English words, one a line, or None."""
    files = [root / "usr/share/dict/american-english" for root in _ROOTS]
    return next((path for path in files if path.is_file()), None)


def add_vader(folder: Path) -> None:
    """The lexicon, where nltk looks for it below `folder`."""
    import vaderSentiment

    lexicon = Path(vaderSentiment.__file__).parent / "vader_lexicon.txt"
    (folder / "sentiment").mkdir(parents=True)
    with zipfile.ZipFile(folder / "sentiment" / "vader_lexicon.zip", "w") as archive:
        archive.write(lexicon, "vader_lexicon/vader_lexicon.txt")


def add_words(folder: Path, words: Path) -> None:
    """A list of English words, as the corpus `words`, which nltk reads as ASCII."""
    target = folder / "corpora" / "words"
    target.mkdir(parents=True)
    listed = words.read_text(encoding="utf-8").splitlines()
    (target / "en").write_text("\n".join(word for word in listed if word.isascii()) + "\n")
    (target / "en-basic").write_text("")


def add_wordnet(folder: Path, wordnet: Path) -> None:
    """WordNet, as the corpus `wordnet`."""
    target = folder / "corpora" / "wordnet"
    shutil.copytree(wordnet, target)
    names = [(f"{part}.{name}", number) for part, number, listed in _LEXNAMES for name in listed.split()]
    lines = [f"{place:02d}\t{name}\t{number}\n" for place, (name, number) in enumerate(names)]
    (target / "lexnames").write_text("".join(lines))
