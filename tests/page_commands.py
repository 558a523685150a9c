"""What pages tell their readers to do: commands of their console blocks, and files that they write."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.services.servers import free_port

ROOT = Path(__file__).parent.parent
# In the foreground: a reader starts them in another terminal.
_SERVERS = re.compile(r"llmops (?:lab \w+ )?(serve|ui)$")


def console_commands(text: str) -> list[tuple[str, int]]:
    """(command, expected exit code); a line `# exit 1` after a command gives a code other than 0."""
    found: list[tuple[str, int]] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in re.sub(r"(?: \\)?\n +", " ", block).splitlines():
            if line.startswith("$ "):
                found.append((line[2:], 0))
            elif code := re.match(r"# exit (\d)", line):
                found[-1] = (found[-1][0], int(code[1]))
    return found


def write_files(text: str, folder: Path) -> None:
    """Writes the blocks that have a title, which names the file."""
    for name, content in re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```$', text, re.MULTILINE | re.DOTALL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, "utf-8")


def run_in_one_shell(commands: Sequence[tuple[str, int]], folder: Path, **environment: str) -> str:
    """Runs commands as a reader types them into one shell, in which `cd` and variables stay; returns what they print.

    `llmops`, `python` and `pytest` are those of this environment. Every command must end with its expected code.
    """
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for name, module in (("llmops", " -m llmops.cli"), ("pytest", " -m pytest"), ("python", "")):
        (bin_folder / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{module} "$@"\n')
        (bin_folder / name).chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LLMOPS_", "PYTEST_", "GIT_"))}
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    path = f"{bin_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    ports = {"serve": free_port(), "ui": free_port()}
    given = {**clean, "PATH": path, "PYTHONPATH": python_path, **environment}
    script = ["trap 'kill $(jobs -p) 2> /dev/null; wait' EXIT"]
    for command, expected in commands:
        typed = command.replace("127.0.0.1:8000", f"127.0.0.1:{ports['serve']}")
        if server := _SERVERS.match(typed):
            port = ports[server[1]]
            typed += f" --port {port} > {server[1]}.log 2>&1 &\nserver=$!\nuntil curl -s -o server.txt 127.0.0.1:{port}"
            typed += "; do kill -0 $server || exit 1; sleep 0.2; done"
        told = shlex.quote(f"$ {typed}")
        script.append(f"echo {told}\n{typed}\ncode=$?\n[ $code = {expected} ] || {{ echo exit $code; exit 1; }}")
    done = subprocess.run(
        ["bash", "-uc", "\n".join(script)], env=given, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=3600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout
