"""The engine process with a fake engine that says a hundred words, or 20 to a short question, one every 20 ms: a
program for tests to start."""

import sys
import time
from pathlib import Path

from llmops.engine_host.__main__ import run
from llmops.engine_host.host import EngineHost
from llmops.engines.fake import FakeEngine
from llmops.generation import GenerationRequest
from llmops.settings import Settings


def _words(request: GenerationRequest) -> str:
    """What is said; asked to hang, the whole process does."""
    asked = request.messages[-1]["content"]
    if asked == "hang":
        time.sleep(600)
    return " ".join(f"word{number}" for number in range(20 if asked == "short" else 100))


if __name__ == "__main__":
    if "fail" in sys.argv:
        sys.exit(7)
    socket_path = Path(sys.argv[sys.argv.index("--socket") + 1])
    restarts = int(sys.argv[sys.argv.index("--restarts") + 1])
    run(
        EngineHost(
            Settings.from_environment(),
            lambda _model, settings: FakeEngine(_words, slots=settings.engine_slots, word_seconds=0.02),
            restarts=restarts,
        ),
        socket_path,
    )
