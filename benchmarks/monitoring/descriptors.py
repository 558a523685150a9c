"""The thirteen descriptors of the mandate: ours against plain Evidently's, same rows, one after the other.

    python -m benchmarks.monitoring.descriptors [--rows 100000] [--batch 1000]

Each side runs in a process of its own, so that peak memory is its own too. Evidently gets its best form: all rows in
one frame, its downloads switched off, its data on disk. Ours reads log records in batches, as the monitor does.

Every value is compared, but for two descriptors that mean something else on purpose: words with digits and of all
scripts count, and sentiment follows `vaderSentiment` (and is compared with that package) where Evidently takes nltk's
port of it. Where WordNet or a word list is missing (see `nltk_data`), the descriptors that need them are left out on
both sides. Exits 1 when ours takes more than a fifth of Evidently's time, or a value differs.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.monitoring.nltk_data import add_vader, add_wordnet, add_words, find_wordnet, find_words
from benchmarks.monitoring.rows import make_answers

CRITERION = 5.0
"""Ours must be this many times as fast."""

TRIGGERS = ["terrible", "hate", "refund"]
EMAIL = r"[\w.+-]+@[\w-]+\.\w+"
NEED_WORDNET = ("oov", "trigger_lemma")
NAMES = (
    "length", "words", "sentences", "nonletter", "has_link", "refusal", "has_email", "is_json", "begins", "sentiment",
    "oov", "trigger_lemma", "trigger_nolemma",
)  # fmt: skip

DIFFERING = {
    "words": "digits and signs between letters",
    "sentiment": "vaderSentiment's rules, not those of nltk's port",
}
"""Descriptors that mean something else than Evidently's, and in what."""

_ORIGINALS = 500
"""Rows whose sentiment is compared with `vaderSentiment`'s own."""

Columns = dict[str, "np.ndarray[Any, np.dtype[np.float32]]"]


def our_tables() -> dict[str, dict[str, Any]]:
    words, wordnet = str(find_words()), str(find_wordnet())
    return {
        "length": {"kind": "length"},
        "words": {"kind": "words"},
        "sentences": {"kind": "sentences"},
        "nonletter": {"kind": "non_letter"},
        "has_link": {"kind": "link"},
        "refusal": {"kind": "contains", "items": ["I'm sorry", "I cannot"]},
        "has_email": {"kind": "regex", "pattern": EMAIL},
        "is_json": {"kind": "valid_json"},
        "begins": {"kind": "begins", "texts": ["I"]},
        "sentiment": {"kind": "sentiment"},
        "oov": {"kind": "oov", "words": words, "wordnet": wordnet},
        "trigger_lemma": {"kind": "trigger_words", "words": TRIGGERS, "lemmatise": True, "wordnet": wordnet},
        "trigger_nolemma": {"kind": "trigger_words", "words": TRIGGERS},
    }


def their_descriptors(kinds: Any) -> dict[str, Callable[[], Any]]:
    def made(kind: str, name: str, **parameters: Any) -> Callable[[], Any]:
        return lambda: getattr(kinds, kind)("text", **parameters, alias=name)

    return {
        "length": made("TextLength", "length"),
        "words": made("WordCount", "words"),
        "sentences": made("SentenceCount", "sentences"),
        "nonletter": made("NonLetterCharacterPercentage", "nonletter"),
        "has_link": made("ContainsLink", "has_link"),
        "refusal": made("Contains", "refusal", items=["I'm sorry", "I cannot"]),
        "has_email": made("RegExp", "has_email", reg_exp=EMAIL),
        "is_json": made("IsValidJSON", "is_json"),
        "begins": made("BeginsWith", "begins", prefix="I"),
        "sentiment": made("Sentiment", "sentiment"),
        "oov": made("OOVWordsPercentage", "oov"),
        "trigger_lemma": made("TriggerWordsPresent", "trigger_lemma", words_list=TRIGGERS),
        "trigger_nolemma": made("TriggerWordsPresent", "trigger_nolemma", words_list=TRIGGERS, lemmatize=False),
    }


def run_ours(rows: int, batch: int, names: list[str], out: Path) -> dict[str, float]:
    """Seconds for each descriptor alone, and under `all` for all of them together, which is how the monitor runs."""
    from llmops.production_log import LogRecord
    from monitoring.descriptors import DescriptorSet

    tables = our_tables()
    at = datetime(2026, 1, 1, tzinfo=UTC)
    answers = make_answers(rows)
    report_memory("before")

    def records() -> Iterator[list[LogRecord]]:
        for start in range(0, rows, batch):
            yield [LogRecord(f"r{start}", at, 200, "ok", output=text) for text in answers[start : start + batch]]

    def timed(chosen: list[str]) -> tuple[float, Columns]:
        declared = DescriptorSet.from_config(
            [{"name": name, "of": "output", **tables[name]} for name in chosen], file=Path.cwd() / "bench.toml"
        )
        seconds, parts = 0.0, []
        for some in records():
            started = time.perf_counter()
            described = declared.describe(some)
            seconds += time.perf_counter() - started
            assert not described.failures, described.reasons
            parts.append(described.columns)
        return seconds, {name: np.concatenate([part[name] for part in parts]) for name in chosen}

    timed_all, columns = timed(names)
    report_memory("after all")
    seconds = {name: timed([name])[0] for name in names}
    np.savez(out, **columns)  # type: ignore[arg-type]
    return {**seconds, "all": timed_all}


