"""Compares this build with an earlier commit: `python -m benchmarks PART… --against REV`.

The commit is unpacked into a folder of its own. Each round measures both builds, in the other order the next time, with
the packages of this environment. Every figure is a cost, so a ratio (this build over the other) above 1 is worse. The
ratio is the geometric mean over rounds; its interval is Student's on the logarithms, 95 %. A figure is worse when its
interval lies wholly above 1.05.
"""

from __future__ import annotations

import io
import json
import math
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import t as student

from benchmarks.gateway import overhead
from benchmarks.gateway.contenders import Gateway, Home, ours, upstream
from benchmarks.labs import predict
from benchmarks.labs.bike_like import json_rows
from benchmarks.monitoring.descriptors import NAMES, NEED_WORDNET
from benchmarks.monitoring.nltk_data import find_wordnet, find_words

WORSE = 1.05
FEWEST_ROUNDS = 5
_REPOSITORY = Path(__file__).parent.parent

Figures = dict[str, float]
"""Costs by name: seconds, milliseconds or megabytes."""


@dataclass(frozen=True, slots=True)
class Build:
    """A tree of the product that runs with this environment's packages."""

    name: str
    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """Lets Python find this tree before the installed one and before the working directory."""
        return {"PYTHONPATH": str(self.folder), "PYTHONSAFEPATH": "1"}

    def run(self, *arguments: str) -> str:
        """What Python prints when run with these arguments. A missed criterion (exit 1) is not an error here."""
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode not in (0, 1) or not done.stdout:
            raise RuntimeError(f"{self.name}: {' '.join(arguments[:3])} ended with {done.returncode}")
        return done.stdout


Measure = Callable[[], Figures]


