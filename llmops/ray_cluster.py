"""A Ray cluster to run tasks on: one that is running, or one that is started for the run. The only importer of Ray.

They are plain tasks: when a node dies, Ray runs its tasks again on another one (docs/adr/0025).
"""

import itertools
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from llmops.errors import CannotRun, EngineError, LlmopsError, first_line
from llmops.settings import Settings, given_variables, named_variables

LOCAL = "local"
_ATTEMPTS = 5  # after the first, of a task whose process or node died
_STARTS = 2  # of a cluster of our own
_CONNECT_SECONDS = 10.0
_OBJECT_STORE_BYTES = 200 * 1024 * 1024  # what is sent is small; Ray's own default is a third of the memory
_WAITING = 2  # tasks for each CPU, so that none waits for the next

Item = TypeVar("Item")
Done = TypeVar("Done")


def keep_on_loopback() -> None:
    """Has Ray, which must not be imported yet, listen on loopback only, and take 127.0.0.1 for what it is: on Linux it
    would be the machine's address that others reach. No statistics of its use are sent. Workers that it starts have the
    priority of this process."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on those systems it is the default
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - its name; the default, 15, starves them beside other work
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # its next version's behaviour, which it warns of


class RayCluster:
    """The cluster at `ray://HOST:PORT`; for `ray` the one that RAY_ADDRESS names, else one that is started on this
    machine and ends when it is closed. It is connected when it is first needed. Close it.
    """

    def __init__(self, on: str) -> None:
        self._on, self._connected = on, ExitStack()

    def close(self) -> None:
        self._connected.close()

    @cached_property
    def ray(self) -> Any:
        """The module, connected. Raises CannotRun: Ray is not installed, or the cluster cannot be reached, or has
        another version of Ray or Python, or no CPU."""
        ray = self._connected.enter_context(_connected(self._on))
        if not _cpus(ray):
            raise CannotRun("no node of the Ray cluster has a CPU")
        return ray

    def cpus(self) -> list[int]:
        """CPUs of each live node that has any, at this moment. Raises as `ray`."""
        return _cpus(self.ray)

    def task(self, function: Callable[..., Any], *, name: str, cpus: int = 1) -> Any:
        """A function of a module that all nodes have, as a task that is run again where its process or node dies."""
        options = {"num_cpus": cpus, "max_retries": _ATTEMPTS, "scheduling_strategy": "SPREAD", "name": name}
        return self.ray.remote(function).options(**options)

    @contextmanager
    def failures_translated(self) -> Iterator[None]:
        """Around sending a task and taking its result. Raises what the task raised, or CannotRun."""
        try:
            yield
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ConnectionError as error:
            raise CannotRun(f"the connection to the Ray cluster was lost: {first_line(error)}") from error
        except self.ray.exceptions.RayError as error:
            raise CannotRun(f"a task on the Ray cluster was given up: {first_line(error)}") from error

    def map(self, function: Callable[[Item], Done], items: Iterable[Item]) -> Iterator[Done]:
        """The built-in `map` on the cluster's nodes, in order. Raises as `ray` and `failures_translated`."""
        items = iter(items)
        for first in itertools.islice(items, 1):
            task, shared, running = self.task(_call, name=_name(function)), self.ray.put(function), deque[Any]()
            for item in itertools.chain([first], items):
                while len(running) >= _WAITING * max(1, sum(self.cpus())):
                    yield self._result(running.popleft())
                running.append(task.remote(shared, item))
            while running:
                yield self._result(running.popleft())

    def _result(self, reference: Any) -> Any:
        with self.failures_translated():
            done = self.ray.get(reference)
        if isinstance(done, LlmopsError):
            raise done
        return done


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    """The task of `map`."""
    try:
        return function(item)
    except LlmopsError as error:
        return portable(error)


def _name(function: Callable[..., Any]) -> str:
    return getattr(getattr(function, "func", function), "__name__", "task").strip("_").replace("_", " ")


def portable(error: LlmopsError) -> LlmopsError:
    """An error of the same exit code that can be sent to another process, whatever its own class takes."""
    return (EngineError if isinstance(error, EngineError) else CannotRun)(str(error))


def on_this_machine(settings: Settings) -> Settings:
    """The settings with the home of this machine, where its environment names one: weights may lie elsewhere here."""
    home = given_variables().get("LLMOPS_HOME")
    return settings if home is None else replace(settings, home=Path(home))


@contextmanager
def _connected(on: str) -> Iterator[Any]:
    address = named_variables(["RAY_ADDRESS"]).get("RAY_ADDRESS") if on == "ray" else on
    if not address or address.startswith(("127.0.0.1:", "localhost:")):
        keep_on_loopback()
    if address:
        _check_reachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise CannotRun("--on ray needs the package ray: pip install 'llmops[ray]'") from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        try:
            ray.init(address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            raise CannotRun(f"the Ray cluster at {address} cannot be used: {first_line(error)}") from error
    else:
        own = {"_node_ip_address": "127.0.0.1", "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}

        def start() -> None:
            ray.shutdown()  # of what a failed attempt left
            ray.init("local", **own, **quiet)

        started(start, _STARTS)
    with redirect_stdout(sys.stderr):  # Ray prints that a node died, from a thread; stdout is the command's own
        try:
            yield ray
        finally:
            ray.shutdown()


def started(start: Callable[[], Done], attempts: int) -> Done:
    """What `start`, which starts processes of Ray as children of this one, gives. Where it fails, they are ended and it
    is tried again: a raylet gives up when its helpers take 15 s, as they do on a busy machine (ray#65983). Raises
    CannotRun: it failed so many times."""
    import psutil

    this = psutil.Process()
    before = set(this.children(recursive=True))
    for left in reversed(range(attempts)):
        try:
            return start()
        except Exception as error:  # Ray raises no class of its own here
            for process in set(this.children(recursive=True)) - before:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            if not left:
                raise CannotRun(f"Ray cannot be started ({attempts} attempts): {first_line(error)}") from error
    raise AssertionError("attempts must be 1 or more")


def _check_reachable(address: str) -> None:
    """Raises CannotRun at once; Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():  # else one of Ray's other forms
        try:
            socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
        except OSError as error:
            raise CannotRun(f"the Ray cluster at {address} cannot be reached: {error}") from error


def _cpus(ray: Any) -> list[int]:
    found = (int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    return [cpus for cpus in found if cpus]
