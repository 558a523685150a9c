"""What can be measured of any build of the product, so that two can be compared (`against`, `goals`).

A build is a tree; it runs with the packages of this environment. Every figure is a cost, so more is worse.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.evaluation.runners import model_file
from benchmarks.gateway import local_model, overhead
from benchmarks.gateway.contenders import Gateway, Home, ours, upstream
from benchmarks.labs import predict
from benchmarks.labs.bike_like import json_rows
from benchmarks.monitoring.descriptors import NAMES, NEED_WORDNET
from benchmarks.monitoring.nltk_data import find_wordnet, find_words

REPOSITORY = Path(__file__).parent.parent

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
    git = ["git", "-C", str(REPOSITORY)]
    archive = subprocess.run([*git, "archive", revision], stdout=subprocess.PIPE, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="llmops-build-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        if (Path(folder) / "requirements.lock").read_bytes() != (REPOSITORY / "requirements.lock").read_bytes():
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
    few, many = 20, {"evaluate": 300, "bulk": 1500}
    with _evaluated(build, folder, rows=1500) as measured:

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


@contextmanager
def _local_model(build: Build, folder: Path) -> Iterator[Measure]:
    home = Home(folder, f"file:{model_file().resolve()}", build.environment)
    key = str(home.llmops("keys", "create")["key"])

    def measure() -> Figures:
        with home.serving(home.create_key()) as gateway:
            family = gateway.server.process.children(recursive=True)
            (engine,) = (each for each in family if "llmops.engine_host" in each.cmdline())
            figures = {"engine process with a model, MB": engine.memory_info().rss / 1e6}
            for clients in local_model.CLIENTS:
                rate, _ = local_model.measure(gateway.url, key, "bench-model@1", clients, 5.0)
                figures[f"{clients} clients, ms a token"] = 1000 / rate
        return figures

    yield measure


@contextmanager
def _demo(build: Build, _folder: Path) -> Iterator[Measure]:
    def measure() -> Figures:
        with tempfile.TemporaryDirectory(prefix="llmops-demo-") as home:
            kept = {name: value for name, value in os.environ.items() if not name.startswith("LLMOPS_")}
            command = [sys.executable, "-c", _MEASURED, sys.executable, "-m", "llmops.cli", "demo"]
            started = time.perf_counter()
            done = subprocess.run(
                command, cwd=build.folder, env={**kept, **build.environment, "LLMOPS_HOME": home},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"{build.name}: the demo ended with {done.returncode}: {done.stderr[-1000:]}")
            return {"demo, s": time.perf_counter() - started, "demo, CPU s": json.loads(done.stdout)[0]}

    yield measure


PARTS: dict[str, Callable[[Build, Path], AbstractContextManager[Measure]]] = {
    "commands": _commands,
    "recording": _recording,
    "worker": _worker,
    "local-model": _local_model,
    "demo": _demo,
    "gateway": _gateway,
    "descriptors": _descriptors,
    "monitoring-incremental": _incremental,
    "monitoring-verdict": _verdict,
    "predict": _predict,
}
