"""Processes and threads: names of processes, locks between them, children and folders that end with a process, calls
off the event loop.

A child of ours must not outlive its parent, killed or not: its standard input is a pipe whose other end nobody else
holds. Programs that are not ours do not watch it, so `python -m llmops.processes COMMAND …` does it for them: it runs
the command in a session of its own, and ends it and all that it started.
"""

import asyncio
import concurrent.futures
import contextvars
import fcntl
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

T = TypeVar("T")

TERMINATE_SECONDS = 10.0
"""How long a program has between SIGTERM and SIGKILL."""

NOT_STARTED = 127
"""Exit code, as a shell's, of a command that cannot be started; standard error says why."""

_POLL_SECONDS = 0.05
_SCRATCH_PREFIX = "llmops-"
_OWNER = "owner"  # file of a scratch folder that names its process


@functools.cache
def _place() -> str:
    """What two processes must share for their ids to mean the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"unknown-{uuid.uuid4().hex}"


def this_process() -> str:
    """A name by which another process on this machine can tell whether this one has ended; at most 255 characters.

    It holds the machine's boot, the id namespace, the process id, and when it started: ids are used again, and
    containers number theirs separately. Where the system does not tell (not Linux), nobody is ever found dead.
    """
    return f"{_place()}/{os.getpid()}/{_started(os.getpid())}"


def is_dead(process: str) -> bool:
    """Whether the process of that name has ended for certain; False when it cannot be known."""
    place, _, rest = process.partition("]/")
    number, _, started = rest.partition("/")
    if f"{place}]" != _place() or not number.isdecimal():
        return False
    return _started(int(number)) != started


def is_frozen(number: int) -> bool:
    """Whether the process is stopped, by SIGSTOP or a debugger: it does nothing, and no signal but SIGKILL reaches it.
    False where the system does not tell."""
    return _stat(number)[:1] in (["T"], ["t"])


def _started(number: int) -> str | None:
    """When the process started, in the kernel's ticks; None when there is no such process, or it is a zombie."""
    fields = _stat(number)
    return None if not fields or fields[0] in "ZX" else fields[19]


def _stat(number: int) -> list[str]:
    """What the kernel tells of a process, from its state on; nothing where there is none."""
    try:
        text = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(") ")[2].split()


class ProcessLock:
    """The lock of one file: `with lock:` waits for it and holds it. The kernel wakes the next one, and lets go when its
    holder ends, killed too.

    `acquire` and `release` take and give the process's lock alone; `with` orders the threads that share the object too.
    file: the descriptor, for what the file holds besides. Closing lets go for good.
    """

    def __init__(self, path: str | Path) -> None:
        """path: of the file, which is made when absent and stays. Raises OSError."""
        self.file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._threads = threading.Lock()
        self.close = weakref.finalize(self, os.close, self.file)

    def acquire(self, *, wait: bool = True) -> bool:
        """Takes the lock; whether it has it, which without `wait` another process may prevent."""
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Lets the next one have it."""
        fcntl.flock(self.file, fcntl.LOCK_UN)

    def __enter__(self) -> Self:
        self._threads.acquire()
        try:
            self.acquire()
        except BaseException:  # such as Ctrl-C while it waits
            self._threads.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._threads.release()


@contextmanager
def folder_locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, which no file is made for, among processes that ask for it. Without effect where the
    folder is not there, or its disk knows no such locks."""
    with ExitStack() as stack:
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def users_of_file(path: Path) -> list[str]:
    """Other processes that have a file open, as `name (pid N)`: those that this user may look at, where the system has
    a `/proc`. Raises OSError where there is no such file."""
    wanted, users = path.stat(), {}
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        pid = handle.parent.parent.name
        with suppress(OSError):  # the process has ended, or is another user's
            opened = handle.stat()
            if (opened.st_dev, opened.st_ino) == (wanted.st_dev, wanted.st_ino) and int(pid) != os.getpid():
                name = (handle.parent.parent / "comm").read_text(encoding="utf-8", errors="replace").strip()
                users[int(pid)] = f"{name} (pid {pid})"
    return [users[pid] for pid in sorted(users)]