def run_theirs(rows: int, names: list[str], out: Path) -> dict[str, float]:
    """Seconds for each descriptor in turn; their sum is what plain Evidently takes for all."""
    import nltk
    import pandas as pd

    from monitoring.evidently_import import evidently, without_nltk_downloads

    with tempfile.TemporaryDirectory() as folder:
        add_vader(Path(folder))
        words, wordnet = find_words(), find_wordnet()
        if words and wordnet:
            add_words(Path(folder), words)
            add_wordnet(Path(folder), wordnet)
        nltk.data.path = [folder]
        library = evidently()
        frame = pd.DataFrame({"text": make_answers(rows)})
        report_memory("before")
        seconds, columns = {}, {}
        with without_nltk_downloads():
            for name, make in their_descriptors(library.descriptors).items():
                if name in names:
                    started = time.perf_counter()
                    dataset = library.Dataset.from_pandas(
                        frame, data_definition=library.DataDefinition(text_columns=["text"]), descriptors=[make()]
                    )
                    seconds[name] = time.perf_counter() - started
                    columns[name] = dataset.as_dataframe()[name].to_numpy().astype(np.float32)
                    print(f"  Evidently {name}: {seconds[name]:.2f} s", file=sys.stderr, flush=True)
    np.savez(out, **columns)
    return {**seconds, "all": sum(seconds.values())}


def report_memory(when: str) -> None:
    print(f"  peak memory {when}: {peak_mib():.0f} MiB", file=sys.stderr, flush=True)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_side(side: str, arguments: argparse.Namespace, names: list[str], out: Path) -> dict[str, Any]:
    """One side in a process of its own: `{"seconds": {name: s}, "peak_mib": m}`."""
    command = [sys.executable, "-m", "benchmarks.monitoring.descriptors", "--side", side, "--out", str(out)]
    command += ["--rows", str(arguments.rows), "--batch", str(arguments.batch), "--names", ",".join(names)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(ours: Path, theirs: Path, names: list[str]) -> list[str]:
    """What differs, one line each."""
    mine, other = np.load(ours), np.load(theirs)
    differing = []
    for name in names:
        apart = ~np.isclose(mine[name], other[name], rtol=1e-5, atol=1e-4)
        if name in DIFFERING:
            print(f"{name} differs on {apart.mean():.1%} of rows, as meant: {DIFFERING[name]}")
        elif apart.any():
            first = int(np.argmax(apart))
            differing.append(
                f"{name}: {apart.sum()} values, first row {first}: {mine[name][first]}, {other[name][first]}"
            )
    return differing


def compare_sentiment(ours: Path, rows: int) -> list[str]:
    """Rows whose sentiment is not the package's to 1e-4."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyser, mine = SentimentIntensityAnalyzer(), np.load(ours)["sentiment"]
    texts = make_answers(rows)[:_ORIGINALS]
    original = [analyser.polarity_scores(text[:2_000])["compound"] for text in texts]
    wrong = np.flatnonzero(np.abs(mine[: len(texts)] - original) > 1e-4)
    print(f"sentiment equals vaderSentiment's on {len(texts) - len(wrong)} of {len(texts)} rows")
    return [f"sentiment: row {row}" for row in wrong[:1]]


def show(ours: dict[str, Any], theirs: dict[str, Any], names: list[str], rows: int) -> float:
    print(f"\n{'descriptor':<18}{'Evidently, s':>14}{'ours, s':>10}{'ratio':>8}{'ours, rows/s':>14}")
    for name in (*names, "all"):
        their, our = theirs["seconds"][name], ours["seconds"][name]
        label = "all, in one pass" if name == "all" else name
        print(f"{label:<18}{their:>14.2f}{our:>10.2f}{their / our:>8.1f}{rows / our:>14,.0f}")
    print(f"{'peak memory, MiB':<18}{theirs['peak_mib']:>14.0f}{ours['peak_mib']:>10.0f}")
    return float(theirs["seconds"]["all"] / ours["seconds"]["all"])


def main() -> int:
    parser = argparse.ArgumentParser(description="Descriptors: ours against plain Evidently's.")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=1_000, help="records that ours describes at a time")
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--names", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        names = arguments.names.split(",")
        ours = arguments.side == "ours"
        run = run_ours(arguments.rows, arguments.batch, names, arguments.out) if ours else None
        seconds = run if run is not None else run_theirs(arguments.rows, names, arguments.out)
        print(json.dumps({"seconds": seconds, "peak_mib": peak_mib()}))
        return 0
    complete = find_words() is not None and find_wordnet() is not None
    names = [name for name in NAMES if complete or name not in NEED_WORDNET]
    print(f"{arguments.rows:,} answers, {len(names)} descriptors")
    if not complete:
        print(f"left out on both sides, for want of WordNet or a word list: {', '.join(NEED_WORDNET)}")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "ours.npz"), Path(folder, "theirs.npz")
        ours = run_side("ours", arguments, names, out[0])
        theirs = run_side("theirs", arguments, names, out[1])
        ratio = show(ours, theirs, names, arguments.rows)
        differing = compare(*out, names) + compare_sentiment(out[0], arguments.rows)
    for line in differing:
        print(f"values differ: {line}")
    met = ratio >= CRITERION and not differing
    print(f"criterion: at most 1/{CRITERION:g} of Evidently's time, equal values: {ratio:.1f} times as fast; ", end="")
    print("met" if met else "MISSED")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
