"""The `llmops` command: one file per command group, loaded only when used, so that `--help` answers at once.

Exit codes: 0 done or verdict good; 1 verdict negative; 2 usage; 3 could not run. With `--json`, stdout is exactly one
JSON object; progress and logs always go to stderr.
"""

from __future__ import annotations

import sys
import traceback

import click

from llmops import __version__
from llmops.cli.command_table import MainGroup
from llmops.cli.output import echo, report_error, say
from llmops.errors import LlmopsError
from llmops.settings import given_home


@click.group(cls=MainGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llmops")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def cli() -> None:
    """Evaluate, gate, serve and monitor prompt and model versions.

    \b
    Example: llmops eval run qa
    """


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs a command and turns its errors into one line and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    home = given_home()
    was_there = home.exists()
    try:
        try:
            code = cli.main(arguments, standalone_mode=False)
        finally:
            if not was_there and home.exists():  # in another folder than one's own, that is how one finds it empty
                say(f"{home} is new: state is kept there (LLMOPS_HOME names another folder)")
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
