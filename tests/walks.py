"""How far a reader walks: functions of ours entered, and modules visited, in one run of a command.

    python tests/walks.py                            this tree
    PYTHONPATH=OTHER python tests/walks.py           another tree, such as a worktree of an earlier commit

Commands run in this process, on a home of their own and the fake engine, each once untraced, so that imports and first
openings do not count. Generated functions (of dataclasses, comprehensions and lambdas) are left out, and so are the
macros of templates; a template counts as one module.
"""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOMS = ("llmops", "service", "monitoring", "labs")
PROMPT = "---\ninput_variable: question\nparameters: {max_tokens: 40}\n---\n# user\n{{ question }}\n"
SUITE = """description = "Made up."
eval_sets = ["sums"]
prompt = "qa"
model = "tiny@1"
[scorers.correct]
type = "contains"
[gate]
primary = "correct"
[gate.floors]
correct = 0.1
"""
ROW = '{{"id": "{0}", "inputs": {{"question": "{0} and {1}"}}, "expectations": {{"expected_response": "{1}"}}}}\n'


def prepare(folder: Path) -> None:
    """A home with a release that was gated and promoted."""
    (folder / "prompts/qa").mkdir(parents=True)
    (folder / "prompts/qa/v1.md").write_text(PROMPT)
    (folder / "eval_sets/sums").mkdir(parents=True)
    (folder / "eval_sets/sums/rows.jsonl").write_text("".join(ROW.format(n, n + 1) for n in range(20)))
    (folder / "eval_sets/sums.toml").write_text(SUITE)
    (folder / "tiny.gguf").write_bytes(b"GGUF made up")
    places = {"HOME": folder / "home", "PROMPTS": folder / "prompts", "EVAL_SETS": folder / "eval_sets"}
    os.environ.update({f"LLMOPS_{name}": str(path) for name, path in places.items()} | {"LLMOPS_ENGINE": "fake"})
    run("models", "register", "tiny", "--source", f"file:{folder}/tiny.gguf")
    run("prompts", "register")
    run("eval", "run", "sums")
    run("release", "create", "assistant", "--prompt", "qa@1", "--model", "tiny@1")
    run("eval", "gate", "assistant@1", "--suite", "sums")
    run("promote", "assistant@1")


def run(*arguments: str) -> None:
    """A command; its output is shown where it fails."""
    from llmops.cli import main

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main(list(arguments))
    except SystemExit as ended:
        if ended.code not in (None, 0, 1):
            sys.exit(f"{' '.join(arguments)}: exit {ended.code}\n{said.getvalue()}")


def walk(command: Callable[[], None]) -> tuple[int, int]:
    """Functions entered and modules visited."""
    import llmops

    root = str(Path(llmops.__file__).parent.parent)
    rooms = tuple(f"{root}/{room}/" for room in ROOMS)
    entered: set[tuple[str, int]] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(rooms) and not code.co_name.startswith("<"):
            entered.add((code.co_filename, code.co_firstlineno))

    sys.setprofile(note)
    try:
        command()
    finally:
        sys.setprofile(None)
    return sum(file.endswith(".py") for file, _ in entered), len({file for file, _ in entered})


WALKS = {"fact sheet": ("factsheet", "assistant@1"), "suite": ("eval", "run", "sums", "--force")}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        prepare(Path(made))
        print(f"{'walk':12} functions  modules")  # noqa: T201
        for name, arguments in WALKS.items():
            run(*arguments)
            functions, modules = walk(lambda arguments=arguments: run(*arguments))  # type: ignore[misc]
            print(f"{name:12} {functions:9}  {modules:7}")  # noqa: T201
