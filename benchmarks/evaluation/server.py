"""The OpenAI-compatible server that the peers talk to: the same llama.cpp build as ours, in a process of its own.

    with serving(Path("model.gguf"), slots=16) as base_url:      # http://127.0.0.1:PORT/v1
        ...

`python -m benchmarks.evaluation.server GGUF SLOTS [cache]` is the process itself. It prints its address and serves
until its standard input is closed, so it ends with whoever started it. Every contender gets a fresh one: no prompt is
cached yet.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEY = "bench"
"""The key that the server asks for; it listens on this machine's loopback address only."""
MODEL = "bench"
CONTEXT = 2048
"""Tokens of context for each slot: the default of llmops' own engine."""


def threads() -> int:
    """Threads that decode, for the server and for our own engine alike: every core, or `BENCH_THREADS` of them.

    On a machine that does other work, threads that outnumber the idle cores decode many times slower.
    """
    return int(os.environ.get("BENCH_THREADS") or os.cpu_count() or 1)


@contextmanager
def serving(gguf: Path, slots: int, prompt_cache: bool = True) -> Iterator[str]:
    """Starts a server over `gguf` that decodes `slots` requests side by side; gives its base URL, ends it after.

    prompt_cache: llama.cpp's default; without it an answer depends on nothing that was asked before.
    """
    cache = ("cache",) if prompt_cache else ()
    command = [sys.executable, "-m", "benchmarks.evaluation.server", str(gguf), str(slots), *cache]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        try:
            address = process.stdout.readline().strip()
            if not address:
                raise RuntimeError(f"the server over {gguf} did not start")
            yield f"{address}/v1"
        finally:
            process.stdin.close()
            process.wait(timeout=60)


def serve(gguf: str, slots: int, prompt_cache: bool) -> None:
    """Loads the model and serves it until standard input is closed."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = gguf
    parameters.model_alias = {MODEL}
    parameters.n_parallel = slots
    parameters.n_ctx = slots * CONTEXT
    parameters.cache_prompt = prompt_cache
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads()
    parameters.verbosity = 0
    parameters.api_keys = [KEY]
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), "cache" in sys.argv[3:])