def when_parent_ends(act: Callable[[], object]) -> None:
    """Calls `act` once, from a thread of its own, when standard input ends."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            continue
        act()

    threading.Thread(target=watch, name="watch parent", daemon=True).start()


@contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program of somebody else's as a process. It ends, and what it started with it, when the block does, or this
    process, however that ends.

    Its standard input is empty. options: as `subprocess.Popen` takes them.
    """
    # In a session of its own: Ctrl-C reaches this process, which then ends the block.
    watched = [sys.executable, "-m", __name__, str(TERMINATE_SECONDS), *command]
    with subprocess.Popen(watched, stdin=subprocess.PIPE, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.wait()


def _run(command: Sequence[str], terminate_seconds: float) -> int:
    """Runs the command until it ends or has to; returns its exit code, as a shell would."""
    try:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: cannot be started: {error.strerror}\n")
        return NOT_STARTED
    over, told_to_end = threading.Event(), threading.Event()

    def end() -> None:
        told_to_end.set()
        over.set()

    def outlive() -> None:
        program.wait()
        over.set()

    signal.signal(signal.SIGTERM, lambda *_: end())
    when_parent_ends(end)
    threading.Thread(target=outlive, name="outlive", daemon=True).start()
    over.wait()
    if told_to_end.is_set():
        _end_group(program.pid, terminate_seconds)
    code = program.wait()
    return code if code >= 0 else 128 - code


def _end_group(group: int, terminate_seconds: float) -> None:
    deadline = time.monotonic() + terminate_seconds
    number = signal.SIGTERM
    try:
        while True:
            os.killpg(group, number)
            while time.monotonic() < deadline:
                os.killpg(group, 0)
                time.sleep(_POLL_SECONDS)
            number, deadline = signal.SIGKILL, time.monotonic() + terminate_seconds
    except ProcessLookupError:  # all of them have ended
        return


def run_async(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What a coroutine function returns, from code that is none: as `asyncio.run`, and on a thread of its own where an
    event loop runs on this one already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    from anyio.from_thread import start_blocking_portal

    context = contextvars.copy_context()  # by which a notebook knows whose output is printed

    async def there() -> T:
        return await asyncio.create_task(work(), context=context)

    with start_blocking_portal() as portal:  # cancels the work where waiting for it is interrupted
        return portal.call(there)


def make_scratch_folder(kind: str) -> Path:
    """A new private folder, named after its kind, that says whose it is; whoever makes it removes it."""
    folder = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH_PREFIX}{kind}-"))
    mark_owned(folder)
    return folder


def mark_owned(folder: Path) -> None:
    """Says in a folder, named as `make_scratch_folder` names them, that it ends with this process."""
    (folder / _OWNER).write_text(this_process(), encoding="utf-8")


@contextmanager
def scratch_folder(kind: str) -> Iterator[Path]:
    """As `make_scratch_folder`, removed when the block ends."""
    folder = make_scratch_folder(kind)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_scratch_folders() -> int:
    """Removes this user's folders whose process was killed before it could; returns how many."""
    swept = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH_PREFIX}*"):
        with suppress(OSError):  # another user's, or another process sweeps too
            if folder.stat().st_uid != os.geteuid() or not folder.is_dir() or folder.is_symlink():
                continue
            if is_dead((folder / _OWNER).read_text(encoding="utf-8")):
                shutil.rmtree(folder, ignore_errors=True)
                swept += 1
    return swept


def settle(loop: asyncio.AbstractEventLoop, outcomes: Sequence[tuple[asyncio.Future[T], T | Exception]]) -> None:
    """From another thread: gives each waiter on the loop its outcome, an exception to be raised. Those that no longer
    wait, or whose loop has closed meanwhile, are left."""

    def tell() -> None:
        for future, outcome in outcomes:
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    with suppress(RuntimeError):
        loop.call_soon_threadsafe(tell)


async def run_blocking(work: Callable[[], T], *, name: str) -> T:
    """Runs `work` in a daemon thread of its own and returns what it returns, or raises what it raises.

    Not an executor's thread: those are joined when the process ends, so that a store which hangs, or weights that
    load for a minute, would hold up a shutdown.
    """
    future: concurrent.futures.Future[T] = concurrent.futures.Future()
    future.set_running_or_notify_cancel()  # whoever stops waiting cancels the wait, not the work

    def call() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  handed to the waiter, who raises it
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=call, name=name, daemon=True).start()
    return await asyncio.wrap_future(future)


if __name__ == "__main__":
    sys.exit(_run(sys.argv[2:], float(sys.argv[1])))
