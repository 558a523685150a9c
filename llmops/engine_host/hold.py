"""Keeps a model loaded in the engine process for as long as a worker wants it, across the process's restarts."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from pathlib import Path

from llmops.engine_host.frames import BadFrame, FrameSplitter, Load, Loaded, answer, pack
from llmops.errors import EngineError, EngineUnavailable
from llmops.versions import ModelVersion

logger = logging.getLogger("llmops.engine_host")

RECONNECT_SECONDS = 0.2
"""Pause between two attempts to reach an engine process that is not there."""

RELOAD_SECONDS = 5.0
"""Pause after the engine process said that it cannot load the model."""

_PIECE = 65536


class ModelHold:
    """A thread with an open connection: the engine process keeps the model loaded while the connection stands.

    When the process dies the thread waits for the next one and has it load the model, before any request asks.
    """

    def __init__(self, socket_path: Path, model: ModelVersion) -> None:
        self._path, self._model = socket_path, model
        self._change = threading.Condition()
        self._released = threading.Event()
        self._connection: socket.socket | None = None
        self._loaded: Loaded | None = None
        self._problem: EngineError | None = None
        self._thread = threading.Thread(target=self._run, name=f"hold {model.ref}", daemon=True)
        self._thread.start()

    def wait(self, timeout: float) -> Loaded:
        """What the engine is, once it is loaded. Raises EngineError: it cannot be, or not within `timeout` seconds."""
        with self._change:
            self._change.wait_for(lambda: self._loaded is not None or self._problem is not None, timeout)
            if self._loaded is not None:
                return self._loaded
            if self._problem is not None:
                raise self._problem
        raise EngineUnavailable(f"model {self._model.ref}: the engine process did not load it in {timeout:g} s")

    def release(self) -> None:
        """Lets the model go."""
        self._released.set()
        with self._change, contextlib.suppress(OSError):  # the process may have gone just now
            if self._connection is not None:
                self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _run(self) -> None:
        while not self._released.is_set():
            try:
                self._hold_once()
            except OSError:
                self._released.wait(RECONNECT_SECONDS)
            except EngineError as error:
                logger.warning("model %s: %s", self._model.ref, error)
                self._tell(problem=error)
                self._released.wait(getattr(error, "retry_after", None) or RELOAD_SECONDS)

    def _hold_once(self) -> None:
        """Until the connection ends. Raises OSError: nobody listens. EngineError: the model cannot be loaded."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._path))
            with self._change:
                self._connection = connection
            try:
                if self._released.is_set():
                    return
                connection.sendall(pack(Load(self._model)))
                splitter = FrameSplitter()
                while data := connection.recv(_PIECE):
                    for frame in splitter.feed(data):
                        self._take(answer(frame))
            except BadFrame as error:
                raise EngineError(f"the engine process sent a bad frame: {error}") from error
            finally:
                with self._change:
                    self._connection = None

    def _take(self, said: object) -> None:
        if isinstance(said, EngineError):
            raise said
        if isinstance(said, Loaded):
            self._tell(loaded=said)

    def _tell(self, *, loaded: Loaded | None = None, problem: EngineError | None = None) -> None:
        with self._change:
            self._loaded, self._problem = loaded or self._loaded, problem
            self._change.notify_all()