@contextmanager
def earlier(revision: str) -> Iterator[Build]:
    """The tree of a commit, in a temporary folder. Raises subprocess.CalledProcessError when there is none."""
    git = ["git", "-C", str(_REPOSITORY)]
    archive = subprocess.run([*git, "archive", revision], stdout=subprocess.PIPE, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="llmops-build-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        if (Path(folder) / "requirements.lock").read_bytes() != (_REPOSITORY / "requirements.lock").read_bytes():
            print(f"{revision} was locked to other packages; both builds run with this environment's")
        yield Build(revision, Path(folder))


@contextmanager
def _descriptors(build: Build, folder: Path) -> Iterator[Measure]:
    complete = find_words() is not None and find_wordnet() is not None
    names = [name for name in NAMES if complete or name not in NEED_WORDNET]
    arguments = ("--side", "ours", "--rows", "20000", "--out", str(folder / "values.npz"), "--names", ",".join(names))

    def measure() -> Figures:
        printed = build.run("-m", "benchmarks.monitoring.descriptors", *arguments)
        return {"20,000 rows, all descriptors, s": json.loads(printed.splitlines()[-1])["seconds"]["all"]}

    yield measure


@contextmanager
def _incremental(build: Build, _folder: Path) -> Iterator[Measure]:
    def measure() -> Figures:
        printed = build.run("-m", "benchmarks.monitoring.incremental", "--rows", "200000")
        costs = [line.split("   at most")[0].rsplit(maxsplit=1) for line in printed.splitlines()[1:]]
        # To add nothing takes a millisecond or none, which is all that is printed.
        timed = {name: float(value) for name, value in costs if name.endswith(", s")}
        return {name: seconds for name, seconds in timed.items() if not name.startswith("nothing added")}

    yield measure


@contextmanager
def _verdict(build: Build, _folder: Path) -> Iterator[Measure]:
    def measure() -> Figures:
        printed = json.loads(build.run("-m", "benchmarks.monitoring.verdict", "--rows", "500000"))
        names = {"verdict_seconds": "verdict, s", "verdict_cpu_seconds": "verdict, CPU s", "pin_seconds": "pin, s"}
        return {name: float(printed[key]) for key, name in names.items()}

    yield measure


@contextmanager
def _gateway(build: Build, folder: Path) -> Iterator[Measure]:
    with upstream(folder) as stub, ours(folder, stub.base, environment=build.environment) as gateway:
        yield lambda: _requests(gateway)


def _requests(gateway: Gateway) -> Figures:
    figures: Figures = {}
    for stream in (False, True):
        for concurrency in overhead.CONCURRENCIES:
            series = overhead.Series()
            overhead.measure(gateway, concurrency, stream, 3.0, series)
            figures |= _costs(f"{overhead.kind(stream)}, {concurrency} at a time", series)
    return figures


def _costs(load: str, series: overhead.Series | predict.Series) -> Figures:
    """Of one turn. Raises RuntimeError when a request failed."""
    if series.failed:
        raise RuntimeError(f"{load}: {series.failed} requests failed")
    return {f"{load}, CPU ms": series.cpu[0], f"{load}, ms a request": 1000 / series.rate[0]}


@contextmanager
def _predict(build: Build, folder: Path) -> Iterator[Measure]:
    register = "import sys; from pathlib import Path; from llmops.settings import Settings; "
    register += "from benchmarks.labs.bike_like import register; "
    build.run("-c", f"{register}print(register(Settings(home=Path(sys.argv[1]))))", str(folder / "home"))
    rows = json_rows(predict.MANY_ROWS)
    with predict.ours(folder, folder / "home", build.environment) as server:
        single = [server.body([row]) for row in rows]

        def measure() -> Figures:
            figures: Figures = {}
            for name, bodies, concurrency in (
                ("1,000 rows at once", [server.body(rows)], 1),
                *((f"single rows, {each} at a time", single, each) for each in predict.CONCURRENCIES),
            ):
                series = predict.Series()
                predict.turn(server, bodies, concurrency, 2.0, series)
                figures |= _costs(name, series)
            return figures

        yield measure


_SUITE = """description = "Measured."
eval_sets = ["bench"]
prompt = "bench-prompt"
model = "bench-model@1"
[scorers.correct]
type = "contains"
[scorers.exact_match]
[scorers.words]
[scorers.latency_ms]
[gate]
primary = "correct"
rule = "not-worse"
margin = 0.2
"""
_COMMANDS = (
    "prompts list",
    "models list",
    "release list bench",
    "promote bench@2 --force --why measured",
    "rollback bench",
    "eval compare bench-prompt@1 bench-prompt@2",
    "eval run bench",  # all of it reused
)

# In a small process of its own: a process' largest size begins with that of the one that started it.
_MEASURED = """
import json, resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
sys.exit(code)
"""


@contextmanager
def _evaluated(build: Build, folder: Path, rows: int = 100) -> Iterator[Callable[[str], tuple[float, float]]]:
    """A home with a finished eval run of so many rows. Gives a function that runs a command of llmops in it and says
    how many seconds of CPU and megabytes it took."""
    made = [{"id": str(n), "inputs": {"text": f"{n}?"}, "expectations": {"answers": [str(n)]}} for n in range(rows)]
    sets = folder / "eval_sets"
    (sets / "bench").mkdir(parents=True)
    (sets / "bench.toml").write_text(_SUITE, encoding="utf-8")
    (sets / "bench" / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in made), encoding="utf-8")
    with upstream(folder) as stub:
        home = Home(folder, f"openai:{stub.base}/v1#stub", build.environment, eval_sets=str(sets))
        home.llmops("eval", "run", "bench")

        def measured(line: str) -> tuple[float, float]:
            command = [sys.executable, "-c", _MEASURED, sys.executable, "-m", "llmops.cli", *line.split()]
            said = subprocess.run(command, env=dict(home.environment), capture_output=True, text=True, check=False)
            if said.returncode:
                raise RuntimeError(f"{line}: {said.stderr[-1000:]}")
            seconds, megabytes = json.loads(said.stdout)
            return seconds, megabytes

        yield measured


