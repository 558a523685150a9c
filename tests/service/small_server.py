"""Any ASGI app under uvicorn, as the product runs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from service.server import listen


@contextmanager
def running(app: ASGIApp, **options: Any) -> Iterator[int]:
    """Serves the app in a thread; yields its port on 127.0.0.1."""
    with listen("127.0.0.1", 0) as listener:
        config = uvicorn.Config(app, **{"loop": "uvloop", "http": "httptools", "log_level": "critical", **options})
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(15)
            assert not thread.is_alive()
