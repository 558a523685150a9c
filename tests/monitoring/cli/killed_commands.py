"""Runs a command that writes to an archive many times, killed by SIGKILL one step later each time, and then to its end.

    python -m tests.monitoring.cli.killed_commands FOLDER archive|forget

FOLDER holds the home and the archive that each run begins with. Prints how often it killed; fails where what is left is
not what the command leaves unkilled, or anything is missing in between.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import monitoring.forgetting  # noqa: F401 - imported once, before the forks
from llmops.cli import main
from llmops.file_storage import FileStorage
from llmops.production_log import ProductionLog
from llmops.production_log.archive import MANIFEST, Archive

KEPT = "r1"  # a record that no command deletes everywhere


def forked(work: Callable[[], Any]) -> int:
    """How a process of its own ends that does the work: as `os.waitstatus_to_exitcode` tells it."""
    if (child := os.fork()) == 0:
        try:
            work()
            os._exit(0)
        except SystemExit as ended:
            os._exit(int(ended.code or 0))
        except Exception as error:  # noqa: BLE001 - the child must end here
            sys.stderr.write(f"{error!r}\n")
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(step: int) -> None:
    """Has this process kill itself before or after one of its writes and deletions."""
    steps = iter(range(1, sys.maxsize))

    def killed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            result = method(*arguments, **named)
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for owner, name in ((FileStorage, "write"), (FileStorage, "delete"), (ProductionLog, "delete_archived")):
        setattr(owner, name, killed(getattr(owner, name)))


def left(folder: Path) -> dict[str, Any]:
    """The archive's files, without what manifests have seen, which tells of the runs before; and the log's records."""
    files: dict[str, Any] = {}
    for path in (folder / "archive").rglob("*.*"):
        content: Any = path.read_bytes()
        if path.name == MANIFEST:
            content = {**json.loads(content), "seen": None}
        files[str(path.relative_to(folder))] = content
    with closing(ProductionLog(f"sqlite:///{folder}/home/log.db")) as log:
        return {**files, "log": log.read(feedback=True, shadow=True)}


def check_nothing_is_missing(folder: Path) -> None:
    with closing(ProductionLog(f"sqlite:///{folder}/home/log.db")) as log:
        ids = {each.request_id for each in (*log.read(), *Archive(str(folder / "archive")).read())}
    assert KEPT in ids, ids


def main_of(folder: Path, command: str, step: int = 0) -> None:
    kill_at(step)
    os.environ["LLMOPS_HOME"] = str(folder / "home")
    archive = ("archive", "--to", str(folder / "archive"), "--delete", "--json")
    main(["log", *(archive if command == "archive" else ("forget", "--user", "anna", "--json"))])


def run(folder: Path, command: str) -> None:
    begun, expected, step = folder.with_name("begun"), dict[str, Any](), 0
    folder.rename(begun)
    out, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: PTH123, SIM115 - for what the commands print
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(begun, folder)
        if step and forked(partial(main_of, folder, command, step)) != -signal.SIGKILL:
            break
        assert forked(lambda: check_nothing_is_missing(folder)) == 0, step
        assert forked(lambda: main_of(folder, command)) == 0, step
        found = left(folder)
        expected = expected or found
        assert found == expected, step
        step += 1
    out.write(f"{step - 1}\n")


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
