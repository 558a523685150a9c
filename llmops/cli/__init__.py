"""The `llmops` command: one file for each noun, loaded only when used, so that `--help` answers at once.

Exit codes: 0 done or verdict good; 1 verdict negative; 2 usage; 3 could not run. With `--json`, stdout is exactly one
JSON object; progress and logs always go to stderr.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

from llmops import __version__
from llmops.cli.output import echo, report_error, say
from llmops.errors import LlmopsError
from llmops.settings import given_home

_COMMANDS = {
    "doctor": ("llmops.cli.doctor", "check the environment, store, model, engine and gateway"),
    "models": ("llmops.cli.models", "pull, register, requantise and list model versions"),
    "prompts": ("llmops.cli.prompts", "register, list, show and diff prompt versions"),
    "release": ("llmops.cli.release", "bind a prompt version and a model version: create, list, show, challenge"),
    "eval": ("llmops.cli.eval", "run suites, show and compare runs, gate a challenger, calibrate judges"),
    "eval-set": ("llmops.cli.eval_set", "check eval sets, and add rows from production"),
    "promote": ("monitoring.cli.promote", "make a release the champion"),
    "rollback": ("llmops.cli.rollback", "go back to the previous champion"),
    "traffic": ("llmops.cli.traffic", "canary and shadow traffic for a challenger: show, set, clear"),
    "serve": ("service.cli", "start the gateway"),
    "keys": ("llmops.cli.keys", "gateway keys: create, list, revoke"),
    "log": ("llmops.cli.log", "read and import the production log"),
    "audit": ("llmops.cli.audit", "who moved, gated or forced what, and whether the record is whole: list, verify"),
    "monitor": ("monitoring.cli.monitor", "test what production answers against a reference"),
    "factsheet": ("llmops.cli.factsheet", "one page of what is on record of a version"),
    "pipeline": ("labs.pipeline_cli", "run durable pipelines, on a schedule too; list and show their runs"),
    "lab": ("labs.cli", "the warm-up labs: wine and bike, from data to a model that is trained again"),
    "ui": ("llmops.cli.ui", "open MLflow's UI on the store"),
    "demo": ("labs.llm.demo", "run the whole loop on the default model"),
}


class _LazyGroup(click.Group):
    """Commands by name; a command's module is imported when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, meaning) for name, (_, meaning) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llmops")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def cli() -> None:
    """Evaluate, gate, serve and monitor prompt and model versions.

    \b
    Example: llmops eval run qa
    """


@contextmanager
def _telling_of_new_home() -> Iterator[None]:
    """Says that a command made a home: in another folder than one's own, that is how one finds it empty."""
    home = given_home()
    known = home.exists()
    try:
        yield
    finally:
        if not known and home.exists():
            say(f"{home} is new: state is kept there (LLMOPS_HOME names another folder)")


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs a command and turns its errors into one line and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    try:
        with _telling_of_new_home():
            code = cli.main(arguments, standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.exceptions.NoArgsIsHelpError as error:  # nothing after `llmops`, or after a group
        (say if as_json else echo)(error.format_message())
        code = error.exit_code
    except click.ClickException as error:
        code = report_error(error.format_message(), "UsageError", error.exit_code, as_json, error)
    except LlmopsError as error:
        if "--debug" in arguments:
            say(traceback.format_exc())
        code = report_error(str(error), type(error).__name__, error.exit_code, as_json)
    sys.exit(code if isinstance(code, int) else 0)