@contextmanager
def _commands(build: Build, folder: Path) -> Iterator[Measure]:
    with _evaluated(build, folder) as measured:

        def measure() -> Figures:
            figures: Figures = {}
            for line in _COMMANDS:
                seconds, megabytes = measured(line)
                name = " ".join(line.split()[:2]) if line.startswith(("eval", "release", "models")) else line.split()[0]
                figures |= {f"{name}, CPU s": seconds, f"{name}, MB": megabytes}
            return figures

        yield measure


@contextmanager
def _recording(build: Build, folder: Path) -> Iterator[Measure]:
    """What each further row of an eval run costs that is scored and recorded again; its answers are reused."""
    few, many = 20, {"evaluate": 300, "bulk": 3000}
    with _evaluated(build, folder, rows=3000) as measured:

        def measure() -> Figures:
            figures: Figures = {}
            for recorder, rows in many.items():
                line = f"eval run bench --prompt bench-prompt@1 --force --recorder {recorder} --limit"
                seconds = measured(f"{line} {rows}")[0] - measured(f"{line} {few}")[0]
                figures[f"{recorder}, CPU ms a row"] = 1000 * seconds / (rows - few)
            return figures

        yield measure


@contextmanager
def _worker(build: Build, folder: Path) -> Iterator[Measure]:
    with upstream(folder) as stub:
        home = Home(folder, f"openai:{stub.base}/v1#stub", build.environment)

        def measure() -> Figures:
            with home.serving(home.create_key()) as gateway:
                family = gateway.server.process.children(recursive=True)
                (worker,) = (each for each in family if "--multiprocessing-fork" in each.cmdline())
                return {"a worker at start, MB": worker.memory_info().rss / 1e6}

        yield measure


PARTS: dict[str, Callable[[Build, Path], AbstractContextManager[Measure]]] = {
    "commands": _commands,
    "recording": _recording,
    "worker": _worker,
    "gateway": _gateway,
    "descriptors": _descriptors,
    "monitoring-incremental": _incremental,
    "monitoring-verdict": _verdict,
    "predict": _predict,
}


def ratio(ours: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of the rounds' ratios, and the ends of its 95 % interval (Student's t of the logarithms)."""
    logs = [math.log(mine / other) for mine, other in zip(ours, others, strict=True)]
    middle = statistics.fmean(logs)
    half = float(student.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def compare(part: str, builds: Sequence[Build], rounds: int) -> list[str]:
    """Prints a table of the figures of two builds, this one first. Returns the names of those that are worse."""
    found: dict[str, list[Figures]] = {build.name: [] for build in builds}
    with ExitStack() as stack:
        measures: dict[str, Measure] = {}
        for build in builds:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmops-against-")))
            measures[build.name] = stack.enter_context(PARTS[part](build, folder))
        for number in range(rounds):
            for name in list(measures)[:: 1 if number % 2 == 0 else -1]:
                started = time.perf_counter()
                found[name].append(measures[name]())
                seconds = time.perf_counter() - started
                print(f"round {number + 1} of {rounds}: {name}, {seconds:.0f} s", file=sys.stderr, flush=True)
    (mine, others), worse = found.values(), []
    print(f"{part:46}{builds[1].name[:12]:>13}{builds[0].name:>13}  ratio, 95 %")
    for name in mine[0]:
        series = [round_[name] for round_ in mine], [round_[name] for round_ in others]
        middle, low, high = ratio(*series)
        worse += [name] if low > WORSE else []
        told = "worse" if low > WORSE else "better" if high < 1 else ""
        ours_, others_ = (statistics.median(each) for each in series)
        print(f"{name:46}{others_:13.3f}{ours_:13.3f}  {middle:.3f} ({low:.3f} to {high:.3f}) {told}")
    return worse


def run(parts: Sequence[str], revision: str, rounds: int) -> list[str]:
    """Compares each part. Returns the parts with a figure that is worse."""
    with earlier(revision) as other:
        return [part for part in parts if compare(part, (Build("this", _REPOSITORY), other), rounds)]
