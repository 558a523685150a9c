"""The `llmops` command. The module of a command group is loaded only when used, so that `--help` answers at once.

Each package defines its own commands. The table here is the one place of `llmops` that names modules of higher layers.

Exit codes: 0 done or verdict good; 1 verdict negative; 2 usage; 3 could not run. With `--json`, stdout is exactly one
JSON object; progress and logs always go to stderr.
"""

import importlib
import sys
import traceback
from collections.abc import Mapping

import click
from click.shell_completion import CompletionItem

from llmops import __version__
from llmops.cli.output import echo, report_error, say
from llmops.errors import LlmopsError
from llmops.settings import given_home

COMMANDS: Mapping[str, tuple[str, str]] = {
    "init": ("llmops.cli.init", "make a new project folder: a prompt, a suite, ten rows, a test, a GitHub workflow"),
    "doctor": ("llmops.cli.doctor", "check the environment, store, model, engine and gateway"),
    "models": ("llmops.cli.registry:models", "pull, register, requantise and list model versions"),
    "engine": ("llmops.cli.engine", "check what an OpenAI-compatible server can do, and how fast it is"),
    "prompts": ("llmops.cli.registry:prompts", "register, list, show and diff prompt versions"),
    "release": (
        "llmops.cli.release:release",
        "bind a prompt version and a model version: create, list, show, challenge",
    ),
    "eval": ("llmops.cli.eval", "run suites, show and compare runs, gate a challenger, calibrate judges"),
    "finetune": ("llmops.finetuning.cli", "fine-tune a model version on rows that no suite holds"),
    "review": ("llmops.cli.review", "have people label rows in MLflow's review queue, and take the labels back"),
    "optimize": ("llmops.optimizing.cli", "look for a better prompt, and judge it by rows that nobody chose by"),
    "eval-set": ("llmops.cli.eval_set", "check eval sets, and add rows from production"),
    "redteam": ("llmops.redteam.cli", "attack a release, and see how often each kind of attack succeeds"),
    "promote": ("llmops.cli.release:promote", "make a release the champion"),
    "rollback": ("llmops.cli.release:rollback", "return to the previous champion"),
    "traffic": ("llmops.cli.release:traffic", "canary and shadow traffic to a challenger: show, set, clear"),
    "serve": ("service.cli", "start the gateway"),
    "keys": ("llmops.cli.administration:keys", "gateway keys: create, list, revoke"),
    "log": ("llmops.cli.log", "read and import the production log"),
    "store": ("llmops.cli.administration:store", "bring the MLflow store up to date for the installed MLflow"),
    "migrate": ("monitoring.cli.migrate", "copy log, keys, audit log, monitor and pipelines to another database"),
    "audit": ("llmops.cli.administration:audit", "the audit log: list entries, and verify that none was altered"),
    "monitor": ("monitoring.cli.monitor", "test production traffic against a reference"),
    "factsheet": ("llmops.cli.registry:factsheet", "one page with all recorded facts about a version"),
    "pipeline": ("labs.pipeline_cli", "run durable pipelines, once or on a schedule; list and show runs"),
    "lab": ("labs.cli", "the warm-up labs wine, bike and insurance: from data to a retrained model"),
    "ui": ("llmops.cli.administration:ui", "open MLflow's UI on the store"),
    "demo": ("labs.llm.demo", "run the whole loop on the default model"),
}
"""By name: the module that defines it, as its `command` or as the function named, and its line in the list."""

SUBCOMMANDS: Mapping[str, Mapping[str, str]] = {
    "eval": {
        "changed": "llmops.cli.eval_changed",
        "calibrate-judge": "llmops.cli.eval_judges",
        "pairwise": "llmops.cli.eval_judges",
    },
    "log": {
        "archive": "monitoring.cli.log_archive",
        "verify": "monitoring.cli.log_archive",
        "retain": "monitoring.cli.log_deletion",
        "forget": "monitoring.cli.log_deletion",
    },
    "monitor": {
        "daemon": "monitoring.cli.daemon",
        "policy": "monitoring.cli.daemon",
        "alarms": "monitoring.cli.daemon",
    },
}
"""By group and name: the module of a subcommand that is not defined beside its group; the function bears its name."""


class MainGroup(click.Group):
    """The commands of `COMMANDS`, listed without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), function or "command")
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """As click does, but without loading the commands for their help."""
        names = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, meaning) for name, (_, meaning) in COMMANDS.items()])


class CommandGroup(click.Group):
    """A group's own commands, and those that `SUBCOMMANDS` lists under the group's name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *SUBCOMMANDS[self.name or ""]})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = SUBCOMMANDS[self.name or ""].get(cmd_name)
        if module is None:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(importlib.import_module(module), cmd_name.replace("-", "_"))
        return command


@click.group(cls=MainGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
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
